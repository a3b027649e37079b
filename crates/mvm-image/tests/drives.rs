//! The drives of a VM: what is in them, who may read them, and what is left when they cannot be written.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Home, cat, check_fs, config, dirs_in, names, stat};
use mvm_core::{Diagnostic, ErrorKind, Fault, GuestConfig};
use mvm_image::{GuestKernel, LAYER_SIZE, Stop, ensure_builtin, writable_layer, write_config_drive};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

fn label(image: &Path) -> String {
    String::from_utf8_lossy(&fs::read(image).unwrap()[1024 + 120..1024 + 136]).trim_end_matches('\0').to_string()
}

#[test]
fn a_config_drive_holds_the_configuration_and_nothing_of_the_one_before() {
    let home = Home::new();
    let dest = home.root.path().join("config.ext4");
    let mut first = config(&"f1".repeat(32));
    first.env.insert("LONG".into(), "x".repeat(100_000));
    for config in [first, config(&"5e".repeat(32))] {
        write_config_drive(&home.dirs, &dest, &config, &Stop::never()).unwrap();
        check_fs(&dest);
        assert_eq!(label(&dest), "mvm-config");
        let read: GuestConfig = serde_json::from_slice(&cat(&dest, "/config.json")).unwrap();
        assert_eq!(read, config);
        assert_eq!(fs::metadata(&dest).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let inode = stat(&dest, "/config.json");
    assert!(inode.contains("Mode:  0600") && inode.contains("User:     0   Group:     0"), "{inode}");
    let bytes = fs::read(&dest).unwrap();
    assert!(!bytes.windows(64).any(|w| w == "f1".repeat(32).as_bytes()), "the key of the start before is still there");
    // Nor does any key stay with the template.
    for name in names(&home.dirs.layers()) {
        let bytes = fs::read(home.dirs.layers().join(&name)).unwrap();
        assert!(!bytes.windows(64).any(|w| w == "5e".repeat(32).as_bytes()), "{name}");
    }
    assert_eq!(names(&home.dirs.layers()), [".lock", "config-v1.ext4"]);
    assert_eq!(names(home.root.path()), [".cache", "config.ext4"]);
}

#[test]
fn a_damaged_template_is_made_again() {
    let home = Home::new();
    let dest = home.root.path().join("config.ext4");
    write_config_drive(&home.dirs, &dest, &config("1"), &Stop::never()).unwrap();
    let template = home.dirs.layers().join("config-v1.ext4");
    for damage in [&b""[..], &[0; 1 << 20]] {
        fs::write(&template, damage).unwrap();
        write_config_drive(&home.dirs, &dest, &config("2"), &Stop::never()).unwrap();
        check_fs(&dest);
    }
}

#[test]
fn too_much_configuration_is_refused() {
    let home = Home::new();
    let mut config = config("1");
    config.env.insert("HUGE".into(), "x".repeat(300_000));
    let error = write_config_drive(&home.dirs, &home.root.path().join("c"), &config, &Stop::never()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.hint().unwrap().contains("-e"));
    assert!(!home.root.path().join("c").exists());
}

#[test]
fn a_writable_layer_is_sound_sparse_and_ready() {
    let home = Home::new();
    for name in ["a.ext4", "b.ext4"] {
        let dest = home.root.path().join(name);
        writable_layer(&home.dirs, &dest, &Stop::never()).unwrap();
        let meta = fs::metadata(&dest).unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (LAYER_SIZE, 0o600));
        assert!(meta.blocks() * 512 < 1 << 20, "takes {} bytes of the disk", meta.blocks() * 512);
        check_fs(&dest);
        let (_, said) = common::e2fs("dumpe2fs", &[dest.as_os_str()]);
        assert!(said.contains("Filesystem volume name:   mvm-rw"), "{said}");
        // What a killed guest wrote is found again, and no thread of the guest's kernel zeroes tables.
        assert!(said.contains("has_journal") && said.contains("metadata_csum"), "{said}");
        let groups = said.lines().filter(|l| l.starts_with("Group ") && l.contains("(Blocks")).count();
        assert_eq!(said.matches("ITABLE_ZEROED").count(), groups);
    }
    assert_eq!(names(&home.dirs.layers()).len(), 2);
}

#[test]
fn twenty_first_starts_at_once() {
    let home = Home::new();
    std::thread::scope(|scope| {
        for n in 0..20 {
            let home = &home;
            scope.spawn(move || {
                writable_layer(&home.dirs, &home.root.path().join(format!("{n}.rw")), &Stop::never()).unwrap();
                write_config_drive(
                    &home.dirs,
                    &home.root.path().join(format!("{n}.config")),
                    &config("1"),
                    &Stop::never(),
                )
                .unwrap();
            });
        }
    });
    assert_eq!(names(home.root.path()).len(), 41);
    assert_eq!(names(&home.dirs.layers()).len(), 3);
}

/// Runs this test once more in a mount namespace of its own, where it may mount a disk of any size; what it mounts
/// ends with it. `None` in there.
fn in_own_namespace(test: &str) -> Option<()> {
    const INSIDE: &str = "MVM_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let inner = unshare.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let out = inner.output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Some(())
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    if in_own_namespace("a_full_disk_is_told_and_nothing_is_left").is_some() {
        return;
    }
    let home = Home::new();
    #[track_caller]
    fn full(result: Result<(), mvm_image::ImageError>, path: &Path) {
        let fault = Fault::from(result.unwrap_err());
        assert!(fault.message.contains(path.to_str().unwrap()), "{}", fault.message);
        assert!(fault.message.contains("o space left on device"), "{}", fault.message);
        assert!(fault.hint.as_ref().is_some_and(|h| h.contains("free some space")), "{fault:?}");
    }
    // The VM's folder is on the full disk, the cache is not; a config drive of before stays as it was.
    let disk = Disk::mount(home.root.path().join("vm"), "1100k");
    let dest = disk.0.join("config.ext4");
    write_config_drive(&home.dirs, &dest, &config("before"), &Stop::never()).unwrap();
    let before = fs::read(&dest).unwrap();
    full(write_config_drive(&home.dirs, &dest, &config("after"), &Stop::never()), &dest);
    assert_eq!(names(&disk.0), ["config.ext4"]);
    assert!(fs::read(&dest).unwrap() == before);
    let dest = disk.0.join("rw.ext4");
    full(writable_layer(&home.dirs, &dest, &Stop::never()), &dest);
    assert_eq!(names(&disk.0), ["config.ext4"]);
    // The cache is on the full disk.
    let disk = Disk::mount(home.root.path().join("home"), "64k");
    let dirs = dirs_in(&disk.0);
    full(write_config_drive(&dirs, &home.root.path().join("c"), &config("1"), &Stop::never()), &dirs.layers());
    assert_eq!(names(&dirs.layers()), [".lock"]);
    full(writable_layer(&dirs, &home.root.path().join("rw"), &Stop::never()), &dirs.layers());
    assert_eq!(names(&dirs.layers()), [".lock"]);
    // There is room for the kernel of a built-in image, but not for all of it.
    let disk = Disk::mount(home.root.path().join("images"), "45m");
    let dirs = dirs_in(&disk.0);
    let modules = common::stock_kernel();
    let boot = fs::read_dir(modules.join("boot")).unwrap().map(|e| e.unwrap().path());
    let file = boot.into_iter().find(|p| p.file_name().unwrap().to_string_lossy().starts_with("vmlinuz")).unwrap();
    let kernel = GuestKernel { file, release: None, modules: None, config: None };
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|p| p.is_file()).unwrap();
    full(ensure_builtin(&dirs, busybox, &kernel, &Stop::never()).map(|_| ()), &dirs.images());
    assert_eq!(names(&dirs.images()), [".lock"]);
    assert!(!home.root.path().join("c").exists() && !home.root.path().join("rw").exists());
}

/// A disk of a given size; unmounted when the test ends, so that its folder can be removed.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir(&at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at).status();
        assert!(done.unwrap().success());
        Self(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
