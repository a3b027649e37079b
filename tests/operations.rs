//! What one does with VMs beyond the cases that every backend shares (tests/conformance).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use support::User;

fn down(user: &User) {
    user.ok(&["down", "one"]);
    user.assert_nothing_left();
}

fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_command_alone_gets_a_vm_and_leaves_none() {
    let user = User::new();
    assert_eq!(user.ok(&["exec", "--", "uname", "-s"]), "Linux\n");
    user.fails(4, &["exec", "--", "sh", "-c", "exit 4"]);
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    user.assert_nothing_left();
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
