//! A root that nobody writes to: what has to be written lies in memory over it, and is gone with the VM.

use crate::stage1::mount_fs;
use rustix::mount::{MountFlags, mount_remount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where what is written lies.
const LAYERS: &str = "/run/mvm/layers";
/// Written to by init, for the guest's names, and by nobody after it.
const NAMES: &str = "/etc";
/// Where programs write.
const STATE: &str = "/var";

/// Makes what init and services need to write writable.
pub(super) fn cover() -> io::Result<()> {
    for at in [NAMES, STATE] {
        let (upper, work) = (format!("{LAYERS}{at}/upper"), format!("{LAYERS}{at}/work"));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir)?;
        }
        // The layer's own folder is the one that is seen.
        fs::set_permissions(&upper, fs::metadata(at)?.permissions())?;
        let options = format!("lowerdir={at},upperdir={upper},workdir={work}");
        let options = CString::new(options).map_err(io::Error::other)?;
        mount_fs("overlay", at, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME, Some(&options))?;
    }
    // Nothing is written past the overlays by mistake.
    fs::set_permissions(LAYERS, fs::Permissions::from_mode(0o700))
}

/// Lets nobody write to `/etc` any more.
pub(super) fn lock() -> io::Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    mount_remount(Path::new(NAMES), flags, c"").map_err(|e| io::Error::other(format!("{}: {e}", NAMES)))
}
