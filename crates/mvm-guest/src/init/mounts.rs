//! The file systems of a running guest: mounted first, closed last.

use super::say;
use crate::stage1::{WritableLayer, mount_fs};
use rustix::mount::{
    FsPickFlags, MountFlags, UnmountFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick, mount_remount, unmount,
};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;

/// What no file system of a device holds.
const PRIVATE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Mounts what an init finds mounted, mvm's or another (<https://systemd.io/INITRD_INTERFACE/>).
pub(super) fn mount_common() -> io::Result<()> {
    for (kind, at, flags, options) in [
        ("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, c"gid=5,mode=620,ptmxmode=666"),
        ("tmpfs", "/dev/shm", PRIVATE, c"mode=1777"),
        ("tmpfs", "/run", PRIVATE, c"mode=0755"),
    ] {
        fs::create_dir_all(at)?;
        mount_fs(kind, at, flags, Some(options))?;
    }
    for (target, name) in [("fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")] {
        // The kernel made /dev a moment ago; a program that misses these says so itself.
        let _ = symlink(format!("/proc/self/{target}"), format!("/dev/{name}"));
    }
    Ok(())
}

/// Mounts what is left to an init, where that is mvm's.
pub(super) fn mount_own() -> io::Result<()> {
    fs::create_dir_all("/tmp")?;
    mount_fs("tmpfs", "/tmp", PRIVATE, Some(c"mode=1777"))?;
    // A kernel without control groups is fine: nothing here needs them.
    let _ = mount_fs("cgroup2", "/sys/fs/cgroup", PRIVATE | MountFlags::NOEXEC, None);
    Ok(())
}

/// Makes every file system safe to lose power on. `false` where one could not be: its journal will be replayed.
pub(super) fn close(layer: Option<&WritableLayer>) -> bool {
    rustix::fs::sync();
    let mut clean = true;
    let mut closed = |what: &str, result: rustix::io::Result<()>| {
        if let Err(error) = result {
            clean = false;
            say(&format!("{what} cannot be closed: {error}"));
        }
    };
    for at in disks(&fs::read("/proc/self/mounts").unwrap_or_default()) {
        let result = unmount(&at, UnmountFlags::empty()).or_else(|_| mount_remount(&at, MountFlags::RDONLY, c""));
        closed(&at.to_string_lossy(), result);
    }
    closed("the root", mount_remount("/", MountFlags::RDONLY, c""));
    if let Some(layer) = layer {
        closed("the writable layer", make_read_only(layer));
    }
    rustix::fs::sync();
    clean
}

/// The layer has no mount point any more, so it is reached by its descriptor.
fn make_read_only(layer: &WritableLayer) -> rustix::io::Result<()> {
    let context = fspick(&layer.0, c"", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
    fsconfig_set_flag(&context, c"ro")?;
    fsconfig_reconfigure(&context)
}

/// Where block devices are mounted, the latest first.
fn disks(mounts: &[u8]) -> Vec<OsString> {
    let mut found: Vec<_> = mounts
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"/dev/"))
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(1))
        .map(unescape)
        .collect();
    found.reverse();
    found
}

/// The kernel writes a blank, a tabulator, a line's end and a backslash as `\` and three octal digits.
fn unescape(text: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, tail) {
            plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_closed_from_the_top() {
        let mounts = b"proc /proc proc rw 0 0\noverlay / overlay rw 0 0\n/dev/vdd /data ext4 rw 0 0\n\
                       /dev/vde /data/a\\040b\\134 ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(disks(mounts), ["/data/a b\\", "/data"]);
        assert!(disks(b"").is_empty());
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(b"a\\9\\04"), "a\\9\\04");
    }
}
