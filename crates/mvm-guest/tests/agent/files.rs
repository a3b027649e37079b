//! Copies in and out.

use crate::harness::{Agent, within};
use mvm_protocol::transfer::{TransferError, pull, push};
use mvm_protocol::{Channel, ErrorCode, FrameType, PullRequest, PushRequest, Request, TransferSummary};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

async fn begin_push(agent: &Agent, dest: &Path) -> Channel<UnixStream> {
    agent.request(&Request::Push(PushRequest { path: dest.to_str().unwrap().into() })).await.unwrap()
}

async fn copy_in(agent: &Agent, source: &Path, dest: &Path) -> Result<TransferSummary, TransferError> {
    within(push(begin_push(agent, dest).await, source.to_owned(), |_| {})).await
}

async fn copy_out(agent: &Agent, source: &Path, dest: &Path) -> Result<TransferSummary, TransferError> {
    let request = Request::Pull(PullRequest { path: source.to_str().unwrap().into() });
    within(pull(agent.request(&request).await.unwrap(), dest.to_owned(), |_| {})).await
}

/// A folder for the guest's files and one for the host's.
fn folders(agent: &Agent) -> (PathBuf, PathBuf) {
    let (guest, host) = (agent.dir.path().join("in guest"), agent.dir.path().join("on host"));
    fs::create_dir(&guest).unwrap();
    fs::create_dir(&host).unwrap();
    (guest, host)
}

#[tokio::test]
async fn a_tree_goes_in_and_comes_out() {
    let agent = Agent::start();
    let (guest, host) = folders(&agent);
    let tree = host.join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    for name in [&b"-n"[..], b"new\nline", b"\xff\xfe", &[b'x'; 250]] {
        fs::write(tree.join("a").join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::set_permissions(tree.join("a/-n"), fs::Permissions::from_mode(0o6751)).unwrap();
    symlink("../nowhere", tree.join("a/link")).unwrap();
    let old = fs::File::options().write(true).open(tree.join("a/-n")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(86400)).unwrap();

    let summary = copy_in(&agent, &tree, &guest).await.unwrap();
    assert_eq!(summary.entries, 8);
    let arrived = fs::metadata(guest.join("tree/a/-n")).unwrap();
    assert_eq!((arrived.mode() & 0o7777, arrived.mtime()), (0o6751, 86400));
    assert_eq!(fs::read_link(guest.join("tree/a/link")).unwrap(), Path::new("../nowhere"));

    copy_out(&agent, &guest.join("tree"), &host.join("back")).await.unwrap();
    // What comes from a guest is setuid no more.
    let back = fs::metadata(host.join("back/a/-n")).unwrap();
    assert_eq!((back.mode() & 0o7777, back.mtime()), (0o751, 86400));
    for name in [&b"-n"[..], b"new\nline", b"\xff\xfe", &[b'x'; 250]] {
        assert_eq!(fs::read(host.join("back/a").join(OsStr::from_bytes(name))).unwrap(), name);
    }
    assert!(host.join("back/a/b").is_dir());
}

#[tokio::test]
async fn a_quarter_of_a_gibibyte_each_way() {
    let agent = Agent::start();
    let (guest, host) = folders(&agent);
    let size = 256 << 20;
    let source = host.join("big");
    let bytes: Vec<u8> =
        (0..size / 8).flat_map(|i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()).collect();
    fs::write(&source, &bytes).unwrap();
    let before = agent.resident();
    let summary = copy_in(&agent, &source, &guest).await.unwrap();
    assert_eq!(summary.bytes, size);
    assert!(fs::read(guest.join("big")).unwrap() == bytes);
    copy_out(&agent, &guest.join("big"), &host.join("back")).await.unwrap();
    assert!(fs::read(host.join("back")).unwrap() == bytes);
    let grown = agent.resident().saturating_sub(before);
    assert!(grown < 2048, "the agent has grown by {grown} KiB");
}

#[tokio::test]
async fn paths_are_checked_before_anything_is_sent() {
    let agent = Agent::start();
    let (guest, _) = folders(&agent);
    let push = |path: &str| Request::Push(PushRequest { path: path.into() });
    let pull = |path: &str| Request::Pull(PullRequest { path: path.into() });
    let inside = |path: &str| guest.join(path).to_str().unwrap().to_owned();
    fs::write(guest.join("file"), "x").unwrap();
    for (request, code, word) in [
        (push("relative"), ErrorCode::Invalid, "not absolute"),
        (pull("relative"), ErrorCode::Invalid, "not absolute"),
        (pull(&inside("none")), ErrorCode::NotFound, "none"),
        (push(&inside("none/below")), ErrorCode::Invalid, "does not exist"),
        (push(&inside("file/below")), ErrorCode::Failed, "ot a directory"),
        (pull("/dev/null"), ErrorCode::Invalid, "device"),
    ] {
        let error = agent.refused(&request).await;
        assert!(error.code == code && error.message.contains(word), "{request:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_push_that_fails_half_way_says_why() {
    let agent = Agent::start();
    let (guest, host) = folders(&agent);
    // Whichever of the two comes first, the guest cannot go on, and the host has gigabytes left to send.
    fs::create_dir(host.join("tree")).unwrap();
    fs::write(host.join("tree/small"), "x").unwrap();
    fs::create_dir_all(guest.join("tree/small/in the way")).unwrap();
    fs::create_dir_all(guest.join("tree/big/in the way")).unwrap();
    fs::File::create(host.join("tree/big")).unwrap().set_len(1 << 40).unwrap();
    match copy_in(&agent, &host.join("tree"), &guest).await {
        Err(TransferError::Aborted(error)) => assert!(error.message.contains("a folder of that name"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(agent.sh("true").await.status.code, Some(0));
}

#[tokio::test]
async fn a_host_that_goes_away_loses_nothing() {
    let agent = Agent::start();
    let (guest, host) = folders(&agent);
    fs::write(guest.join("file"), "precious").unwrap();
    fs::write(host.join("file"), vec![1; 1 << 20]).unwrap();
    let mut whole = Vec::new();
    mvm_protocol::transfer::send(&host.join("file"), &mut whole, &mut |_| {}).unwrap();
    let mut stream = begin_push(&agent, &guest).await.into_stream();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &whole[..700_000]).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    // The guest closes once it has given up.
    within(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new())).await.unwrap();
    assert_eq!(fs::read(guest.join("file")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&guest).unwrap().count(), 1);
}

#[tokio::test]
async fn a_pull_that_the_host_cannot_store_ends() {
    let agent = Agent::start();
    let (guest, host) = folders(&agent);
    fs::File::create(guest.join("big")).unwrap().set_len(1 << 40).unwrap();
    fs::create_dir_all(host.join("big/in the way")).unwrap();
    let failed = copy_out(&agent, &guest.join("big"), &host).await;
    assert!(matches!(failed, Err(TransferError::Conflict { .. })), "{failed:?}");
}

#[tokio::test]
async fn an_archive_that_leads_out_is_refused_by_the_guest() {
    let agent = Agent::start();
    let (guest, _) = folders(&agent);
    let mut channel = begin_push(&agent, &guest).await;
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..10].copy_from_slice(b"../outside");
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    channel.send(FrameType::Data, header.as_bytes()).await.unwrap();
    let answer = within(channel.receive()).await.unwrap().unwrap();
    let error: mvm_protocol::RequestError = answer.json(FrameType::Abort).unwrap();
    assert_eq!(error.code, ErrorCode::Invalid);
    assert!(!agent.dir.path().join("outside").exists());
}

#[tokio::test]
async fn other_requests_are_served_during_a_copy() {
    let agent = Agent::start();
    let (guest, _) = folders(&agent);
    // A push whose host does not go on.
    let stalled: Vec<_> = vec![begin_push(&agent, &guest).await, begin_push(&agent, &guest).await];
    assert_eq!(agent.sh("echo served").await.text(), "served\n");
    drop(stalled);
}
