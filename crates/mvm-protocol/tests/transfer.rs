//! `cp` between two folders over a socket pair, and archives that no honest sender makes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use mvm_protocol::transfer::{MAX_PATH, SpecialBits, TransferError, pull, push, receive, send};
use mvm_protocol::{
    ChannelKeys, ErrorCode, FrameType, GuestKeys, HEADER_LEN, RequestError, TransferSummary, accept, connect, encode,
};
use rustix::fs::{CWD, Timespec, Timestamps};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;
use tar::{EntryType, Header};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::Notify;

type Copied = Result<TransferSummary, TransferError>;

/// Copies over a socket pair: what the sender says, what the receiver says.
fn copy_with(source: &Path, dest: &Path, bits: SpecialBits) -> (Copied, Copied) {
    let (a, b) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let sender = scope.spawn(move || send(source, a, &mut |_| {}));
        let received = receive(dest, &b, bits, &mut |_| {});
        drop(b);
        (sender.join().unwrap(), received)
    })
}

fn copy(source: &Path, dest: &Path) -> Copied {
    let (sent, received) = copy_with(source, dest, SpecialBits::Drop);
    match received {
        Ok(received) => {
            assert_eq!(sent.unwrap(), received);
            Ok(received)
        }
        Err(error) => Err(error),
    }
}

/// Every path below a folder with its kind, mode, time and contents.
fn listing(root: &Path) -> Vec<(PathBuf, char, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if meta.is_dir() {
                found.push((name, 'd', meta.mode() & 0o7777, meta.mtime(), Vec::new()));
                folders.push(path);
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec();
                found.push((name, 'l', 0, meta.mtime(), target));
            } else {
                found.push((name, 'f', meta.mode() & 0o7777, meta.mtime(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_tree_arrives_as_it_was() {
    let (from, to) = (dir(), dir());
    let root = from.path().join("tree");
    fs::create_dir(&root).unwrap();
    let long: PathBuf = (0..40).map(|i| format!("folder-number-{i:04}")).collect();
    assert!(long.as_os_str().len() > 600);
    fs::create_dir_all(root.join(&long)).unwrap();
    fs::write(root.join(&long).join("deep"), "deep").unwrap();
    for name in [
        &b"-rf"[..],
        b"new\nline",
        b"\xff\xfe raw",
        b".hidden",
        b" ",
        b"*",
        &[b'n'; 255],
        b"\xff".repeat(200).as_slice(),
    ] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(root.join("empty"), "").unwrap();
    // Around the sizes where the ways of sending change.
    for size in [1usize, 511, 512, 513, 65_535, 65_536, 65_537, 131_071, 131_072, 131_073, 1_000_003] {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 7 + i / 251) as u8).collect();
        fs::write(root.join(format!("size-{size}")), bytes).unwrap();
    }
    fs::set_permissions(root.join("size-1"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(root.join("size-511"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::create_dir(root.join("locked")).unwrap();
    fs::write(root.join("locked/inside"), "x").unwrap();
    fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    symlink("empty", root.join("link")).unwrap();
    symlink("/nowhere/../at/./all//", root.join("dangling")).unwrap();
    symlink("x/".repeat(150), root.join("long link")).unwrap();
    for (i, (name, ..)) in listing(&root).iter().rev().enumerate() {
        set_time(&root.join(name), 1_000_000_000 + i as i64);
    }
    set_time(&root, 999);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o750)).unwrap();

    let summary = copy(&root, to.path()).unwrap();
    assert_eq!(listing(&root), listing(&to.path().join("tree")));
    let meta = fs::metadata(to.path().join("tree")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o750, 999));
    assert_eq!(summary.entries as usize, listing(&root).len() + 1);

    // The same under a new name, and its contents alone.
    copy(&root, &to.path().join("renamed")).unwrap();
    assert_eq!(listing(&root), listing(&to.path().join("renamed")));
    let bare = to.path().join("bare");
    copy(&root.join("."), &bare).unwrap();
    assert_eq!(listing(&root), listing(&bare));
    fs::create_dir(to.path().join("there")).unwrap();
    copy(&root.join("."), &to.path().join("there")).unwrap();
    assert_eq!(listing(&root), listing(&to.path().join("there")));
}

#[test]
fn a_file_goes_where_cp_would_put_it() {
    let (from, to) = (dir(), dir());
    let file = from.path().join("file");
    fs::write(&file, "new").unwrap();
    copy(&file, to.path()).unwrap();
    assert_eq!(fs::read(to.path().join("file")).unwrap(), b"new");
    copy(&file, &to.path().join("other")).unwrap();
    assert_eq!(fs::read(to.path().join("other")).unwrap(), b"new");

    // Over a file, through a link to one, over a link inside a folder.
    fs::write(to.path().join("other"), "old").unwrap();
    copy(&file, &to.path().join("other")).unwrap();
    assert_eq!(fs::read(to.path().join("other")).unwrap(), b"new");
    fs::write(to.path().join("aim"), "old").unwrap();
    symlink("aim", to.path().join("link")).unwrap();
    copy(&file, &to.path().join("link")).unwrap();
    assert_eq!(fs::read(to.path().join("aim")).unwrap(), b"new");
    assert!(to.path().join("link").is_symlink());
    fs::create_dir(to.path().join("inner")).unwrap();
    fs::write(to.path().join("aim"), "old").unwrap();
    symlink("../aim", to.path().join("inner/file")).unwrap();
    copy(&file, &to.path().join("inner")).unwrap();
    assert_eq!(fs::read(to.path().join("aim")).unwrap(), b"old");
    assert_eq!(fs::read(to.path().join("inner/file")).unwrap(), b"new");

    // What cannot be: no parent, a folder in the way, a file as parent, a link to nothing.
    for dest in ["none/x", "none/", "aim/", "aim/x", "aim/x/y"] {
        let error = copy(&file, &to.path().join(dest)).unwrap_err();
        assert!(matches!(error, TransferError::Conflict { .. } | TransferError::Dest { .. }), "{dest}: {error}");
    }
    symlink("void", to.path().join("broken")).unwrap();
    assert!(matches!(copy(&file, &to.path().join("broken")), Err(TransferError::Conflict { .. })));
    fs::create_dir_all(to.path().join("occupied/file")).unwrap();
    assert!(matches!(copy(&file, &to.path().join("occupied")), Err(TransferError::Conflict { .. })));
    let folder = from.path().join("folder");
    fs::create_dir(&folder).unwrap();
    assert!(matches!(copy(&folder, &to.path().join("aim")), Err(TransferError::Conflict { .. })));
    assert_eq!(leftovers(to.path()), Vec::<PathBuf>::new());
}

#[test]
fn folders_merge() {
    let (from, to) = (dir(), dir());
    fs::create_dir_all(from.path().join("d/sub")).unwrap();
    fs::write(from.path().join("d/sub/new"), "new").unwrap();
    fs::write(from.path().join("d/both"), "new").unwrap();
    fs::create_dir_all(to.path().join("d/sub")).unwrap();
    fs::write(to.path().join("d/sub/old"), "old").unwrap();
    fs::write(to.path().join("d/both"), "old").unwrap();
    fs::set_permissions(to.path().join("d/sub"), fs::Permissions::from_mode(0o711)).unwrap();
    copy(&from.path().join("d"), to.path()).unwrap();
    let read = |name: &str| fs::read_to_string(to.path().join(name)).unwrap();
    assert_eq!((read("d/sub/new"), read("d/sub/old"), read("d/both")), ("new".into(), "old".into(), "new".into()));
    assert_eq!(fs::metadata(to.path().join("d/sub")).unwrap().mode() & 0o777, 0o711);
}

#[cfg(target_os = "linux")]
#[test]
fn special_files_are_counted_or_refused() {
    let (from, to) = (dir(), dir());
    let root = from.path().join("d");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    rustix::fs::mknodat(CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let summary = copy(&root, to.path()).unwrap();
    assert_eq!((summary.entries, summary.skipped, summary.skipped_names.len()), (2, 2, 2));
    assert_eq!(listing(&to.path().join("d")).len(), 1);

    let (sent, received) = copy_with(&root.join("pipe"), to.path(), SpecialBits::Drop);
    assert!(matches!(sent, Err(TransferError::Special(_))));
    assert!(matches!(received, Err(TransferError::Aborted(e)) if e.code == ErrorCode::Invalid));
    let (sent, received) = copy_with(&from.path().join("absent"), to.path(), SpecialBits::Drop);
    assert!(matches!(sent, Err(TransferError::Source { .. })));
    assert!(matches!(received, Err(TransferError::Aborted(e)) if e.code == ErrorCode::NotFound));
}

#[cfg(target_os = "linux")]
#[test]
fn files_that_do_not_know_their_size_are_copied() {
    let to = dir();
    copy(Path::new("/proc/version"), to.path()).unwrap();
    assert_eq!(fs::read(to.path().join("version")).unwrap(), fs::read("/proc/version").unwrap());
}

#[test]
fn setuid_reaches_only_who_trusts_the_sender() {
    let (from, to) = (dir(), dir());
    let file = from.path().join("tool");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
    let mode = |name: &str| fs::metadata(to.path().join(name)).unwrap().mode() & 0o7777;
    copy_with(&file, &to.path().join("host"), SpecialBits::Drop).1.unwrap();
    copy_with(&file, &to.path().join("guest"), SpecialBits::Keep).1.unwrap();
    assert_eq!((mode("host"), mode("guest")), (0o755, 0o6755));
}

#[test]
fn a_file_that_changes_its_size_ends_the_copy() {
    use std::io::Read;
    for change in [-1i64, 1] {
        let (from, to) = (dir(), dir());
        let path = from.path().join("file");
        // More than all buffers between the two sides.
        let size = 8 << 20;
        fs::write(&path, vec![1; size]).unwrap();
        fs::write(to.path().join("file"), "precious").unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let (sender_path, change_path) = (path.clone(), path.clone());
            let sender = scope.spawn(move || {
                let mut changed = false;
                send(&sender_path, a, &mut |_| {
                    if !std::mem::replace(&mut changed, true) {
                        let file = fs::OpenOptions::new().write(true).open(&change_path).unwrap();
                        file.set_len((size as i64 + change) as u64).unwrap();
                    }
                })
            });
            let mut bytes = Vec::new();
            b.read_to_end(&mut bytes).unwrap();
            assert!(matches!(sender.join().unwrap(), Err(TransferError::Changed(p)) if p == path));
            let received = receive(to.path(), &bytes[..], SpecialBits::Drop, &mut |_| {});
            assert!(matches!(received, Err(TransferError::Aborted(e)) if e.message.contains("changed its size")));
        });
        assert_eq!(fs::read(to.path().join("file")).unwrap(), b"precious");
        assert_eq!(leftovers(to.path()), Vec::<PathBuf>::new());
    }
}

#[test]
fn an_interrupted_copy_loses_nothing() {
    let (from, to) = (dir(), dir());
    fs::write(from.path().join("file"), vec![7; 300_000]).unwrap();
    fs::write(to.path().join("file"), "precious").unwrap();
    let mut whole = Vec::new();
    send(&from.path().join("file"), &mut whole, &mut |_| {}).unwrap();
    for cut in [0, 3, HEADER_LEN, 600, 131_077, 200_000, 299_999, whole.len() - 1] {
        let received = receive(to.path(), &whole[..cut], SpecialBits::Drop, &mut |_| {});
        assert!(matches!(received, Err(TransferError::Connection(_))), "{cut}: {received:?}");
        if cut < 300_000 {
            assert_eq!(fs::read(to.path().join("file")).unwrap(), b"precious", "{cut}");
        }
        assert_eq!(leftovers(to.path()), Vec::<PathBuf>::new());
    }
    receive(to.path(), &whole[..], SpecialBits::Drop, &mut |_| {}).unwrap();
    assert_eq!(fs::read(to.path().join("file")).unwrap(), vec![7; 300_000]);
}

/// Temporary names that were left behind.
fn leftovers(folder: &Path) -> Vec<PathBuf> {
    listing(folder).into_iter().map(|l| l.0).filter(|p| p.to_string_lossy().contains(".mvm-cp-")).collect()
}

/// An archive made by hand, in frames.
#[derive(Default)]
struct Archive {
    tar: Vec<u8>,
    entries: u64,
    bytes: u64,
}

impl Archive {
    fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], contents: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(0o644 | if kind == EntryType::Directory { 0o111 } else { 0 });
        header.set_mtime(1);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(contents);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self.entries += 1;
        self.bytes += contents.len() as u64;
        self
    }

    fn folder(self, name: &[u8]) -> Self {
        self.entry(EntryType::Directory, name, b"", b"")
    }

    fn file(self, name: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, b"", b"evil")
    }

    fn link(self, name: &[u8], target: &[u8]) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    fn frames(&self, summary: &TransferSummary) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in [&self.tar[..], &[0; 1024]].concat().chunks(1000) {
            encode(FrameType::Data, chunk, &mut out).unwrap();
        }
        encode(FrameType::End, &serde_json::to_vec(summary).unwrap(), &mut out).unwrap();
        out
    }

    fn unpack(&self, dest: &Path) -> Copied {
        let summary = TransferSummary { entries: self.entries, bytes: self.bytes, ..Default::default() };
        receive(dest, &self.frames(&summary)[..], SpecialBits::Drop, &mut |_| {})
    }
}

#[test]
fn hostile_archives_stay_inside() {
    let archive = Archive::default;
    let cases: Vec<(&str, Archive)> = vec![
        ("absolute", archive().file(b"/outside")),
        ("absolute below", archive().folder(b"d").file(b"/d/outside")),
        ("parent", archive().file(b"../outside")),
        ("parent only", archive().folder(b"..")),
        ("parent inside", archive().folder(b"d").file(b"d/../../outside")),
        ("dot inside", archive().folder(b"d").file(b"d/./x")),
        ("empty component", archive().folder(b"d").file(b"d//x")),
        ("empty name", archive().file(b"")),
        ("other base", archive().folder(b"d").file(b"e")),
        ("base with a slash", archive().file(b"a/b")),
        ("through a link", archive().folder(b"d").link(b"d/l", b"../..").file(b"d/l/outside")),
        ("through an absolute link", archive().folder(b"d").link(b"d/l", b"/").file(b"d/l/outside")),
        ("through the base as a link", archive().link(b"d", b"..").file(b"d/outside")),
        ("folder through a link", archive().folder(b"d").link(b"d/l", b"..").folder(b"d/l")),
        ("folder below a file", archive().file(b"f").file(b"f/x")),
        ("without its folder", archive().folder(b"d").file(b"d/none/x")),
        ("hard link", archive().folder(b"d").entry(EntryType::Link, b"d/h", b"../../outside", b"")),
        ("device", archive().folder(b"d").entry(EntryType::Block, b"d/sda", b"", b"")),
        ("character device", archive().folder(b"d").entry(EntryType::Char, b"d/null", b"", b"")),
        ("pipe", archive().folder(b"d").entry(EntryType::Fifo, b"d/p", b"", b"")),
        ("sparse", archive().entry(EntryType::GNUSparse, b"s", b"", b"")),
        ("extended header", archive().entry(EntryType::XHeader, b"x", b"", b"20 path=../outside\n").file(b"x")),
        ("global header", archive().entry(EntryType::XGlobalHeader, b"x", b"", b"20 path=../outside\n").file(b"x")),
        ("long name leads out", archive().entry(EntryType::GNULongName, b"L", b"", b"../outside\0").file(b"x")),
        ("long name with a zero", archive().entry(EntryType::GNULongName, b"L", b"", b"a\0b\0").file(b"x")),
        (
            "two long names",
            archive()
                .entry(EntryType::GNULongName, b"L", b"", b"a\0")
                .entry(EntryType::GNULongName, b"L", b"", b"b\0")
                .file(b"x"),
        ),
        ("long link on a file", archive().entry(EntryType::GNULongLink, b"K", b"", b"a\0").file(b"x")),
        ("link without a target", archive().link(b"l", b"")),
        ("folder with contents", archive().entry(EntryType::Directory, b"d", b"", b"x")),
        ("nothing", archive()),
    ];
    for (what, archive) in cases {
        let outer = dir();
        let dest = outer.path().join("dest");
        fs::create_dir(&dest).unwrap();
        fs::write(outer.path().join("outside"), "precious").unwrap();
        let error = archive.unpack(&dest).expect_err(what);
        assert!(
            matches!(error, TransferError::Malformed(_) | TransferError::Conflict { .. } | TransferError::Dest { .. }),
            "{what}: {error:?}"
        );
        assert_eq!(fs::read(outer.path().join("outside")).unwrap(), b"precious", "{what}");
        let names: Vec<_> = fs::read_dir(outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{what}: {names:?}");
        assert_eq!(leftovers(&dest), Vec::<PathBuf>::new(), "{what}");
    }
}

#[test]
fn links_that_were_there_are_not_followed() {
    let outer = dir();
    let dest = outer.path().join("dest");
    fs::create_dir_all(dest.join("d")).unwrap();
    symlink("../..", dest.join("d/up")).unwrap();
    let error = Archive::default().folder(b"d").folder(b"d/up").file(b"d/up/outside").unpack(&dest).unwrap_err();
    assert!(matches!(error, TransferError::Conflict { .. }), "{error}");
    assert!(!outer.path().join("outside").exists());
}

#[test]
fn bombs_are_cut_short() {
    let to = dir();
    let name = [&vec![b'a'; MAX_PATH + 1][..], b"\0"].concat();
    let bomb = Archive::default().entry(EntryType::GNULongName, b"L", b"", &name).file(b"x");
    assert!(matches!(bomb.unpack(to.path()), Err(TransferError::Malformed(_))));
    // One that only claims to be huge is not waited for.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(u64::MAX / 4);
    header.set_cksum();
    let huge = Archive { tar: [&header.as_bytes()[..], &vec![b'a'; 100_000]].concat(), ..Default::default() };
    assert!(matches!(huge.unpack(to.path()), Err(TransferError::Malformed(_))));
    let mut nested = Archive::default().folder(b"d");
    let mut path = b"d".to_vec();
    for _ in 0..300 {
        path.extend_from_slice(b"/d");
        let long = [&path[..], b"\0"].concat();
        nested = nested.entry(EntryType::GNULongName, b"L", b"", &long).folder(b"");
    }
    assert!(matches!(nested.unpack(to.path()), Err(TransferError::TooDeep(_))));
}

#[test]
fn an_end_that_does_not_match_is_an_error() {
    let to = dir();
    let archive = Archive::default().file(b"x");
    for (entries, bytes) in [(2, 4), (1, 5)] {
        let frames = archive.frames(&TransferSummary { entries, bytes, ..Default::default() });
        let received = receive(to.path(), &frames[..], SpecialBits::Drop, &mut |_| {});
        assert!(matches!(received, Err(TransferError::Malformed(_))));
    }
    // Archives that stop early, or go on.
    let end = TransferSummary { entries: 1, bytes: 4, ..Default::default() };
    for extra in [&[][..], &[0; 512], &[0; 1536], &[1; 1024]] {
        let mut frames = Vec::new();
        encode(FrameType::Data, &[&archive.tar[..], extra].concat(), &mut frames).unwrap();
        encode(FrameType::End, &serde_json::to_vec(&end).unwrap(), &mut frames).unwrap();
        let received = receive(to.path(), &frames[..], SpecialBits::Drop, &mut |_| {});
        assert!(matches!(received, Err(TransferError::Malformed(_))), "{}", extra.len());
    }
    let mut frames = Vec::new();
    encode(FrameType::Stdout, b"?", &mut frames).unwrap();
    let received = receive(to.path(), &frames[..], SpecialBits::Drop, &mut |_| {});
    assert!(matches!(received, Err(TransferError::Malformed(_))));
}

fn keys() -> (mvm_protocol::HostKeys, GuestKeys) {
    let keys = ChannelKeys::generate().unwrap();
    let guest = GuestKeys::from_hex(keys.guest_secret_hex(), &keys.host_public_hex().unwrap()).unwrap();
    (keys.host().unwrap(), guest)
}

/// Both ends of an authenticated channel, the guest's as a blocking stream.
async fn channel() -> (mvm_protocol::Channel<tokio::net::UnixStream>, UnixStream) {
    let (host, guest) = keys();
    let (a, b) = tokio::net::UnixStream::pair().unwrap();
    let (a, b) = tokio::join!(connect(a, &host), accept(b, &guest));
    let b = b.unwrap().into_stream().into_std().unwrap();
    b.set_nonblocking(false).unwrap();
    (a.unwrap(), b)
}

#[tokio::test]
async fn the_host_pushes_and_pulls() {
    let (from, to) = (dir(), dir());
    fs::write(from.path().join("file"), vec![5; 3_000_000]).unwrap();
    let (host, mut guest) = channel().await;
    let dest = to.path().to_owned();
    let serve = thread::spawn(move || {
        let summary = receive(&dest, &guest, SpecialBits::Keep, &mut |_| {}).unwrap();
        let mut end = Vec::new();
        encode(FrameType::End, &serde_json::to_vec(&summary).unwrap(), &mut end).unwrap();
        guest.write_all(&end).unwrap();
    });
    let (count, counted) = std::sync::mpsc::channel();
    let sent = push(host, from.path().join("file"), move |n| count.send(n).unwrap()).await.unwrap();
    assert_eq!((sent.bytes, counted.iter().sum::<u64>()), (3_000_000, 3_000_000));
    serve.join().unwrap();
    let (host, guest) = channel().await;
    let source = to.path().join("file");
    let serve = thread::spawn(move || send(&source, guest, &mut |_| {}));
    let back = from.path().join("back");
    pull(host, back.clone(), |_| {}).await.unwrap();
    serve.join().unwrap().unwrap();
    assert_eq!(fs::read(back).unwrap(), vec![5; 3_000_000]);
}

/// The last word of a guest whose disk is full.
fn no_space() -> Vec<u8> {
    let error = RequestError::new(ErrorCode::Failed, "no space left on device");
    let mut frame = Vec::new();
    encode(FrameType::Abort, &serde_json::to_vec(&error).unwrap(), &mut frame).unwrap();
    frame
}

/// A file of holes.
fn large_file(folder: &TempDir) -> PathBuf {
    let file = folder.path().join("large");
    fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    file
}

#[tokio::test]
async fn a_push_that_the_guest_aborts_says_why_and_stops() {
    use std::io::Read;
    let from = dir();
    let file = large_file(&from);
    let (host, mut guest) = channel().await;
    let serve = thread::spawn(move || {
        guest.read_exact(&mut [0; 1000]).unwrap();
        guest.write_all(&no_space()).unwrap();
        let mut buffer = vec![0; 65536];
        while guest.read(&mut buffer).unwrap() > 0 {}
    });
    let error = push(host, file, |_| {}).await.unwrap_err();
    assert!(matches!(error, TransferError::Aborted(e) if e.message.contains("no space")));
    // Nothing drives the runtime while this waits: the stream must have been closed before.
    serve.join().unwrap();
}

#[tokio::test]
async fn a_push_to_a_guest_that_vanishes_is_an_error() {
    let from = dir();
    let file = from.path().join("file");
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let (host, guest) = channel().await;
    let pushing = push(host, file, |_| {});
    drop(guest);
    assert!(matches!(pushing.await, Err(TransferError::Connection(_))));
}

/// A host's end that tells when a write has to wait for the guest. Who holds the word knows whether the end is there.
struct Narrow {
    stream: DuplexStream,
    full: Arc<Notify>,
}

impl AsyncRead for Narrow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Narrow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if wrote.is_pending() {
            self.full.notify_one();
        }
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Both ends of an authenticated channel that holds a handshake and less than a frame of contents.
async fn narrow_channel() -> (mvm_protocol::Channel<Narrow>, DuplexStream, Arc<Notify>) {
    let (host, guest) = keys();
    let full = Arc::new(Notify::new());
    let (a, b) = tokio::io::duplex(4096);
    let (a, b) = tokio::join!(connect(Narrow { stream: a, full: Arc::clone(&full) }, &host), accept(b, &guest));
    (a.unwrap(), b.unwrap().into_stream(), full)
}

/// How long what must end may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_push_leaves_no_sender_that_waits_for_a_guest_which_has_aborted() {
    let from = dir();
    let (host, mut guest, full) = narrow_channel().await;
    let abort = async {
        full.notified().await;
        guest.write_all(&no_space()).await.unwrap();
    };
    let (pushed, ()) = tokio::join!(push(host, large_file(&from), |_| {}), abort);
    assert!(matches!(pushed, Err(TransferError::Aborted(e)) if e.message.contains("no space")));
    assert_eq!(Arc::strong_count(&full), 1, "the host's end of the stream is still there");
}

#[tokio::test]
async fn a_guest_that_has_all_before_it_was_sent_is_not_believed() {
    let from = dir();
    let (host, mut guest, full) = narrow_channel().await;
    let lie = async {
        full.notified().await;
        let summary = TransferSummary { entries: 1, bytes: 1 << 40, ..Default::default() };
        let mut end = Vec::new();
        encode(FrameType::End, &serde_json::to_vec(&summary).unwrap(), &mut end).unwrap();
        guest.write_all(&end).await.unwrap();
    };
    let pushing = tokio::time::timeout(DEADLINE, push(host, large_file(&from), |_| {}));
    let (pushed, ()) = tokio::join!(pushing, lie);
    assert!(matches!(pushed, Ok(Err(TransferError::Malformed(_)))), "{pushed:?}");
}

#[tokio::test]
async fn a_push_says_what_is_wrong_with_the_source_also_where_the_guest_has_gone() {
    let from = dir();
    let file = from.path().join("file");
    // Less than a frame: nothing is written between the reading and the look at the size.
    fs::write(&file, vec![1; 100_000]).unwrap();
    let (host, guest, _full) = narrow_channel().await;
    let read = Arc::new(Notify::new());
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let has_read = Arc::clone(&read);
    let pushing = push(host, file.clone(), move |_| {
        has_read.notify_one();
        wait.recv().unwrap();
    });
    let vanish = async {
        read.notified().await;
        fs::write(&file, "").unwrap();
        drop(guest);
        // The push sees the end of the stream before the sender goes on.
        tokio::task::yield_now().await;
        go_on.send(()).unwrap();
    };
    let (pushed, ()) = tokio::join!(pushing, vanish);
    assert!(matches!(&pushed, Err(TransferError::Changed(p)) if *p == file), "{pushed:?}");
}

#[tokio::test]
async fn a_copy_ends_with_its_future() {
    let (from, to) = (dir(), dir());
    let (host, guest, full) = narrow_channel().await;
    let mut pushing = Box::pin(push(host, large_file(&from), |_| {}));
    tokio::select! {
        pushed = &mut pushing => panic!("{pushed:?}"),
        () = full.notified() => drop(pushing),
    }
    let limit = 1 << 20;
    let mut rest = Vec::new();
    guest.take(limit).read_to_end(&mut rest).await.unwrap();
    assert!((rest.len() as u64) < limit, "the sender goes on");

    let (host, mut guest, _full) = narrow_channel().await;
    let mut pulling = Box::pin(pull(host, to.path().to_owned(), |_| {}));
    let file = from.path().join("file");
    fs::write(&file, vec![1; 100_000]).unwrap();
    let mut archive = Vec::new();
    send(&file, &mut archive, &mut |_| {}).unwrap();
    tokio::select! {
        pulled = &mut pulling => panic!("{pulled:?}"),
        // More than the stream holds, so the receiver has begun.
        wrote = guest.write_all(&archive[..archive.len() / 2]) => wrote.unwrap(),
    }
    drop(pulling);
    let end = tokio::time::timeout(DEADLINE, guest.read(&mut [0])).await.expect("the receiver goes on");
    assert_eq!(end.unwrap(), 0);
}
