//! Stage 1: from the initramfs (or the bare root that the kernel mounted) to the guest's own root.
//!
//! `mvm-root` is mounted read-only, for all VMs of an image share it; over it lies `mvm-rw`, the VM's own writable
//! layer, or memory where there is none; or nothing, where the image says so. The process stays the same: to execute the
//! program again from its new root would cost an emulated guest a tenth of a second.

use crate::documents;
use crate::drives;
use mvm_core::{GUEST_MANIFEST_PATH, labels};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, unmount};
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The layer under the root that is written to. It is mounted nowhere: nothing writes to it past the overlay by mistake.
pub struct WritableLayer(pub OwnedFd);

/// `statfs` types of the file systems that an initramfs can be (Linux `include/uapi/linux/magic.h`).
const RAMFS_MAGIC: u64 = 0x8584_58f6;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Makes the guest's root this process's own. `None` where nobody writes to it.
pub fn run() -> io::Result<Option<WritableLayer>> {
    for dir in ["/dev", "/proc", "/sys"] {
        // In the initramfs they are there or can be made; on a bare root they are there.
        let _ = fs::create_dir(dir);
    }
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount_fs("proc", "/proc", plain, None)?;
    mount_fs("sysfs", "/sys", plain, None)?;
    mount_fs("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC, None)?;
    load_modules(Path::new("/modules"))?;
    let root = drives::wait_for(labels::ROOT)?;
    // A memory file system holds the mount points: the initramfs goes, and a bare root cannot be written to.
    let _ = fs::create_dir("/mnt");
    mount_fs("tmpfs", "/mnt", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))?;
    for dir in ["/mnt/lower", "/mnt/rw", "/mnt/root"] {
        fs::create_dir(dir)?;
    }
    mount_ext4(&root, "/mnt/lower", MountFlags::RDONLY | MountFlags::NOATIME)?;
    // What the image itself says, which no layer over it can change.
    let manifest = Path::new("/mnt/lower").join(GUEST_MANIFEST_PATH.trim_start_matches('/'));
    let read_only = documents::manifest(&manifest).is_ok_and(|manifest| manifest.read_only_root);
    let (root, layer) = if read_only { ("/mnt/lower", None) } else { ("/mnt/root", Some(lay_over()?)) };
    for dir in ["/dev", "/proc", "/sys"] {
        let to = format!("{root}{dir}");
        fs::create_dir_all(&to)?;
        mount_move(dir, to)?;
    }
    // What lies in an initramfs is memory. Where the kernel has mounted a drive instead, it is the image.
    if rustix::fs::statfs("/init").is_ok_and(|of| matches!(of.f_type as u64, RAMFS_MAGIC | TMPFS_MAGIC)) {
        let _ = fs::remove_dir_all("/modules");
        let _ = fs::remove_file("/init");
    }
    std::env::set_current_dir(root)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    Ok(layer)
}

/// Mounts on `/mnt/root` what lies in `/mnt/lower`, with the layer over it that is written to.
fn lay_over() -> io::Result<WritableLayer> {
    match drives::by_label(labels::WRITABLE)? {
        Some(device) => mount_ext4(&device, "/mnt/rw", MountFlags::NOATIME)?,
        None => mount_fs("tmpfs", "/mnt/rw", MountFlags::empty(), Some(c"mode=0755"))?,
    }
    for dir in ["/mnt/rw/upper", "/mnt/rw/work"] {
        fs::create_dir_all(dir)?;
    }
    let layers = c"lowerdir=/mnt/lower,upperdir=/mnt/rw/upper,workdir=/mnt/rw/work";
    mount_fs("overlay", "/mnt/root", MountFlags::NOATIME, Some(layers))?;
    // The overlay holds its layers by itself.
    let layer = openat(CWD, "/mnt/rw", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    unmount("/mnt/rw", UnmountFlags::DETACH)?;
    unmount("/mnt/lower", UnmountFlags::DETACH)?;
    Ok(WritableLayer(layer))
}

/// Mounts a file system that has no device.
pub fn mount_fs(kind: &str, at: &str, flags: MountFlags, options: Option<&CStr>) -> io::Result<()> {
    mount(kind, at, kind, flags, options).map_err(|e| other(format!("cannot mount {kind} on {at}: {e}")))
}

fn mount_ext4(device: &Path, at: &str, flags: MountFlags) -> io::Result<()> {
    mount(device, at, "ext4", flags, None).map_err(|e| other(format!("cannot mount {}: {e}", device.display())))
}

fn load_modules(dir: &Path) -> io::Result<()> {
    let mut files: Vec<_> = match fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
        Err(_) => return Ok(()),
    };
    files.sort();
    for path in files {
        let file = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // One that a guest can do without must not keep it from booting; one that it cannot is missed soon enough.
            Err(e) => drop(fs::write("/dev/console", format!("mvm: module {}: {e}\n", path.display()))),
        }
    }
    Ok(())
}

fn other(message: String) -> io::Error {
    io::Error::other(message)
}
