//! SIGINT and SIGTERM to every command that takes long: it ends soon, with the code of docs/exit-codes.md, and nothing of
//! what it had begun is left.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;
#[path = "support/terminal.rs"]
mod terminal;

use rustix::fs::inotify::WatchFlags;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use support::events::{Held, Process, Watch, all_gone, end_of};
use support::{User, flake};
use terminal::Terminal;

/// No command may take longer to give up. Nothing that is interrupted here would end by itself within this time.
const PROMPT: Duration = Duration::from_secs(10);
const BOTH: [Signal; 2] = [Signal::INT, Signal::TERM];

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a shell shows of an end.
fn code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|n| 128 + n)).unwrap()
}

/// Signals a command, which must soon end of it; what it said on stderr.
fn interrupt(case: &str, mut child: Child, signal: Signal) -> String {
    let mut stderr = child.stderr.take().unwrap();
    let before = Instant::now();
    Process::open(child.id()).unwrap().signal(signal);
    let status = end_of(child);
    assert!(before.elapsed() < PROMPT, "{case}: {:?}", before.elapsed());
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(code(status), 128 + signal.as_raw(), "{case}: {said}");
    said
}

/// The places where the making of a VM is interrupted, in their order: who makes what is done before is cached then.
const STAGES: [&str; 4] = [
    // The image is assembled, by the command itself.
    "-L mvm-root",
    // The templates of the drives are made, by the supervisor.
    "-L mvm-rw",
    "-L mvm-config",
    // The guest boots.
    "-kernel",
];

#[test]
fn a_vm_in_the_making_is_unmade() {
    let user = User::new();
    let held = Held::new(user.home().join("held"));
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    for words in STAGES {
        let (variable, stand_in) = match words {
            "-kernel" => ("MVM_QEMU", held.stand_in(&qemu, words, false)),
            label => ("MVM_MKE2FS", held.stand_in("mke2fs", label, true)),
        };
        for command in [&["exec", "--", "true"][..], &["up", "-d", "--name", "new"], &["up"]] {
            for signal in BOTH {
                let case = format!("{signal:?} to {command:?} at {words}");
                let child = spawn(user.command(command).env(variable, &stand_in));
                held.next(&case);
                let said = interrupt(&case, child, signal);
                assert!(said.contains("error: interrupted\n"), "{case}: {said}");
                // Nobody is waited for: a command ends after all that it started.
                user.assert_never_was();
            }
        }
    }
    assert_eq!(user.ok(&["exec", "--", "echo", "well"]), "well\n");
    user.assert_never_was();
}

#[test]
fn one_who_waits_for_anothers_image_need_not_wait() {
    let user = User::new();
    let held = Held::new(user.home().join("held"));
    let stand_in = held.stand_in("mke2fs", "-L mvm-root", true);
    let first = spawn(user.command(&["exec", "--", "true"]).env("MVM_MKE2FS", &stand_in));
    held.next("the first one's assembly");
    // The second one opens the lock before it waits for it.
    let watch = Watch::new(&user.home().join(".cache/mvm/images"), WatchFlags::OPEN);
    let second = spawn(&mut user.command(&["exec", "--", "true"]));
    watch.next("the look at the lock", |name| name == ".lock");
    interrupt("the second", second, Signal::INT);
    interrupt("the first", first, Signal::INT);
    user.assert_never_was();
}

#[test]
fn the_command_of_a_vm_made_for_it_gets_the_signal() {
    let user = User::new();
    for signal in BOTH {
        let mut child = spawn(&mut user.command(&["exec", "--", "sh", "-c", "echo running; exec sleep 1000"]));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "running\n");
        interrupt("exec", child, signal);
        user.assert_never_was();
    }
}

#[test]
fn a_build_is_ended_with_its_builders() {
    for user in User::of_each_nix() {
        let flake = format!("{}#hangs", flake::install(&user).display());
        let held = Held::new(flake::held(&user));
        let link = user.home().join("result");
        let link = link.to_str().unwrap();
        let entry = flake.replace("#hangs", "#worker");
        let up: &[&str] = &["up", "-d", "--name", "web", "--flake", &flake];
        for (command, signal) in [
            (&["build", &flake][..], Signal::INT),
            (&["build", &flake, "-o", link], Signal::TERM),
            (&["build", &flake, "--watch"], Signal::INT),
            (up, Signal::INT),
            (up, Signal::TERM),
            (&["image", "fetch", &entry], Signal::TERM),
        ] {
            let case = format!("{signal:?} to {command:?}");
            let child = spawn(&mut user.command(command));
            let builder = held.next(&case);
            let said = interrupt(&case, child, signal);
            assert!(said.contains("error: interrupted\n"), "{case}: {said}");
            assert!(!builder.is_alive(), "{case}");
            user.assert_never_was();
            assert!(!user.home().join("result").exists());
        }
        // Nobody can hear SIGKILL, and still the builders go with the command.
        let up = spawn(&mut user.command(up));
        let builder = held.next("a build that is killed");
        Process::open(up.id()).unwrap().signal(Signal::KILL);
        assert_eq!(code(end_of(up)), 137);
        builder.gone();
        all_gone(&user);
        user.ok(&["ls"]);
        user.assert_never_was();
    }
}

#[test]
fn who_only_looks_just_goes() {
    let user = User::new();
    user.ok(&["up", "-d", "--name", "one", "--memory", "128M"]);
    let vms: serde_json::Value = serde_json::from_str(&user.ok(&["ls", "--json"])).unwrap();
    let supervisor = u32::try_from(vms[0]["record"]["supervisorPid"].as_u64().unwrap()).unwrap();
    let supervisor = Process::open(supervisor).unwrap();
    for signal in BOTH {
        let mut logs = spawn(&mut user.command(&["logs", "-f", "one"]));
        // From the first byte on it follows.
        logs.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        interrupt("logs", logs, signal);
        interrupt("wait", spawn(&mut user.command(&["wait", "one", "--until", "stopped"])), signal);
        // While the supervisor does not answer, these cannot end by themselves.
        supervisor.signal(Signal::STOP);
        for command in [&["forward", "one", "-p", "0:7"][..], &["pause", "one"]] {
            interrupt(command[0], spawn(&mut user.command(command)), signal);
        }
        supervisor.signal(Signal::CONT);
        // What they had asked for may have been done.
        user.ok(&["resume", "one"]);
        user.ok(&["exec", "one", "--", "true"]);
    }
    // A stop that was asked for goes on without the one who asked.
    supervisor.signal(Signal::STOP);
    interrupt("down", spawn(&mut user.command(&["down", "one"])), Signal::INT);
    supervisor.signal(Signal::CONT);
    user.ok(&["down", "one"]);
    user.assert_nothing_left();
    user.ok(&["rm", "one"]);
    user.assert_never_was();
}

#[test]
fn a_console_gives_the_terminal_back() {
    let user = User::new();
    user.ok(&["up", "-d", "--name", "one", "--memory", "128M"]);
    let mut logs = Terminal::spawn(&mut user.command(&["logs", "-f", "one"]), 24, 80);
    let script = "trap 'echo the shell is gone >/dev/console; exit' HUP; echo at home; while :; do read line; done";
    for signal in BOTH {
        let console = ["console", "one", "--command", "sh", "-c", script];
        let mut terminal = Terminal::spawn(&mut user.command(&console), 24, 80);
        let before = terminal.modes();
        terminal.until("at home");
        assert_ne!(terminal.modes(), before, "it is raw");
        let console = Process::open(terminal.pid()).unwrap();
        console.signal(signal);
        console.gone();
        assert_eq!(terminal.modes(), before, "{signal:?}");
        let (status, said) = terminal.end();
        assert_eq!(code(status), 128 + signal.as_raw(), "{said}");
        logs.until("the shell is gone");
    }
    user.ok(&["down", "--rm", "one"]);
    assert!(logs.end().0.success());
    user.assert_never_was();
}
