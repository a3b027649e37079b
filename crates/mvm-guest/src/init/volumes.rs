//! Volumes: mounted where the host says, and given to whom they belong.

use crate::agent::users::User;
use crate::drives;
use mvm_core::GuestVolume;
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// Mounts every volume. A guest that missed one would write to its root what was to be kept, so it does not go on.
pub(super) fn mount_all(volumes: &[GuestVolume]) -> io::Result<()> {
    for volume in volumes {
        let because =
            |error: io::Error| io::Error::other(format!("volume {} on {}: {error}", volume.name, volume.mount_point));
        mount_one(volume).map_err(because)?;
    }
    Ok(())
}

fn mount_one(volume: &GuestVolume) -> io::Result<()> {
    let at = Path::new(&volume.mount_point);
    let device = drives::wait_for(&volume.label)?;
    fs::create_dir_all(at)?;
    let covered = fs::metadata(at)?;
    mount(&device, at, "ext4", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME, None)?;
    // Data bases want an empty folder. One that something was recovered to stays, for it cannot be removed.
    let is_new = fs::remove_dir(at.join("lost+found")).is_ok();
    if is_new {
        // Where nobody says whose it is, it is whose the folder is that it covers: a service writes to it as it did there.
        chown(at, Some(covered.uid()), Some(covered.gid()))?;
        fs::set_permissions(at, covered.permissions())?;
    }
    if let Some(owner) = &volume.owner {
        let user = User::find(Some(owner)).map_err(|error| io::Error::other(error.message))?;
        chown(at, Some(user.uid), Some(user.gid))?;
    }
    if let Some(mode) = &volume.mode {
        let mode = u32::from_str_radix(mode, 8).map_err(io::Error::other)?;
        fs::set_permissions(at, fs::Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}
