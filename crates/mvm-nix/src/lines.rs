//! Splits a byte stream into lines of bounded length.

/// A longer line loses its tail. Nix puts one line of a build log, as JSON, on one line of its stream.
pub const MAX_LINE: usize = 256 * 1024;

/// Collects bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    lost: usize,
}

/// One line without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its bytes, or the first [`MAX_LINE`] of them.
    pub bytes: &'a [u8],
    /// Bytes beyond those.
    pub lost: usize,
}

impl Lines {
    /// Takes the next bytes of the stream and hands on each line that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(Line<'_>)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (head, tail) = bytes.split_at(end);
            if self.pending.is_empty() && self.lost == 0 && head.len() <= MAX_LINE {
                line(Line { bytes: head, lost: 0 });
            } else {
                self.keep(head);
                self.end(&mut line);
            }
            bytes = tail.get(1..).unwrap_or_default();
        }
        self.keep(bytes);
    }

    /// The stream has ended: hands on a last line that had no line feed.
    pub fn finish(&mut self, mut line: impl FnMut(Line<'_>)) {
        if !self.pending.is_empty() || self.lost > 0 {
            self.end(&mut line);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.pending.len();
        let (kept, lost) = bytes.split_at(room.min(bytes.len()));
        self.pending.extend_from_slice(kept);
        self.lost = self.lost.saturating_add(lost.len());
    }

    fn end(&mut self, line: &mut impl FnMut(Line<'_>)) {
        line(Line { bytes: &self.pending, lost: self.lost });
        self.pending.clear();
        self.lost = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> Vec<(Vec<u8>, usize)> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |l| out.push((l.bytes.to_vec(), l.lost)));
        }
        lines.finish(|l| out.push((l.bytes.to_vec(), l.lost)));
        out
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let half = vec![b'x'; MAX_LINE / 2 + 1];
        assert_eq!(split(&[&half, &half, b"\nshort\n"]), [(vec![b'x'; MAX_LINE], 2), (b"short".to_vec(), 0)]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(chunks in proptest::collection::vec("[ab\n]{0,8}", 0..8)) {
            let whole = chunks.concat();
            let mut want: Vec<_> = whole.split('\n').map(|l| (l.as_bytes().to_vec(), 0)).collect();
            if want.last().is_some_and(|(l, _)| l.is_empty()) { want.pop(); }
            let bytes: Vec<&[u8]> = chunks.iter().map(String::as_bytes).collect();
            prop_assert_eq!(split(&bytes), want);
        }
    }
}
