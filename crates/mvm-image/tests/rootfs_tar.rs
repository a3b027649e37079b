//! A root file system that mke2fs made is the same tree as a tar, and a damaged one is an error and nothing worse.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::e2fs;
use mvm_core::{Diagnostic, ErrorKind};
use mvm_image::{ImageError, Stop, stoppable, write_rootfs_tar};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// A file system made from a folder.
fn ext4(dir: &Path, from: &Path, size: u64) -> PathBuf {
    let image = dir.join("rootfs.ext4");
    File::create(&image).unwrap().set_len(size).unwrap();
    let args = ["-q", "-F", "-t", "ext4", "-L", "mvm-root", "-d"].map(OsStr::new);
    let (ok, said) = e2fs("mke2fs", &[&args[..], &[from.as_os_str(), image.as_os_str()]].concat());
    assert!(ok, "{said}");
    image
}

fn debugfs(image: &Path, command: &str) {
    let (ok, said) = e2fs("debugfs", &["-w".as_ref(), "-R".as_ref(), command.as_ref(), image.as_os_str()]);
    assert!(ok, "{said}");
}

#[derive(Debug, PartialEq)]
struct Entry {
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    content: Vec<u8>,
    target: Option<Vec<u8>>,
}

fn tree(image: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut bytes = Vec::new();
    write_rootfs_tar(image, &mut bytes, &Stop::never()).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut tree = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let known = Entry {
            kind: header.entry_type(),
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            mtime: header.mtime().unwrap(),
            target: entry.link_name_bytes().map(|name| name.to_vec()),
            content,
        };
        let path = entry.path_bytes().to_vec();
        let path = path.strip_prefix(b"./").unwrap_or(&path).to_vec();
        assert!(tree.insert(path, known).is_none(), "a name came twice");
    }
    tree
}

#[test]
fn the_tar_holds_what_the_file_system_holds() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    let write = |name: &[u8], mode: u32, content: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // Names with blanks, line ends, no UTF-8, as long as a name can be, and deeper than a tar header can say.
    let deep = [&b"\xff"[..], &[b'd'; 60], b"/", &[b'e'; 60], b"/", &[b'f'; 255], b"/", &[b'g'; 200]].concat();
    let files: [(&[u8], u32, &[u8]); 8] = [
        (b"bin/su", 0o4755, b"setuid"),
        (b"empty", 0o600, b""),
        (b"odd \n\t'\"\\* name", 0o644, b"odd"),
        (b"not utf-8 \xff\xfe", 0o640, b"bytes"),
        (&[b'n'; 255], 0o444, b"longest"),
        (&deep, 0o2711, b"deep"),
        (b"large", 0o644, &large),
        (b"...", 0o000, b"dots"),
    ];
    for (name, mode, content) in files {
        write(name, mode, content);
    }
    let mut sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sparse.seek(SeekFrom::Start(4 << 20)).unwrap();
    sparse.write_all(b"after a hole").unwrap();
    fs::hard_link(root.join("large"), root.join("the same")).unwrap();
    let long_target = "t/".repeat(150) + "end";
    for (name, target) in [("sh", "busybox"), ("up", "../etc//x/"), ("abs", "/nix/store/x"), ("long", &long_target)] {
        symlink(target, root.join("bin").join(name)).unwrap();
    }
    fs::create_dir(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // A folder of several blocks.
    for n in 0..400 {
        write(format!("many/{n:0100}").as_bytes(), 0o644, n.to_string().as_bytes());
    }
    let image = ext4(dir.path(), &root, 24 << 20);
    debugfs(&image, "set_inode_field /bin/su uid 70000");
    debugfs(&image, "set_inode_field /bin/su gid 1001");
    debugfs(&image, "set_inode_field /bin/su mtime @12345678");

    let tree = tree(&image);
    for (name, mode, content) in files {
        let entry = &tree[name];
        assert_eq!((entry.kind, entry.mode), (EntryType::Regular, mode), "{}", String::from_utf8_lossy(name));
        assert!(entry.content == content, "{}", String::from_utf8_lossy(name));
    }
    assert_eq!((tree[&b"bin/su"[..]].owner, tree[&b"bin/su"[..]].mtime), ((70000, 1001), 12_345_678));
    assert_eq!(tree[&b"sparse"[..]].content, fs::read(root.join("sparse")).unwrap());
    assert!(tree[&b"the same"[..]].content == large);
    assert_eq!((tree[&b"tmp"[..]].kind, tree[&b"tmp"[..]].mode), (EntryType::Directory, 0o1777));
    assert_eq!(tree[&b"fifo"[..]].kind, EntryType::Fifo);
    for (name, target) in
        [("bin/sh", "busybox"), ("bin/up", "../etc/x/"), ("bin/abs", "/nix/store/x"), ("bin/long", &long_target)]
    {
        assert_eq!(tree[name.as_bytes()].target.as_deref(), Some(target.as_bytes()));
    }
    assert_eq!(tree.keys().filter(|path| path.starts_with(b"many/")).count(), 400);
    // The root itself, what the folder holds, and nothing of ext4's own.
    assert!(tree.contains_key(&b""[..]) && !tree.keys().any(|path| path.starts_with(b"lost+found")));
    let parents: Vec<_> = tree.keys().filter(|path| path.starts_with(b"\xff")).map(Vec::len).collect();
    assert_eq!(parents.len(), 4);
}

fn refused(image: &Path, word: &str) {
    let error = write_rootfs_tar(image, std::io::sink(), &Stop::never()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageInvalid, "{error}");
    assert!(error.to_string().contains(word) && error.hint().is_some(), "{error}");
}

#[test]
fn what_would_never_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("a/b")).unwrap();
    let image = ext4(dir.path(), &root, 1 << 20);
    debugfs(&image, "link /a /a/b/again");
    refused(&image, "in a circle");
    fs::write(root.join("hole"), "").unwrap();
    let image = ext4(dir.path(), &root, 1 << 20);
    debugfs(&image, "set_inode_field /hole size 8589934592");
    refused(&image, "8 times its own bytes");
}

#[test]
fn a_name_that_means_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/.wh.passwd"), "").unwrap();
    refused(&ext4(dir.path(), &root, 1 << 20), "/etc/.wh.passwd");
}

#[test]
fn a_truncated_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), vec![7; 3 << 20]).unwrap();
    let image = ext4(dir.path(), &root, 8 << 20);
    File::options().write(true).open(&image).unwrap().set_len(2 << 20).unwrap();
    refused(&image, "/file");
    fs::write(&image, [0; 4096]).unwrap();
    refused(&image, "not an ext4");
}

#[test]
fn nobody_waits_for_what_nobody_wants() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let image = ext4(dir.path(), &root, 1 << 20);
    let (stopper, stop) = stoppable().unwrap();
    drop(stopper);
    assert!(matches!(write_rootfs_tar(&image, std::io::sink(), &stop), Err(ImageError::Stopped)));
    // A reader that has gone away is an error too.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(matches!(write_rootfs_tar(&image, writer, &Stop::never()), Err(ImageError::Io { .. })));
}

/// A small file system with a little of everything.
fn small() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/file"), vec![7; 50_000]).unwrap();
    symlink("x".repeat(80), root.join("a/b/link")).unwrap();
    fs::read(ext4(dir.path(), &root, 1 << 20)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_damage_does_damage(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        static SMALL: std::sync::OnceLock<(Vec<u8>, Vec<usize>)> = std::sync::OnceLock::new();
        // Where there is something, there is something to damage.
        let (bytes, used) = SMALL.get_or_init(|| {
            let bytes = small();
            let used = bytes.iter().enumerate().filter(|(_, byte)| ![0, 7].contains(*byte)).map(|(at, _)| at).collect();
            (bytes, used)
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(bytes, 0).unwrap();
        for (at, byte) in changes {
            file.as_file().write_all_at(&[byte], used[at.index(used.len())] as u64).unwrap();
        }
        let _ = write_rootfs_tar(file.path(), std::io::sink(), &Stop::never());
    }
}
