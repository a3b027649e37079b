//! A file as lstat(2) tells of it, which is quick to ask, and its content where that does not settle the matter.

use nix_derivation::{HashAlgorithm, NixHasher, nixbase32};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Two changes within this time may get the same time stamp: the kernel's clock for files has ticks of at most 10 ms…
const FINE: Duration = Duration::from_millis(100);
/// …and the coarsest file systems count in steps of two seconds.
const COARSE: Duration = Duration::from_secs(3);
/// Larger files are not read: what depends on them is not remembered.
const MAX_FILE: u64 = 256 << 20;

const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const OWNER_MAY_EXECUTE: u32 = 0o100;

/// What lstat(2) says of a file. Any change of it shows here, unless it comes at the same time as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    mode: u32,
    size: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of what is there, itself where it is a symlink; `None` where nothing is.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        match path.symlink_metadata() {
            Ok(m) => Ok(Some(Self {
                mode: m.mode(),
                size: m.size(),
                inode: m.ino(),
                modified: (m.mtime(), m.mtime_nsec()),
                changed: (m.ctime(), m.ctime_nsec()),
            })),
            Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a later change is bound to show in the stamp, for one taken at `now`. Every change sets `changed`, and
    /// nobody can set it otherwise.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(fraction)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else { return false };
        // A file system that counts whole seconds has no fractions.
        let racy = if fraction == 0 { COARSE } else { FINE };
        SystemTime::UNIX_EPOCH + Duration::new(seconds, fraction) + racy < now
    }

    pub fn is_folder(&self) -> bool {
        self.mode & KIND == FOLDER
    }

    pub fn is_link(&self) -> bool {
        self.mode & KIND == LINK
    }

    /// What Nix takes into its store beside the content: the kind, and whether a file may be executed.
    pub fn nature(&self) -> u32 {
        let kind = self.mode & KIND;
        if kind == REGULAR { kind | self.mode & OWNER_MAY_EXECUTE } else { kind }
    }

    /// A digest of the content: of a file its bytes, of a symlink where it leads; a folder has none of its own.
    pub fn digest(&self, path: &Path) -> io::Result<String> {
        match self.mode & KIND {
            FOLDER => Ok(String::new()),
            LINK => Ok(digest(path.read_link()?.as_os_str().as_bytes())),
            REGULAR if self.size <= MAX_FILE => digest_of_file(path),
            // Nix takes no sockets and no pipes either.
            _ => Err(ErrorKind::Unsupported.into()),
        }
    }
}

/// A digest of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut hasher = NixHasher::new(HashAlgorithm::Sha256);
    hasher.update(bytes);
    nixbase32::encode(hasher.finalize().digest_as_bytes())
}

fn digest_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?.take(MAX_FILE);
    let (mut hasher, mut buffer) = (NixHasher::new(HashAlgorithm::Sha256), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(nixbase32::encode(hasher.finalize().digest_as_bytes())),
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_change_shows() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert_eq!(Stamp::of(&file).unwrap(), None);
        std::fs::write(&file, "one").unwrap();
        let first = Stamp::of(&file).unwrap().unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &file).unwrap();
        let second = Stamp::of(&file).unwrap().unwrap();
        assert_ne!(first, second, "another file of the same length");
        assert_ne!(digest(b"one"), second.digest(&file).unwrap());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_ne!(Stamp::of(&file).unwrap().unwrap().nature(), second.nature());
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("two", &file).unwrap();
        let link = Stamp::of(&file).unwrap().unwrap();
        assert!(link.is_link() && link.nature() != second.nature());
        assert_eq!(link.digest(&file).unwrap(), digest(b"two"), "nothing is followed");
    }

    /// As with Git's index: a file that was written just now may be written again without its times changing.
    #[test]
    fn what_is_young_is_not_settled() {
        let folder = tempfile::tempdir().unwrap();
        let stamp = Stamp::of(folder.path()).unwrap().unwrap();
        let seconds = stamp.changed.0;
        let after = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds as u64 * 1000 + ms);
        let fine = Stamp { changed: (seconds, 1_000_000), ..stamp };
        let coarse = Stamp { changed: (seconds, 0), ..stamp };
        for (stamp, ms, is_settled) in
            [(fine, 50, false), (fine, 150, true), (coarse, 2500, false), (coarse, 3500, true)]
        {
            assert_eq!(stamp.is_settled(after(ms)), is_settled, "{ms}");
        }
        assert!(!fine.is_settled(SystemTime::UNIX_EPOCH), "a time in the future says nothing");
    }
}
