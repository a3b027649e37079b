//! Which built-in image belongs to which files, told by their stamps: so that the second `up` reads none of them.

use serde::{Deserialize, Serialize};
use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The index beside the images.
const FILE: &str = ".builtin.json";
/// Most bytes of the index, and most images in it; older ones are forgotten, and found again by their content.
const BYTES: u64 = 1 << 20;
const ENTRIES: usize = 16;

/// A file's identity at one moment. The change time is in it because no tool can set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    path: PathBuf,
    size: u64,
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn new(path: &Path, meta: &Metadata) -> Self {
        Self {
            path: path.into(),
            size: meta.len(),
            device: meta.dev(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn holds(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| *self == Self::new(&self.path, &meta))
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// Counts changes to how images are assembled.
    assembly: u32,
    /// The newest first.
    entries: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    image: String,
    /// Every file that the image was made of; those that were asked for come first.
    files: Vec<Stamp>,
}

impl Index {
    /// The index of a folder of images; empty where it cannot be read, for it can be made again.
    pub(super) fn read(images: &Path) -> Self {
        let path = images.join(FILE);
        if !fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= BYTES) {
            return Self::default();
        }
        let index: Option<Self> = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        index.filter(|index| index.assembly == super::inputs::ASSEMBLY).unwrap_or_default()
    }

    /// The image of these files, if none of them nor of those that they brought along has changed.
    pub(super) fn find(&self, sources: &[&Path]) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| {
            entry.files.len() >= sources.len()
                && entry.files.iter().zip(sources).all(|(stamp, source)| stamp.path == *source)
                && entry.files.iter().all(Stamp::holds)
        })?;
        // It becomes a path.
        (!entry.image.contains('/')).then_some(&entry.image)
    }

    /// Adds an image. Best effort: without the index the next `up` reads its files, and is right all the same.
    pub(super) fn remember(images: &Path, image: &str, files: &[Stamp]) {
        let mut index = Self::read(images);
        index.assembly = super::inputs::ASSEMBLY;
        index.entries.retain(|entry| entry.image != image);
        index.entries.insert(0, Entry { image: image.into(), files: files.into() });
        index.entries.truncate(ENTRIES);
        let write = || -> std::io::Result<()> {
            let mut draft = tempfile::Builder::new().prefix(crate::draft::PREFIX).tempfile_in(images)?;
            draft.write_all(&serde_json::to_vec(&index)?)?;
            draft.persist(images.join(FILE))?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "the index of built-in images cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_until_one_of_its_files_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let (a, b, module) = (file("a"), file("b"), file("module"));
        let stamps: Vec<Stamp> = [&a, &b, &module].map(|p| Stamp::new(p, &fs::metadata(p).unwrap())).into();
        Index::remember(dir.path(), "builtin-1", &stamps);
        let find = |sources: &[&Path]| Index::read(dir.path()).find(sources).map(str::to_string);
        assert_eq!(find(&[&a, &b]).as_deref(), Some("builtin-1"));
        assert_eq!(find(&[&b, &a]), None);
        // The same length and, if the clock is coarse, the same time: the inode tells.
        fs::write(dir.path().join("new"), "module").unwrap();
        fs::rename(dir.path().join("new"), &module).unwrap();
        assert_eq!(find(&[&a, &b]), None);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(find(&[&a, &b]), None);
    }
}
