//! Volumes on the host's disk: made once, sparse, and looked at before each start.

use crate::draft::PREFIX;
use crate::error::ImageError;
use crate::ext4::MakeExt4;
use crate::stop::Stop;
use crate::superblock::{self, Superblock};
use mvm_core::labels;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Makes an empty volume at `dest`, whole or not at all, readable by its owner only. Its folder has one writer at a time.
pub fn make_volume(dest: &Path, name: &str, size_mib: u64, stop: &Stop) -> Result<(), ImageError> {
    remove_volume_drafts(dest.parent().unwrap_or(Path::new(".")));
    // A label has 16 bytes, a name more: what is left beside the prefix is taken from its digest.
    let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    let make = MakeExt4 {
        label: &format!("{}{}", labels::DATA_PREFIX, &digest[..16 - labels::DATA_PREFIX.len()]),
        size: size_mib << 20,
        from: None,
        owners: &[],
        inodes: None,
        // A small volume has not much to spare; jbd2 wants 1024 blocks at least.
        journal: Some((size_mib / 32).clamp(4, 32) as u32),
    };
    make.write(dest, stop)
}

/// The label by which the guest finds a volume that is there, if it is one that can be given to a guest.
pub fn volume_label(path: &Path) -> Result<String, ImageError> {
    let fail = |why: String| ImageError::Volume { path: path.into(), why };
    let unreadable = |e: io::Error| ImageError::io("read", path)(e);
    let file = File::options().read(true).write(true).open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    const NOT_EXT4: &str = "it is not an ext4 file system";
    if length < superblock::RANGE.end {
        return Err(fail(NOT_EXT4.into()));
    }
    let mut block = [0; (superblock::RANGE.end - superblock::RANGE.start) as usize];
    file.read_exact_at(&mut block, superblock::RANGE.start).map_err(unreadable)?;
    let found = Superblock::parse(&block).ok_or_else(|| fail(NOT_EXT4.into()))?;
    if found.size > length {
        return Err(fail(format!("it is truncated: it has {length} of the {} bytes of its file system", found.size)));
    }
    // Its guest could have called it like another drive.
    match String::from_utf8(found.label) {
        Ok(label) if label.starts_with(labels::DATA_PREFIX) => Ok(label),
        other => {
            let label = other.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
            Err(fail(format!("it has the label {label:?}, and those of volumes begin with {:?}", labels::DATA_PREFIX)))
        }
    }
}

/// Removes what a killed process left in a folder of volumes. Best effort: it is in nobody's way.
pub fn remove_volume_drafts(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_volume_is_sparse_private_and_labelled() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!("{PREFIX}x")), "of a killed process").unwrap();
        let (a, b) = (dir.path().join("a.ext4"), dir.path().join("b.ext4"));
        make_volume(&a, "a", 4096, &Stop::never()).unwrap();
        make_volume(&b, "b", 16, &Stop::never()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let meta = fs::metadata(&a).unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (4 << 30, 0o600));
        assert!(meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
        let labels = [volume_label(&a).unwrap(), volume_label(&b).unwrap()];
        assert!(labels[0] != labels[1] && labels.iter().all(|l| l.starts_with("mvm-data-") && l.len() == 16));
    }

    #[test]
    fn what_is_no_volume_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ext4");
        let why = |path: &Path| match volume_label(path).unwrap_err() {
            ImageError::Volume { why, .. } => why,
            other => panic!("{other}"),
        };
        fs::write(&path, "short").unwrap();
        assert!(why(&path).contains("not an ext4"));
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        assert!(why(&path).contains("not an ext4"));
        make_volume(&path, "a", 16, &Stop::never()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"mvm-root\0", 1024 + 120).unwrap();
        assert!(why(&path).contains("\"mvm-root\""));
        file.set_len(8 << 20).unwrap();
        assert!(why(&path).contains("truncated"));
    }
}
