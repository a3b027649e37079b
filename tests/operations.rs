//! What one does with a VM that runs: each operation through `mvmctl` on a real guest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;
#[path = "support/terminal.rs"]
mod terminal;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use support::{User, text};
use terminal::Terminal;

/// A VM that lives as long as its test.
fn vm() -> User {
    let user = User::new();
    user.ok(&["up", "-d", "--name", "one", "--memory", "128M"]);
    user
}

fn down(user: &User) {
    user.ok(&["down", "one"]);
    user.assert_nothing_left();
}

fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A port of this machine that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn exec_is_like_running_it_here() {
    let user = vm();
    // Both streams apart, and a binary stdin of a megabyte.
    let out = user.run(&["exec", "one", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((text(&out.stdout), text(&out.stderr)), ("out\n".into(), "err\n".into()));
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut cat = piped(&mut user.command(&["exec", "one", "--", "cat"]));
    let mut stdin = cat.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let out = cat.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success() && out.stdout == bytes);
    // Environment, folder, user.
    let script = "echo $A $PWD $(id -u)";
    let args = ["exec", "-e", "A=b c", "-w", "/tmp", "-u", "1000", "one", "--", "sh", "-c", script];
    assert_eq!(user.ok(&args), "b c /tmp 1000\n");
    // Codes as a shell gives them.
    user.fails(126, &["exec", "one", "--", "/etc"]);
    user.fails(143, &["exec", "one", "--", "sh", "-c", "kill -TERM $$"]);
    // A signal to the command line is one to the command.
    let mut waits = piped(&mut user.command(&["exec", "one", "--", "sh", "-c", "trap 'exit 9' INT; echo ready; cat"]));
    let mut line = String::new();
    BufReader::new(waits.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    signal(&waits, rustix::process::Signal::INT);
    drop(waits.stdin.take());
    assert_eq!(waits.wait().unwrap().code(), Some(9));
    down(&user);
}

#[test]
fn a_command_alone_gets_a_vm_and_leaves_none() {
    let user = User::new();
    assert_eq!(user.ok(&["exec", "--", "uname", "-s"]), "Linux\n");
    user.fails(4, &["exec", "--", "sh", "-c", "exit 4"]);
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    user.assert_nothing_left();
}

#[test]
fn the_console_is_a_terminal() {
    let user = vm();
    let mut terminal = Terminal::spawn(user.command(&["console", "one"]).env("TERM", "vt100"), 30, 100);
    terminal.type_in("PS1='pro''mpt> '; stty size; echo $TERM\n");
    let seen = terminal.until("prompt> ");
    assert!(seen.contains("30 100") && seen.contains("vt100"), "{seen:?}");
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
    down(&user);
}

#[test]
fn files_go_in_and_come_out() {
    let user = vm();
    let here = user.home().join("tree");
    std::fs::create_dir_all(here.join("deep/er")).unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(here.join("deep/er/data"), &bytes).unwrap();
    std::fs::write(here.join("run"), "#!/bin/sh\necho it runs\n").unwrap();
    std::fs::set_permissions(here.join("run"), std::fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink("run", here.join("link")).unwrap();
    let path = |name: &str| user.home().join(name).display().to_string();
    user.ok(&["cp", &path("tree"), "one:/root/tree"]);
    assert_eq!(user.ok(&["exec", "one", "--", "/root/tree/link"]), "it runs\n");
    user.ok(&["cp", "one:/root/tree", &path("back")]);
    let back = user.home().join("back");
    assert!(std::fs::read(back.join("deep/er/data")).unwrap() == bytes);
    assert_eq!(std::fs::metadata(back.join("run")).unwrap().permissions().mode() & 0o7777, 0o751);
    assert_eq!(std::fs::read_link(back.join("link")).unwrap().to_str(), Some("run"));
    // What is not there is said, and nothing is made.
    assert!(user.fails(3, &["cp", "one:/no/such", &path("nothing")]).contains("/no/such"));
    assert!(!user.home().join("nothing").exists());
    user.fails(3, &["cp", &path("nothing"), "one:/root"]);
    assert!(user.fails(2, &["cp", &path("tree"), &path("other")]).contains("hint:"));
    down(&user);
}

#[test]
fn ports_are_published_and_withdrawn() {
    let user = vm();
    let port = free_port();
    // The guest's server is there before we ask: `nc` says nothing, so a shell waits for the socket it made.
    let serve = "while :; do nc -l -p 7 -e cat; done >/dev/null 2>&1 & until nc -z 127.0.0.1 7; do :; done";
    user.ok(&["exec", "one", "--", "sh", "-c", &format!("setsid sh -c '{serve}'")]);
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
    down(&user);
}

#[test]
fn a_pause_is_a_pause() {
    let user = vm();
    user.ok(&["pause", "one"]);
    assert!(user.ok(&["ls"]).contains("paused"));
    assert!(user.fails(10, &["exec", "one", "--", "true"]).contains("resume"));
    user.ok(&["resume", "one"]);
    user.ok(&["exec", "one", "--", "true"]);
    user.ok(&["wait", "one"]);
    // It can be talked to at once, every time, and what was under way goes on.
    let mut cat = piped(&mut user.command(&["exec", "one", "--", "cat"]));
    let (mut stdin, mut stdout) = (cat.stdin.take().unwrap(), BufReader::new(cat.stdout.take().unwrap()));
    let mut line = String::new();
    stdin.write_all(b"there\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    for round in 0..10 {
        user.ok(&["pause", "one"]);
        user.ok(&["resume", "one"]);
        assert_eq!(user.ok(&["exec", "one", "--", "echo", &round.to_string()]), format!("{round}\n"));
    }
    stdin.write_all(b"still there\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "there\nstill there\n");
    drop(stdin);
    assert!(cat.wait().unwrap().success());
    // One that is paused can be stopped as well.
    user.ok(&["pause", "one"]);
    down(&user);
    user.fails(10, &["pause", "one"]);
}

/// Milliseconds that the guest's clock is ahead of ours, as far as asking over the channel can tell.
fn ahead(user: &User) -> f64 {
    let uptime =
        || user.ok(&["exec", "one", "--", "cut", "-d", " ", "-f1", "/proc/uptime"]).trim().parse::<f64>().unwrap();
    let (from, host) = (uptime(), std::time::Instant::now());
    // Three seconds in the guest's own measure.
    user.ok(&["exec", "one", "--", "sleep", "3"]);
    let (to, took) = (uptime(), host.elapsed());
    (to - from - took.as_secs_f64()) * 1000.0
}

#[test]
fn a_guests_second_is_a_second() {
    // What ticks differs by kernel, and by whether there is one vCPU or there are more.
    for (user, vcpus) in [(User::new(), "1"), (User::new(), "2"), (User::with_stock_kernel(), "1")] {
        user.ok(&["up", "-d", "--name", "one", "--memory", "128M", "--cpus", vcpus]);
        // A guest that is told a wrong rate of its counter is some 30 % off: 900 ms here.
        let ahead = ahead(&user);
        assert!(ahead.abs() < 400.0, "{ahead} ms");
        down(&user);
    }
}

#[test]
fn logs_and_waiting_follow_to_the_end() {
    let user = vm();
    let mut logs = piped(&mut user.command(&["logs", "-f", "one"]));
    let waits = piped(&mut user.command(&["wait", "one", "--until", "stopped"]));
    user.ok(&["exec", "one", "--", "sh", "-c", "echo a word on the console > /dev/console"]);
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("a word on the console")));
    // What there was before, but for the last line, is not shown again.
    let mut late = piped(&mut user.command(&["logs", "-f", "-n", "1", "one"]));
    let mut late_lines = BufReader::new(late.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(late_lines.next().unwrap().trim_end(), "a word on the console");
    user.ok(&["down", "one"]);
    assert!(late_lines.any(|line| line.contains("powered off cleanly")));
    assert!(late.wait().unwrap().success());
    assert!(lines.any(|line| line.contains("powered off cleanly")));
    assert!(logs.wait().unwrap().success());
    assert!(waits.wait_with_output().unwrap().status.success());
    assert!(user.ok(&["logs", "one", "-n", "5"]).contains("powered off cleanly"));
    assert_eq!(user.ok(&["logs", "one", "-n", "1"]).lines().count(), 1);
    assert_eq!(user.ok(&["logs", "one", "-n", "0"]), "");
    assert!(user.ok(&["inspect", "one"]).contains("console=ttyS0"));
    let inspected: serde_json::Value = serde_json::from_str(&user.ok(&["inspect", "one", "--json"])).unwrap();
    assert_eq!((&inspected["spec"]["name"], &inspected["record"]["state"]), (&"one".into(), &"stopped".into()));
    assert!(inspected["record"]["cmdline"].as_str().unwrap().contains("console=ttyS0"));
    user.ok(&["logs", "one", "--hypervisor"]);
    user.assert_nothing_left();
}

#[test]
fn who_reads_no_more_ends_the_command_without_a_word() {
    let user = vm();
    let mut yes = piped(user.command(&["exec", "one", "--", "yes"]).stderr(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(yes.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    // Its reader is gone now.
    let out = yes.wait_with_output().unwrap();
    assert_eq!((out.status.code(), support::text(&out.stderr)), (Some(141), String::new()));
    down(&user);
}

#[test]
fn an_end_from_within_is_an_end() {
    let user = vm();
    let waits = piped(&mut user.command(&["wait", "one", "--until", "stopped"]));
    let _ = user.run(&["exec", "one", "--", "sh", "-c", "kill -TERM 1"]);
    assert!(waits.wait_with_output().unwrap().status.success());
    assert!(user.ok(&["ls", "-a"]).contains("stopped"));
    user.assert_nothing_left();
}

#[test]
fn in_the_foreground_ctrl_c_stops_in_order() {
    let user = User::new();
    let mut up = piped(&mut user.command(&["up", "--name", "one", "--memory", "128M", "--rm"]));
    let mut lines = BufReader::new(up.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("one is ready")));
    signal(&up, rustix::process::Signal::INT);
    let mut console = String::new();
    up.stdout.take().unwrap().read_to_string(&mut console).unwrap();
    drop(lines);
    assert!(up.wait().unwrap().success());
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    user.assert_nothing_left();
}
