//! The two documents that tell a guest what it is: its configuration and its manifest.

use crate::drives;
use mvm_core::{GUEST_MANIFEST_PATH, GUEST_SCHEMA, GuestConfig, GuestManifest, labels};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes of either.
const LIMIT: u64 = 1 << 20;

/// Reads the configuration from its drive, which is mounted for that moment only: it holds the guest's secret key.
pub(super) fn config() -> io::Result<GuestConfig> {
    let device = drives::wait_for(labels::CONFIG)?;
    let at = Path::new("/run/mvm-config");
    fs::create_dir(at)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(&device, at, "ext4", flags, None)?;
    let config = read(&at.join("config.json"), |config: &GuestConfig| config.schema);
    unmount(at, UnmountFlags::empty())?;
    fs::remove_dir(at)?;
    config
}

/// Reads the manifest of the image.
pub(super) fn manifest() -> io::Result<GuestManifest> {
    read(Path::new(GUEST_MANIFEST_PATH), |manifest: &GuestManifest| manifest.schema)
}

fn read<T: DeserializeOwned>(path: &Path, schema: impl Fn(&T) -> u32) -> io::Result<T> {
    let because = |why: String| io::Error::other(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error| because(error.to_string()))?;
    if bytes.len() as u64 > LIMIT {
        return Err(because(format!("larger than {LIMIT} bytes")));
    }
    let value: T = serde_json::from_slice(&bytes).map_err(|error| because(error.to_string()))?;
    match schema(&value) {
        found if found > GUEST_SCHEMA => {
            Err(because(format!("schema {found} is newer than this mvm-guest, which reads {GUEST_SCHEMA}")))
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
        fs::write(&path, text).unwrap();
        read(&path, |manifest: &GuestManifest| manifest.schema)
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
        let gone = read(Path::new("/nonexistent/guest.json"), |manifest: &GuestManifest| manifest.schema);
        assert!(gone.unwrap_err().to_string().contains("/nonexistent/guest.json: No such file"));
    }
}
