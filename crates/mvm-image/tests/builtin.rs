//! The built-in image, assembled from a real kernel and a real busybox. What mvm-guest does in it is tested where VMs
//! are booted; here a static program stands in for it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Home, cat, check_fs, names, stat, stock_kernel};
use mvm_core::{AccessPolicy, Diagnostic, ErrorKind, GuestManifest, KernelFormat};
use mvm_image::{GuestKernel, Image, Stop, ensure_builtin};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn kernel() -> GuestKernel {
    let folder = stock_kernel();
    let newest = |dir: &Path, prefix: &str| {
        let mut found = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        found.find(|p| p.file_name().unwrap().to_string_lossy().starts_with(prefix)).unwrap()
    };
    GuestKernel {
        file: newest(&folder.join("boot"), "vmlinuz-"),
        release: None,
        modules: Some(newest(&folder.join("lib/modules"), "")),
        config: Some(newest(&folder.join("boot"), "config-")),
    }
}

fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|p| p.is_file()).unwrap()
}

/// A program that could be mvm-guest.
fn guest(home: &Home, name: &str) -> PathBuf {
    let path = home.root.path().join(name);
    let mut bytes = fs::read(busybox()).unwrap();
    bytes.extend_from_slice(name.as_bytes());
    fs::write(&path, bytes).unwrap();
    path
}

/// Images, without locks and indexes.
fn images(home: &Home) -> Vec<String> {
    names(&home.dirs.images()).into_iter().filter(|n| !n.starts_with('.')).collect()
}

/// Names and sizes of the entries of a newc archive.
fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut rest = archive;
    let mut found = Vec::new();
    loop {
        let mut reader = cpio::newc::Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            return found;
        }
        let (name, mode) = (reader.entry().name().to_string(), reader.entry().mode());
        assert_eq!((reader.entry().mtime(), reader.entry().uid(), reader.entry().gid()), (0, 0, 0));
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
        rest = reader.finish().unwrap();
        found.push((name, mode, bytes));
    }
}

#[test]
fn it_is_a_good_image_with_everything_in_it() {
    let home = Home::new();
    let guest = guest(&home, "guest");
    let folder = ensure_builtin(&home.dirs, &guest, &kernel(), &Stop::never()).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o755);
    let image = Image::open(&folder).unwrap();
    let x86 = std::env::consts::ARCH == "x86_64";
    assert_eq!(image.manifest().kernel.format, if x86 { KernelFormat::Elf } else { KernelFormat::Image });
    assert_eq!(image.manifest().policy, AccessPolicy::OPEN);
    // Debian's kernel does not take its drives from the command line.
    assert_eq!(image.manifest().cmdline, "");

    let rootfs = image.rootfs();
    check_fs(rootfs);
    assert!(cat(rootfs, "/sbin/mvm-guest") == fs::read(&guest).unwrap());
    let manifest: GuestManifest = serde_json::from_slice(&cat(rootfs, "/etc/mvm/guest.json")).unwrap();
    assert_eq!(manifest.policy, AccessPolicy::OPEN);
    for (path, words) in [
        ("/", ["Mode:  0755", "User:     0"]),
        ("/bin/busybox", ["Mode:  0755", "User:     0"]),
        ("/bin/sh", ["Type: symlink", "Fast link dest: \"busybox\""]),
        ("/usr/bin", ["Type: symlink", "\"../bin\""]),
        ("/tmp", ["Mode:  01777", "User:     0"]),
        ("/root", ["Mode:  0700", "User:     0"]),
        ("/home/user", ["Mode:  0755", "User:  1000"]),
        ("/etc/shadow", ["Mode:  0600", "User:     0"]),
        ("/etc/resolv.conf", ["Mode:  0644", "Size: 0"]),
    ] {
        let stat = stat(rootfs, path);
        assert!(words.iter().all(|w| stat.contains(w)), "{path}: {stat}");
    }

    let entries = entries(&fs::read(image.initrd().unwrap()).unwrap());
    let at = |name: &str| entries.iter().position(|(n, ..)| n == name || n.ends_with(&format!("-{name}.ko")));
    let init = &entries[at("init").unwrap()];
    assert!(init.1 == 0o100_755 && init.2 == fs::read(&guest).unwrap());
    for dir in ["dev", "proc", "sys", "mnt", "modules"] {
        assert_eq!(entries[at(dir).unwrap()].1, 0o040_755);
    }
    assert!(at("virtio_blk") > at("virtio_ring") && at("virtio_blk") > at("virtio"));
    assert!(at("vmw_vsock_virtio_transport") > at("vsock") && at("overlay").is_some() && at("virtio_mmio").is_some());
    let modules = entries.iter().filter(|(n, ..)| n.starts_with("modules/")).collect::<Vec<_>>();
    let mut sorted = modules.clone();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(modules, sorted);
    for (name, _, bytes) in modules {
        assert!(bytes.starts_with(b"\x7fELF"), "{name}");
        assert!(!bytes.windows(6).any(|w| w == b"\0.BTF\0"), "{name} has type information");
    }
}

#[test]
fn the_second_time_nothing_is_made_or_read() {
    let home = Home::new();
    let guest = guest(&home, "guest");
    let kernel = kernel();
    let folder = ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap();
    let inode = |p: &Path| fs::metadata(p).map(|m| (m.ino(), m.ctime(), m.ctime_nsec())).unwrap();
    let before = (inode(&folder), inode(&home.dirs.images()));
    assert_eq!(ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap(), folder);
    assert_eq!((inode(&folder), inode(&home.dirs.images())), before, "something was written");
    // The same content under a new time is the same image.
    let bytes = fs::read(&guest).unwrap();
    fs::write(&guest, &bytes).unwrap();
    assert_eq!(ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap(), folder);
    assert_eq!(images(&home).len(), 1);
    // Another content is another one, and the first is still there.
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&guest, other).unwrap();
    assert_ne!(ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap(), folder);
    assert_eq!(images(&home).len(), 2);
    fs::write(&guest, &bytes).unwrap();
    assert_eq!(ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap(), folder);
    assert_eq!(inode(&folder), before.0);
}

#[test]
fn twenty_at_once_assemble_one_and_remove_what_a_killed_one_left() {
    let home = Home::new();
    let guest = guest(&home, "guest");
    let kernel = kernel();
    let draft = home.dirs.images().join(".draft-killed");
    fs::create_dir_all(draft.join("root/bin")).unwrap();
    fs::write(draft.join("rootfs.ext4"), "half").unwrap();
    let folders = std::thread::scope(|scope| {
        let all: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap()))
            .collect();
        all.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(folders.iter().all(|f| *f == folders[0]));
    assert_eq!(
        names(&home.dirs.images()),
        [".builtin.json", ".lock", folders[0].file_name().unwrap().to_str().unwrap()]
    );
}

#[test]
fn a_damaged_image_is_assembled_anew() {
    let home = Home::new();
    let guest = guest(&home, "guest");
    let kernel = kernel();
    let folder = ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap();
    fs::remove_file(folder.join("rootfs.ext4")).unwrap();
    assert_eq!(ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap(), folder);
    Image::open(&folder).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap(), folder);
    Image::open(&folder).unwrap();
    assert_eq!(images(&home).len(), 1);
}

#[test]
fn a_kernel_without_modules_is_told_by_its_configuration() {
    let home = Home::new();
    let guest = guest(&home, "guest");
    let config = home.root.path().join("config");
    fs::write(&config, "CONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n").unwrap();
    let kernel = GuestKernel { modules: None, config: Some(config), ..kernel() };
    let image = Image::open(&ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap()).unwrap();
    assert_eq!(image.manifest().cmdline, "acpi=off");
    let entries = entries(&fs::read(image.initrd().unwrap()).unwrap());
    assert!(!entries.iter().any(|(n, ..)| n.starts_with("modules/")));
}

#[test]
fn what_cannot_be_assembled_leaves_nothing() {
    let home = Home::new();
    let guest = guest(&home, "guest");
    let bad = home.root.path().join("vmlinux");
    fs::write(&bad, common::elf(false)).unwrap();
    let empty = home.root.path().join("modules");
    fs::create_dir(&empty).unwrap();
    for (kernel, why) in [
        (GuestKernel { file: bad, modules: None, ..kernel() }, "is for "),
        (GuestKernel { modules: Some(empty), ..kernel() }, "neither modules.dep nor modules.order"),
        (GuestKernel { file: "/nonexistent".into(), ..kernel() }, "/nonexistent"),
    ] {
        let error = ensure_builtin(&home.dirs, &guest, &kernel, &Stop::never()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(images(&home).len(), 0);
        assert!([ErrorKind::BuildFailed, ErrorKind::Unexpected].contains(&error.kind()), "{error}");
    }
    assert_eq!(names(&home.dirs.images()), [".lock"]);
}
