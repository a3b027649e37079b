//! Files that are either whole or not there, and folders that only their owner may enter.

use mvm_core::VmDirs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Most bytes that a file of ours may have: they are small, and a larger one is not ours.
const LIMIT: u64 = 4 << 20;

/// Writes JSON as [`write`] does.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write(path, &serde_json::to_vec_pretty(value)?)
}

/// Writes through a temporary file, fsync and rename. Mode 0600.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Reads JSON, at most [`LIMIT`] bytes of it.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Makes a folder and its parents; the folder itself is 0700.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        }
        done => done,
    }
}

/// Removes a folder and all in it; one that is not there is fine.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes every file of a folder but one; a folder that is not there is fine.
pub(crate) fn keep_only(file: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(file.parent().unwrap_or(Path::new("."))) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path != file {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Removes the sockets of a folder that others work in; one that is not there is fine.
pub(crate) fn remove_sockets(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file whose content nobody is to find on the disk again; one that is not there is fine.
pub(crate) fn wipe(path: &Path) -> io::Result<()> {
    let over = || {
        let mut file = fs::File::options().write(true).open(path)?;
        let length = file.metadata()?.len();
        io::copy(&mut io::repeat(0).take(length), &mut file)?;
        file.sync_all()
    };
    match over() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        over => remove_file(path).and(over),
    }
}

/// Removes the folder of sockets, and the secrets of a guest that did not come to have them.
pub(crate) fn remove_runtime(vm: &VmDirs) -> io::Result<()> {
    let wiped = wipe(&vm.secrets_drive());
    remove_dir(vm.runtime()).and(wiped)
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wiped_is_nowhere_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("secret"), dir.path().join("other"));
        fs::write(&path, "geheim").unwrap();
        // Whoever still has it open sees what is left of it.
        fs::hard_link(&path, &other).unwrap();
        wipe(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read(&other).unwrap(), [0; 6]);
        wipe(&path).unwrap();
    }
}
