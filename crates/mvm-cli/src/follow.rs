//! A log file that grows and is rotated, read as it does: woken by the system, never by a clock.

use crate::changes::Changes;
use mvm_core::Fault;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most bytes in one piece.
const PIECE: usize = 64 * 1024;
/// Longest line that counts as one.
const LINE_LIMIT: usize = 64 * 1024;

/// The last lines of what it is given.
pub(crate) struct Tail {
    wanted: usize,
    lines: VecDeque<Vec<u8>>,
}

impl Tail {
    /// So many lines.
    pub(crate) fn new(wanted: usize) -> Self {
        Self { wanted, lines: VecDeque::new() }
    }

    /// What comes next. It may begin and end within a line.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match self.lines.back_mut().filter(|line| !line.ends_with(b"\n") && line.len() < LINE_LIMIT) {
                Some(line) => line.extend_from_slice(piece),
                None => self.lines.push_back(piece.to_vec()),
            }
            if self.lines.len() > self.wanted {
                self.lines.pop_front();
            }
        }
    }

    /// Those lines, as they were given.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.lines.into_iter().flatten().collect()
    }
}

/// A reader at some place of a log.
pub(crate) struct LogFollower {
    path: PathBuf,
    file: Option<File>,
    changes: Changes,
}

impl LogFollower {
    /// Reads the log at `path`, whose folder exists, from its start.
    pub(crate) fn open(path: &Path) -> Result<Self, Fault> {
        let open = || -> io::Result<Self> {
            // The watch first: what is written from now on is either read or told.
            let changes = Changes::of(path.parent().unwrap_or(Path::new(".")))?;
            let file = File::open(path).ok();
            file.as_ref().map_or(Ok(()), |file| changes.also_of(file))?;
            Ok(Self { path: path.into(), file, changes })
        };
        open().map_err(|e| Fault::unexpected(&format!("cannot follow {}", path.display()), &e))
    }

    /// What has been written since; empty at the end of what there is.
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, Fault> {
        let mut read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            if let Some(file) = &mut self.file {
                file.take(PIECE as u64).read_to_end(&mut bytes)?;
                if !bytes.is_empty() {
                    return Ok(bytes);
                }
            }
            // The end of this file: where another has taken its place, go on there.
            let Ok(next) = File::open(&self.path) else { return Ok(bytes) };
            let place = |file: &File| file.metadata().map(|m| (m.dev(), m.ino()));
            let same = match &self.file {
                Some(file) => place(file)? == place(&next)?,
                None => false,
            };
            if !same {
                let mut next = next;
                self.changes.also_of(&next)?;
                (&mut next).take(PIECE as u64).read_to_end(&mut bytes)?;
                self.file = Some(next);
            }
            Ok(bytes)
        };
        read().map_err(|e| Fault::unexpected(&format!("cannot read {}", self.path.display()), &e))
    }

    /// Hands on all that has been written since.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
        loop {
            let bytes = self.read()?;
            if bytes.is_empty() {
                return Ok(());
            }
            take(&bytes)?;
        }
    }

    /// Returns when something has happened to the log. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        self.changes.next().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(wanted: usize, pieces: &[&[u8]]) -> Vec<u8> {
        let mut tail = Tail::new(wanted);
        pieces.iter().for_each(|piece| tail.push(piece));
        tail.into_bytes()
    }

    #[test]
    fn the_last_lines_stay_however_they_come() {
        assert_eq!(tail(2, &[b"a\nb", b"b\nc", b"c\n"]), b"bb\ncc\n");
        assert_eq!(tail(1, &[b"a\nb"]), b"b");
        assert_eq!(tail(9, &[b"a\n"]), b"a\n");
        assert_eq!(tail(0, &[b"a\nb", b"c\n"]), b"");
    }

    #[test]
    fn a_line_without_an_end_takes_no_end_of_memory() {
        let piece = vec![b'x'; LINE_LIMIT];
        assert_eq!(tail(2, &[&piece, &piece, &piece, b"y"]).len(), LINE_LIMIT + 1);
    }
}
