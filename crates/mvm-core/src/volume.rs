//! Volumes: file systems of a VM that outlive it.

use crate::size::mib_of;
use crate::{Diagnostic, ErrorKind};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A volume as an image or a user asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name among the VM's volumes, and that of its file: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    pub name: String,
    /// Where the guest mounts it: an absolute path.
    pub mount_point: String,
    /// Its size in MiB when it is made; one that is there stays as it is.
    #[serde(rename = "sizeMiB", default = "Volume::default_size")]
    pub size_mib: u64,
    /// Who owns the mount point: `USER` or `USER:GROUP`; as it is where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The mount point's mode, in octal; as it is where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Why a volume was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("volume {volume:?}: {why}")]
pub struct VolumeError {
    /// The volume's name, or the whole text where it has none.
    pub volume: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Diagnostic for VolumeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("write it as NAME:/PATH or NAME:/PATH:SIZE, as in data:/var/lib/db:4G".into())
    }
}

impl Volume {
    /// Most volumes of a VM.
    pub const MOST: usize = 16;
    /// The least that has room for a journal, in MiB.
    const MIN_MIB: u64 = 16;
    /// What ext4 with blocks of 4 KiB holds, in MiB: 16 TiB.
    const MAX_MIB: u64 = 16 << 20;

    /// MiB where nobody says how many. A volume takes of the host's disk what is written to it.
    const fn default_size() -> u64 {
        8 << 10
    }

    /// What the guest mounts something over by itself, and what a volume over it would hide: its programs, its agent, and
    /// the policy that no host can change.
    const TAKEN: [&str; 8] =
        ["/dev", "/etc/mvm/guest.json", "/nix/store", "/proc", "/run", "/sbin/mvm-guest", "/sys", "/tmp"];

    /// Checks volumes, each by itself and together.
    pub fn check_all(volumes: &[Self]) -> Result<(), VolumeError> {
        for (n, volume) in volumes.iter().enumerate() {
            volume.check()?;
            let before = &volumes[..n];
            let fail = |why| Err(VolumeError { volume: volume.name.clone(), why });
            if n >= Self::MOST {
                return fail("it is the 17th; a VM may have 16");
            }
            if before.iter().any(|other| other.name == volume.name) {
                return fail("there are two of this name");
            }
            if before.iter().any(|other| other.mount_point == volume.mount_point) {
                return fail("another volume is mounted at the same place");
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), VolumeError> {
        let fail = |why| Err(VolumeError { volume: self.name.clone(), why });
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
        if !(1..=32).contains(&self.name.len()) || !self.name.bytes().all(fits) || self.name.starts_with('-') {
            return fail("a name has 1 to 32 lower-case letters, digits, `_` and `-`, and begins with no hyphen");
        }
        let path = &self.mount_point;
        let steps = || path.split('/').skip(1);
        if !path.starts_with('/') || path.len() > 255 || path.chars().any(char::is_control) {
            return fail("the mount point is an absolute path of at most 255 printable characters");
        }
        if steps().any(|step| matches!(step, "" | "." | "..")) {
            return fail("the mount point is a path without `.`, `..`, doubled or trailing slashes, and not `/`");
        }
        let within =
            |path: &str, of: &str| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if Self::TAKEN.into_iter().any(|taken| within(path, taken) || within(taken, path)) {
            return fail("the guest needs something else at its mount point, or below it");
        }
        if !(Self::MIN_MIB..=Self::MAX_MIB).contains(&self.size_mib) {
            return fail("its size is 16M to 16T");
        }
        if self.owner.as_ref().is_some_and(|owner| !(1..=64).contains(&owner.len())) {
            return fail("an owner has 1 to 64 characters");
        }
        let octal = |mode: &String| u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o7777);
        if self.mode.as_ref().is_some_and(|mode| !octal(mode)) {
            return fail("a mode is an octal number up to 7777");
        }
        Ok(())
    }
}

impl FromStr for Volume {
    type Err = VolumeError;
    fn from_str(text: &str) -> Result<Self, VolumeError> {
        let fail = |why| VolumeError { volume: text.into(), why };
        let (name, rest) = text.split_once(':').ok_or_else(|| fail("no colon between name and mount point"))?;
        let (mount_point, size_mib) = match rest.rsplit_once(':') {
            Some((path, size)) => {
                (path, mib_of(size).map_err(|_| fail("its size is no number with an optional unit"))?)
            }
            None => (rest, Self::default_size()),
        };
        let volume = Self { name: name.into(), mount_point: mount_point.into(), size_mib, owner: None, mode: None };
        volume.check()?;
        Ok(volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<(String, String, u64), &'static str> {
        text.parse::<Volume>().map(|v| (v.name, v.mount_point, v.size_mib)).map_err(|error| error.why)
    }

    #[test]
    fn volumes_as_people_write_them() {
        assert_eq!(read("data:/var/lib/db"), Ok(("data".into(), "/var/lib/db".into(), 8192)));
        assert_eq!(read("d_1:/srv:4G"), Ok(("d_1".into(), "/srv".into(), 4096)));
        assert_eq!(read("d:/device:64"), Ok(("d".into(), "/device".into(), 64)));
        assert_eq!(read("d:/etc/app:64"), Ok(("d".into(), "/etc/app".into(), 64)));
    }

    #[test]
    fn what_cannot_be_a_volume_is_named() {
        for (text, word) in [
            ("/data", "no colon"),
            (":/data", "a name has"),
            ("-d:/data", "a name has"),
            ("../x:/data", "a name has"),
            ("Data:/data", "a name has"),
            ("d:data", "absolute path"),
            ("d:", "absolute path"),
            ("d:/", "not `/`"),
            ("d:/a/../b", "without `.`"),
            ("d:/a//b", "without `.`"),
            ("d:/a/", "without `.`"),
            ("d:/a\nb", "printable"),
            ("d:/proc", "something else"),
            ("d:/run/secrets/x", "something else"),
            ("d:/nix", "something else"),
            ("d:/etc", "something else"),
            ("d:/etc/mvm", "something else"),
            ("d:/sbin", "something else"),
            ("d:/data:8M", "16M to 16T"),
            ("d:/data:17T", "16M to 16T"),
            ("d:/data:big", "its size is no number"),
        ] {
            assert!(read(text).unwrap_err().contains(word), "{text}: {:?}", read(text));
        }
    }

    #[test]
    fn volumes_get_along_with_each_other() {
        let volume = |text: &str| text.parse::<Volume>().unwrap();
        let both = |a, b| Volume::check_all(&[volume(a), volume(b)]).map_err(|error| error.why);
        assert_eq!(both("a:/a", "b:/a/b"), Ok(()));
        assert!(both("a:/a", "a:/b").unwrap_err().contains("two of this name"));
        assert!(both("a:/a", "b:/a").unwrap_err().contains("same place"));
        let many: Vec<_> = (0..17).map(|n| volume(&format!("v{n}:/v{n}"))).collect();
        assert_eq!(Volume::check_all(&many[..16]), Ok(()));
        assert!(Volume::check_all(&many).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Volume>();
        }
    }
}
