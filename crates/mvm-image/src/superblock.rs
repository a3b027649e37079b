//! An ext4 superblock, as far as an image is judged by it (Linux `Documentation/filesystems/ext4/super.rst`).

/// Where it begins in a file system, and how many bytes it has.
pub(crate) const RANGE: std::ops::Range<u64> = 1024..2048;

/// What a superblock promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The label, as far as its first NUL.
    pub label: Vec<u8>,
    /// Bytes of the whole file system.
    pub size: u64,
    /// How many files it can hold.
    pub inodes: u32,
}

impl Superblock {
    /// Reads a superblock; `None` where it is none, or one that makes no sense.
    pub(crate) fn parse(block: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
        if block.get(56..58)? != [0x53, 0xef] {
            return None;
        }
        const INCOMPAT_64BIT: u32 = 0x80;
        let high = if u32_at(96)? & INCOMPAT_64BIT != 0 { u32_at(336)? } else { 0 };
        let blocks = u64::from(high) << 32 | u64::from(u32_at(4)?);
        // Blocks have 1 KiB << this; Linux knows up to 64 KiB.
        let shift = u32_at(24).filter(|s| *s <= 6)?;
        let size = blocks.checked_mul(1024 << shift).filter(|s| *s > 0)?;
        let label = block.get(120..136)?;
        let end = label.iter().position(|b| *b == 0).unwrap_or(label.len());
        Some(Self { label: label[..end].into(), size, inodes: u32_at(0)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(blocks: u32, shift: u32, label: &[u8]) -> Vec<u8> {
        let mut block = vec![0; 1024];
        block[4..8].copy_from_slice(&blocks.to_le_bytes());
        block[24..28].copy_from_slice(&shift.to_le_bytes());
        block[56..58].copy_from_slice(&[0x53, 0xef]);
        block[120..120 + label.len()].copy_from_slice(label);
        block
    }

    #[test]
    fn size_and_label() {
        let read = Superblock::parse(&block(10, 2, b"mvm-root")).unwrap();
        assert_eq!((read.size, &read.label[..]), (40_960, &b"mvm-root"[..]));
        let full = Superblock::parse(&block(1, 0, b"sixteen-bytes-xx")).unwrap();
        assert_eq!(full.label, b"sixteen-bytes-xx");
    }

    #[test]
    fn nonsense_is_none() {
        assert_eq!(Superblock::parse(&block(0, 0, b"")), None);
        assert_eq!(Superblock::parse(&block(1, 7, b"")), None);
        assert_eq!(Superblock::parse(&block(1, 0, b"")[..100]), None);
        let mut huge = block(u32::MAX, 6, b"");
        huge[96] = 0x80;
        huge[336..340].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Superblock::parse(&huge), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = Superblock::parse(&bytes);
        }
    }
}
