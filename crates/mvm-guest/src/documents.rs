//! The documents that tell a guest what it is and what it knows: its configuration, its manifest, its secrets.

use crate::drives;
use mvm_core::{GUEST_SCHEMA, GuestConfig, GuestManifest, Secrets, labels};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Most bytes of each.
const LIMIT: u64 = 1 << 20;

/// Reads the configuration from its drive.
pub fn config_from_drive() -> io::Result<GuestConfig> {
    from_drive(labels::CONFIG, "config.json", |config: &GuestConfig| config.schema)
}

/// Reads the secrets from their drive.
pub fn secrets_from_drive() -> io::Result<Secrets> {
    from_drive(labels::SECRETS, "secrets.json", |_| GUEST_SCHEMA)
}

/// Reads a document from its drive. What it holds is secret: the drive is mounted for that moment only, and where no path
/// leads to.
fn from_drive<T: DeserializeOwned>(label: &str, file: &str, schema: impl Fn(&T) -> u32) -> io::Result<T> {
    let device = drives::wait_for(label)?;
    let drive = mount_nowhere(&device)
        .map_err(|error| io::Error::other(format!("cannot mount {}: {error}", device.display())))?;
    read(drive.as_fd(), Path::new(file), schema)
}

/// Reads the configuration from a file.
pub fn config(path: &Path) -> io::Result<GuestConfig> {
    read(CWD, path, |config: &GuestConfig| config.schema)
}

/// Reads a configuration that has come over a lifeline.
pub fn config_from_lifeline(bytes: &[u8]) -> io::Result<GuestConfig> {
    parse(bytes, |config: &GuestConfig| config.schema)
}

/// Reads the manifest of the image.
pub fn manifest(path: &Path) -> io::Result<GuestManifest> {
    read(CWD, path, |manifest: &GuestManifest| manifest.schema)
}

/// The root of an ext4 that is mounted at no place: it is unmounted when the descriptor is closed.
fn mount_nowhere(device: &Path) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let closed = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, closed)
}

fn read<T: DeserializeOwned>(folder: impl AsFd, path: &Path, schema: impl Fn(&T) -> u32) -> io::Result<T> {
    let because = |why: String| io::Error::other(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    openat(folder, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|file| File::from(file).take(LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error| because(error.to_string()))?;
    if bytes.len() as u64 > LIMIT {
        return Err(because(format!("larger than {LIMIT} bytes")));
    }
    parse(&bytes, schema).map_err(|error| because(error.to_string()))
}

fn parse<T: DeserializeOwned>(bytes: &[u8], schema: impl Fn(&T) -> u32) -> io::Result<T> {
    let value: T = serde_json::from_slice(bytes)?;
    match schema(&value) {
        found if found > GUEST_SCHEMA => {
            Err(io::Error::other(format!("schema {found} is newer than this mvm-guest, which reads {GUEST_SCHEMA}")))
        }
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &[u8]) -> io::Result<GuestManifest> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest.json");
        std::fs::write(&path, text).unwrap();
        super::manifest(&path)
    }

    #[test]
    fn what_cannot_be_trusted_is_refused_by_name() {
        assert!(manifest(br#"{"schema":1,"policy":{"exec":true}}"#).unwrap().policy.exec);
        for (text, word) in [
            (&br#"{"schema":2,"policy":{"exec":true}}"#[..], "schema 2 is newer"),
            (b"{", "guest.json: EOF"),
            (&vec![b' '; LIMIT as usize + 1], "larger than"),
        ] {
            let error = manifest(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let gone = super::manifest(Path::new("/nonexistent/guest.json"));
        assert!(gone.unwrap_err().to_string().contains("/nonexistent/guest.json: No such file"));
    }
}
