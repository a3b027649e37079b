//! What one does with a VM that runs.

use crate::lane::Lane;
use crate::piped;
use crate::support::events::Watch;
use crate::support::text;
use crate::terminal::Terminal;
use rustix::fs::inotify::WatchFlags;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Bytes of every value, in no order that a fault would keep.
fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub fn environment(lane: &Lane) {
    assert_eq!(lane.sh("one", "hostname; cat /etc/hostname; echo $GREETING $MVM_FIXTURE"), "one\none\nhello guest\n");
    assert_eq!(lane.sh("two", "hostname; echo $GREETING $MVM_FIXTURE"), "two\nguest\n");
}

pub fn exec(lane: &Lane) {
    let user = &lane.user;
    // Both streams apart.
    let out = user.run(&["exec", "one", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((text(&out.stdout), text(&out.stderr)), ("out\n".into(), "err\n".into()));
    // Environment, folder, user.
    let script = "echo $A $PWD $(id -u)";
    let args = ["exec", "-e", "A=b c", "-w", "/tmp", "-u", "1000", "one", "--", "sh", "-c", script];
    assert_eq!(user.ok(&args), "b c /tmp 1000\n");
    // Codes as a shell gives them.
    user.fails(3, &["exec", "one", "--", "sh", "-c", "exit 3"]);
    user.fails(126, &["exec", "one", "--", "/etc"]);
    user.fails(127, &["exec", "one", "--", "no-such-program"]);
    user.fails(143, &["exec", "one", "--", "sh", "-c", "kill -TERM $$"]);
}

pub fn signals(lane: &Lane) {
    // A signal to the command line is one to the command, which waits for nothing else: whatever else it were given could
    // come first.
    let script = "trap 'exit 9' INT; echo ready; while :; do :; done";
    let mut waits = piped(&mut lane.user.command(&["exec", "one", "--", "sh", "-c", script]));
    let mut line = String::new();
    BufReader::new(waits.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill_process(Pid::from_child(&waits), Signal::INT).unwrap();
    assert_eq!(waits.wait().unwrap().code(), Some(9));
    // Who reads no more ends the command, without a word.
    let mut yes = piped(lane.user.command(&["exec", "one", "--", "yes"]).stderr(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(yes.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    let out = yes.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr)), (Some(141), String::new()));
}

pub fn bulk(lane: &Lane) {
    let mebibyte = noise(1 << 20);
    let script = "cat >/tmp/bytes; i=0; while [ $i -lt 100 ]; do cat /tmp/bytes; i=$((i+1)); done; rm /tmp/bytes";
    let out = lane.feed(&["exec", "one", "--", "sh", "-c", script], mebibyte.clone());
    assert_eq!(out.len(), 100 << 20);
    assert!(out.chunks(1 << 20).all(|chunk| chunk == mebibyte));
}

pub fn console(lane: &Lane) {
    let user = &lane.user;
    let mut terminal = Terminal::spawn(user.command(&["console", "one"]).env("TERM", "vt100"), 30, 100);
    terminal.type_in("PS1='pro''mpt> '; stty size; echo $TERM; tty\n");
    let seen = terminal.until("prompt> ");
    assert!(seen.contains("30 100") && seen.contains("vt100") && seen.contains("/dev/pts/"), "{seen:?}");
    terminal.resize(40, 120);
    terminal.type_in("until stty size | grep -q '40 120'; do read -t 1 x; done; echo si''zed\n");
    terminal.until("sized");
    // Ctrl-C ends what runs, not the shell; Ctrl-Z stops it.
    // The shell edits its line on a raw terminal: what is typed before the program runs would not be a line to it.
    terminal.type_in("sh -c 'echo run''ning; exec cat'\n");
    terminal.until("running\r\n");
    terminal.type_in("echo\n");
    terminal.until("echo\r\necho");
    terminal.type_in("\x03");
    terminal.until("prompt> ");
    terminal.type_in("sh -c 'echo run''ning; exec cat'\n");
    terminal.until("running\r\n");
    terminal.type_in("again\n");
    terminal.until("again\r\nagain");
    terminal.type_in("\x1a");
    terminal.until("prompt> ");
    terminal.type_in("fg\n");
    terminal.until("exec cat");
    terminal.type_in("once more\n");
    terminal.until("more\r\nonce more");
    terminal.type_in("\x03");
    terminal.until("prompt> ");
    // One session at a time.
    let (status, said) = Terminal::spawn(&mut user.command(&["console", "one"]), 24, 80).end();
    assert_eq!(status.code(), Some(4), "{said}");
    assert!(said.contains("error:"), "{said}");
    terminal.type_in("exit 7\n");
    assert_eq!(terminal.end().0.code(), Some(7));
    // A command in its place; and no terminal, no console.
    let one_command = ["console", "one", "--command", "sh", "-c", "tty; exit 3"];
    let (status, said) = Terminal::spawn(&mut user.command(&one_command), 24, 80).end();
    assert_eq!(status.code(), Some(3));
    assert!(said.contains("/dev/pts/"), "{said}");
    assert!(user.fails(2, &["console", "one"]).contains("hint:"));
}

/// Names that are legal and that somebody who quotes, splits or decodes them gets wrong.
const NAMES: &[&[u8]] = &[
    b"with space",
    b" ",
    b"-rf",
    b"new\nline",
    b"quote'\"$(x)`",
    b"back\\slash",
    "\u{fc}\u{2603}".as_bytes(),
    b"\xff\xfe",
    b"*?[a]",
];
const MODES: &[u32] = &[0o751, 0o400, 0o666, 0o4755];

/// What is below a folder: modes without what a guest may not give us, contents, and where links lead.
fn tree(top: &Path, at: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let (mode, kind) = (path.symlink_metadata().unwrap().permissions().mode(), path.symlink_metadata().unwrap());
        let content = if kind.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if kind.is_dir() {
            tree(top, &path, found);
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        found.insert(path.strip_prefix(top).unwrap().to_owned(), (mode & !0o7000, content));
    }
}

pub fn files(lane: &Lane) {
    let user = &lane.user;
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("tree");
    fs::create_dir_all(here.join("deep/er")).unwrap();
    fs::create_dir(here.join("empty")).unwrap();
    fs::set_permissions(here.join("empty"), Permissions::from_mode(0o710)).unwrap();
    fs::write(here.join("deep/er/data"), noise(3_000_000)).unwrap();
    fs::write(here.join("deep/nothing"), "").unwrap();
    for name in NAMES.iter().copied().chain([&[b'n'; 255][..]]) {
        fs::write(here.join(OsStr::from_bytes(name)), name).unwrap();
    }
    for mode in MODES {
        let path = here.join(format!("{mode:o}"));
        fs::write(&path, "#!/bin/sh\necho it runs\n").unwrap();
        fs::set_permissions(path, Permissions::from_mode(*mode)).unwrap();
    }
    symlink("751", here.join("link")).unwrap();
    symlink("/nowhere/at all", here.join("dangling")).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    user.ok(&["cp", &path("tree"), "one:/root/tree"]);
    assert_eq!(user.ok(&["exec", "one", "--", "/root/tree/link"]), "it runs\n");
    let modes = lane.sh("one", "cd /root/tree; stat -c %a 751 400 666 4755 empty");
    assert_eq!(modes, "751\n400\n666\n4755\n710\n");
    user.ok(&["cp", "one:/root/tree", &path("back")]);
    let trees = ["tree", "back"].map(|name| {
        let (top, mut found) = (folder.path().join(name), BTreeMap::new());
        tree(&top, &top, &mut found);
        found
    });
    assert_eq!(trees[0].keys().collect::<Vec<_>>(), trees[1].keys().collect::<Vec<_>>());
    for (path, was) in &trees[0] {
        let is = &trees[1][path];
        assert!(is == was, "{path:?}: mode {:o} was {:o}, {} bytes were {}", is.0, was.0, is.1.len(), was.1.len());
    }
    // A guest gives us no program that runs as another.
    let special = fs::metadata(folder.path().join("back/4755")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(special, 0o755);
    // What is not there is said, and nothing is made.
    assert!(user.fails(3, &["cp", "one:/no/such", &path("nothing")]).contains("/no/such"));
    assert!(!folder.path().join("nothing").exists());
    user.fails(3, &["cp", &path("nothing"), "one:/root"]);
    assert!(user.fails(2, &["cp", &path("tree"), &path("other")]).contains("hint:"));
}

/// A port of this machine that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn ports(lane: &Lane) {
    let user = &lane.user;
    // One from the start on, to the image's own service, which may not listen yet when the guest is ready.
    let listens = |port| format!("until nc 127.0.0.1 {port} </dev/null 2>/dev/null; do :; done");
    lane.sh("one", &listens(8080));
    let published = lane.record("one")["ports"][0].as_str().unwrap().to_owned();
    let address: SocketAddr = published.strip_suffix(":8080").unwrap().parse().unwrap();
    let (mut stream, mut answer) = (TcpStream::connect(address).unwrap(), String::new());
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello from the fixture flake\n"), "{answer}");
    // One more, to a server that says nothing when it listens.
    let serve = format!("nc -ll -p 7 -e cat >/dev/null 2>&1 & {}", listens(7));
    lane.sh("one", &format!("setsid sh -c '{serve}'"));
    let port = free_port();
    let publish = format!("{port}:7");
    assert!(user.ok(&["forward", "one", "-p", &publish]).contains(&publish));
    assert!(user.ok(&["ls"]).contains(&publish));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"there and back").unwrap();
    let mut echo = [0; 14];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"there and back");
    drop(stream);
    // A port that somebody has is refused by name, and the others stay.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port().to_string();
    assert!(user.fails(4, &["forward", "one", "-p", &format!("{number}:7")]).contains(&number));
    assert!(user.ok(&["forward", "one"]).contains(&publish));
    user.ok(&["forward", "one", "-p", &publish, "--remove"]);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

pub fn health(lane: &Lane) {
    // The record is replaced by a rename whenever the state changes.
    let records = lane.user.home().join(".cache/mvm/vms/one");
    for (script, state) in [("touch /root/sick", "degraded"), ("rm /root/sick", "ready")] {
        let watch = Watch::new(&records, WatchFlags::MOVED_TO);
        lane.sh("one", script);
        while lane.record("one")["state"] != state {
            watch.next(state, |name| name == "state.json");
        }
        lane.user.ok(&["wait", "one"]);
    }
}
