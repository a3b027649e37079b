//! What `Image::open` accepts, and each way in which an image folder can break its contract.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::elf;
use mvm_core::{Diagnostic, ErrorKind};
use mvm_image::{Image, ImageError};
use std::env::consts::ARCH;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image folder that is as it should be, until a test breaks it.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kernel"), elf(true)).unwrap();
        fs::write(dir.path().join("initrd"), "cpio").unwrap();
        let folder = Self { dir };
        folder.rootfs("mvm-root");
        folder.manifest(|text| text);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A real file system of 1 MiB.
    fn rootfs(&self, label: &str) {
        let path = self.path("rootfs.ext4");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let mke2fs = if Path::new("/usr/sbin/mke2fs").exists() { "/usr/sbin/mke2fs" } else { "mke2fs" };
        let made = Command::new(mke2fs).args(["-q", "-F", "-t", "ext4", "-L", label]).arg(&path).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn manifest(&self, change: impl Fn(String) -> String) {
        let text = format!(
            r#"{{"schema":1,"name":"m","system":"{ARCH}-linux","kernel":{{"path":"kernel","format":"elf"}},
            "initrd":{{"path":"initrd"}},"rootfs":{{"path":"rootfs.ext4","fs":"ext4","sizeBytes":1048576}},
            "agent":{{"protocol":1,"version":"0.1.0"}}}}"#
        );
        fs::write(self.path("image.json"), change(text)).unwrap();
    }

    fn open(&self) -> Result<Image, ImageError> {
        Image::open(self.dir.path())
    }

    /// Asserts that it is refused, as what, with which words, and with advice.
    #[track_caller]
    fn refused(&self, kind: ErrorKind, words: &[&str]) {
        let error = self.open().unwrap_err();
        let fault = mvm_core::Fault::from(error);
        for word in words {
            assert!(fault.message.contains(word), "{word}: {}", fault.message);
        }
        assert_eq!(fault.kind, kind, "{}", fault.message);
        assert!(fault.hint.is_some(), "{}", fault.message);
    }
}

#[test]
fn a_good_image_gives_its_paths() {
    let folder = Folder::new();
    let image = folder.open().unwrap();
    let at = folder.dir.path().canonicalize().unwrap();
    assert_eq!(image.folder(), at);
    assert_eq!(image.kernel(), at.join("kernel"));
    assert_eq!(image.initrd(), Some(at.join("initrd").as_path()));
    assert_eq!(image.rootfs(), at.join("rootfs.ext4"));
    assert_eq!(image.manifest().name, "m");
    folder.manifest(|t| t.replace(r#""initrd":{"path":"initrd"},"#, "").replace(r#","sizeBytes":1048576"#, ""));
    assert_eq!(folder.open().unwrap().initrd(), None);
}

#[test]
fn links_inside_the_folder_are_followed() {
    let folder = Folder::new();
    fs::create_dir(folder.path("deep")).unwrap();
    fs::rename(folder.path("kernel"), folder.path("deep/vmlinux")).unwrap();
    symlink("deep/vmlinux", folder.path("kernel")).unwrap();
    assert!(folder.open().unwrap().kernel().ends_with("deep/vmlinux"));
}

#[test]
fn a_folder_that_is_none() {
    let folder = Folder::new();
    for path in [folder.path("absent"), folder.path("kernel")] {
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_manifest_that_is_none() {
    let folder = Folder::new();
    fs::remove_file(folder.path("image.json")).unwrap();
    folder.refused(ErrorKind::ImageInvalid, &["has no image.json"]);
    for (text, word) in [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        (r#"{"schema":2}"#, "schema 2"),
        (r#"{"schema":1,"name":"x"}"#, "missing field"),
    ] {
        fs::write(folder.path("image.json"), text).unwrap();
        folder.refused(ErrorKind::ImageInvalid, &[word]);
    }
    fs::write(folder.path("image.json"), " ".repeat(2 << 20)).unwrap();
    folder.refused(ErrorKind::ImageInvalid, &["more than 1024 KiB"]);
    fs::remove_file(folder.path("image.json")).unwrap();
    fs::create_dir(folder.path("image.json")).unwrap();
    folder.refused(ErrorKind::ImageInvalid, &["is not a file"]);
}

#[test]
fn a_manifest_that_never_ends_is_not_waited_for() {
    let folder = Folder::new();
    fs::remove_file(folder.path("image.json")).unwrap();
    let made = Command::new("mkfifo").arg(folder.path("image.json")).status().unwrap();
    assert!(made.success());
    folder.refused(ErrorKind::ImageInvalid, &["is not a file"]);
}

#[test]
fn paths_and_links_that_escape() {
    let folder = Folder::new();
    for path in ["../kernel", "/etc/passwd", "a/../../kernel"] {
        folder.manifest(|t| t.replace(r#""path":"kernel""#, &format!(r#""path":"{path}""#)));
        folder.refused(ErrorKind::ImageInvalid, &["kernel.path", "leaves the image folder"]);
    }
    folder.manifest(|t| t);
    for name in ["kernel", "initrd", "rootfs.ext4", "image.json"] {
        let folder = Folder::new();
        let outside = tempfile::tempdir().unwrap();
        fs::rename(folder.path(name), outside.path().join("x")).unwrap();
        symlink(outside.path().join("x"), folder.path(name)).unwrap();
        folder.refused(ErrorKind::ImageInvalid, &["leaves the image folder"]);
    }
    // A folder is no way out either.
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kernel"), elf(true)).unwrap();
    symlink(outside.path(), folder.path("sub")).unwrap();
    folder.manifest(|t| t.replace(r#""path":"kernel""#, r#""path":"sub/kernel""#));
    folder.refused(ErrorKind::ImageInvalid, &["leaves the image folder"]);
}

#[test]
fn files_that_are_not_there_or_no_files() {
    for name in ["kernel", "initrd", "rootfs.ext4"] {
        let folder = Folder::new();
        fs::remove_file(folder.path(name)).unwrap();
        folder.refused(ErrorKind::ImageInvalid, &[name, "does not exist"]);
        fs::create_dir(folder.path(name)).unwrap();
        folder.refused(ErrorKind::ImageInvalid, &[name, "is not a file"]);
    }
    let folder = Folder::new();
    fs::write(folder.path("initrd"), "").unwrap();
    folder.refused(ErrorKind::ImageInvalid, &["initrd", "is empty"]);
}

#[test]
fn kernels_of_another_format_or_cpu() {
    let folder = Folder::new();
    let mut bz = vec![0; 4096];
    bz[0x202..0x206].copy_from_slice(b"HdrS");
    let mut wide = bz.clone();
    wide[0x236] = 1;
    let mut arm = vec![0; 4096];
    arm[56..60].copy_from_slice(b"ARM\x64");
    let here = ARCH == "x86_64";
    let other = if here { arm.clone() } else { wide.clone() };
    let (own, own_word) = if here { (wide, "bzImage") } else { (arm, "Image") };
    for (bytes, words) in [
        (b"#!/bin/sh\n".to_vec(), ["is not a kernel", ""]),
        (Vec::new(), ["is not a kernel", ""]),
        (elf(false), ["is for ", ARCH]),
        (bz, ["is for 32-bit x86", ARCH]),
        (other, ["is for ", ARCH]),
        (own, [own_word, "image.json says \"elf\""]),
    ] {
        fs::write(folder.path("kernel"), bytes).unwrap();
        folder.refused(ErrorKind::ImageInvalid, &words);
    }
}

#[test]
fn images_of_another_system() {
    let folder = Folder::new();
    folder.manifest(|t| t.replace(&format!("{ARCH}-linux"), "riscv64-linux"));
    folder.refused(ErrorKind::ImageInvalid, &["riscv64-linux", ARCH]);
}

#[test]
fn root_file_systems_that_are_none() {
    let folder = Folder::new();
    let path = folder.path("rootfs.ext4");
    folder.rootfs("another");
    folder.refused(ErrorKind::ImageInvalid, &["another", "mvm-root"]);
    folder.rootfs("mvm-root");
    File::options().write(true).open(&path).unwrap().set_len(600 << 10).unwrap();
    folder.refused(ErrorKind::ImageInvalid, &["has 614400 bytes", "1048576"]);
    folder.manifest(|t| t.replace(r#","sizeBytes":1048576"#, ""));
    folder.refused(ErrorKind::ImageInvalid, &["truncated", "614400", "1048576"]);
    for length in [0, 512, 1500] {
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        folder.refused(ErrorKind::ImageInvalid, &["not an ext4"]);
    }
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    folder.refused(ErrorKind::ImageInvalid, &["not an ext4"]);
}
