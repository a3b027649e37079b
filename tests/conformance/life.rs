//! The life of a VM: boot, pause, stop, kill, and what is left afterwards.

use crate::lane::Lane;
use crate::piped;
use crate::support::text;
use mvm_core::Feature;
use std::io::{BufRead, BufReader, Write};
use std::time::{SystemTime, UNIX_EPOCH};

pub fn boots(lane: &Lane) {
    let secret = lane.secret.argument("token");
    let mut options = Vec::new();
    if lane.can(Feature::Image) {
        options.extend(["--memory", "128M", "--env", "GREETING=hello"]);
    }
    if lane.can(Feature::Agent) {
        options.extend(["--port", "0:8080"]);
    }
    if lane.can(Feature::Drives) {
        options.extend(["--volume", "data:/data:16M", "--secret", &secret]);
    }
    let two: &[&str] = if lane.can(Feature::Image) { &["--memory", "128M", "--cpus", "2"] } else { &[] };
    let starting = [lane.up("one", &options), lane.up("two", two)].map(|args| piped(&mut lane.user.command(&args)));
    for child in starting {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
    let state = if lane.can(Feature::Agent) { "ready" } else { "running" };
    for vm in ["one", "two"] {
        let record = lane.record(vm);
        assert_eq!((&record["state"], &record["hypervisor"]), (&state.into(), &lane.hypervisor.as_str().into()));
        assert!(lane.user.ok(&["ls"]).contains(vm));
        lane.user.ok(&["wait", vm]);
    }
    if lane.can(Feature::Agent) {
        assert_eq!(lane.user.ok(&["exec", "one", "--", "uname", "-s"]), "Linux\n");
    }
}

pub fn vcpus(lane: &Lane) {
    let can = lane.hypervisor.capabilities();
    // A container sees every CPU, and gets its share of their time.
    if !can.kernels.is_empty() {
        assert_eq!(lane.sh("one", "nproc"), "1\n");
        assert_eq!(lane.sh("two", "nproc"), "2\n");
    }
    let more = (can.max_vcpus + 1).to_string();
    let said = lane.user.fails(2, &lane.up("refused", &["--cpus", &more]));
    // What no backend can have is no value of the option.
    assert!(said.contains(lane.hypervisor.as_str()) || said.contains("1..=256"), "{said}");
    assert!(!lane.user.ok(&["ls", "-a"]).contains("refused"));
}

pub fn pause(lane: &Lane) {
    let user = &lane.user;
    let before = lane.record("one")["state"].clone();
    user.ok(&["pause", "one"]);
    assert_eq!(lane.record("one")["state"], "paused");
    if lane.can(Feature::Agent) {
        assert!(user.fails(10, &["exec", "one", "--", "true"]).contains("resume"));
    }
    user.ok(&["resume", "one"]);
    assert_eq!(lane.record("one")["state"], before);
    user.ok(&["wait", "one"]);
}

pub fn across_pauses(lane: &Lane) {
    // It can be talked to at once, every time, and what was under way goes on.
    let mut cat = piped(&mut lane.user.command(&["exec", "one", "--", "cat"]));
    let (mut stdin, mut stdout) = (cat.stdin.take().unwrap(), BufReader::new(cat.stdout.take().unwrap()));
    let mut line = String::new();
    stdin.write_all(b"there\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    for round in 0..10 {
        lane.user.ok(&["pause", "one"]);
        lane.user.ok(&["resume", "one"]);
        assert_eq!(lane.user.ok(&["exec", "one", "--", "echo", &round.to_string()]), format!("{round}\n"));
    }
    stdin.write_all(b"still there\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "there\nstill there\n");
    drop(stdin);
    assert!(cat.wait().unwrap().success());
}

/// Seconds that the guest's clock is ahead of ours, at least and at most: it tells whole ones, and asking takes time.
fn ahead(lane: &Lane) -> (f64, f64) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let guest: f64 = lane.sh("one", "date +%s").trim().parse().unwrap();
    (guest - now(), guest + 1.0 - before)
}

pub fn clock(lane: &Lane) {
    let before = ahead(lane);
    lane.user.ok(&["pause", "one"]);
    // Three seconds in the measure of another guest.
    lane.user.ok(&["exec", "two", "--", "sleep", "3"]);
    lane.user.ok(&["resume", "one"]);
    let after = ahead(lane);
    assert!(before.0 <= after.1 && after.0 <= before.1, "ahead by {before:?} before a pause, by {after:?} after it");
}

pub fn logs_and_stop(lane: &Lane) {
    let user = &lane.user;
    let agent = lane.can(Feature::Agent);
    let mut logs = piped(&mut user.command(&["logs", "-f", "one"]));
    let waits = piped(&mut user.command(&["wait", "one", "--until", "stopped"]));
    let words = if agent { "a word on the console" } else { "hello from the runner" };
    if agent {
        lane.sh("one", &format!("echo kept > /root/file; echo {words} > /dev/console"));
    }
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(words)));
    // What there was before, but for the last line, is not shown again.
    let mut late = piped(&mut user.command(&["logs", "-f", "-n", "1", "one"]));
    let mut late_lines = BufReader::new(late.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(late_lines.next().unwrap().trim_end(), words);
    user.ok(&["down", "one", "two"]);
    let end = |line: String| line.contains("powered off cleanly");
    assert_eq!((late_lines.any(end), lines.any(end)), (agent, agent));
    for mut follower in [logs, late, waits] {
        assert!(follower.wait().unwrap().success());
    }
    lane.assert_nothing_runs();
    assert_eq!(user.ok(&["logs", "one"]).contains("powered off cleanly"), agent);
    assert_eq!(user.ok(&["logs", "one", "-n", "1"]).lines().count(), 1);
    assert_eq!(user.ok(&["logs", "one", "-n", "0"]), "");
    let record = lane.record("one");
    assert_eq!((&record["state"], &record["exit"]["kind"]), (&"stopped".into(), &"requested".into()));
    if !lane.hypervisor.capabilities().kernels.is_empty() {
        assert!(user.ok(&["inspect", "one"]).contains("console=ttyS0"));
        assert!(record["cmdline"].as_str().unwrap().contains("console=ttyS0"));
        user.ok(&["logs", "one", "--hypervisor"]);
    }
    assert!(!user.ok(&["ls"]).contains("one") && user.ok(&["ls", "-a"]).contains("one"));
    // The writable layer is the VM's: it survives a stop, and so does what the image has not.
    lane.start();
    if agent {
        assert_eq!(lane.sh("one", "cat /root/file; echo $GREETING"), "kept\nhello\n");
    }
}

pub fn kill(lane: &Lane) {
    lane.user.ok(&["down", "one", "--force"]);
    let record = lane.record("one");
    assert_eq!((&record["state"], &record["exit"]["kind"]), (&"stopped".into(), &"killed".into()));
    lane.assert_nothing_runs();
    lane.start();
    lane.user.ok(&["wait", "one"]);
}

pub fn end_from_within(lane: &Lane) {
    let waits = piped(&mut lane.user.command(&["wait", "one", "--until", "stopped"]));
    let _ = lane.user.run(&["exec", "one", "--", "sh", "-c", "kill -TERM 1"]);
    assert!(waits.wait_with_output().unwrap().status.success());
    assert!(lane.user.ok(&["ls", "-a"]).contains("stopped"));
    lane.assert_nothing_runs();
    lane.start();
    assert_eq!(lane.sh("one", "cat /root/file"), "kept\n");
}

pub fn stopped_while_paused(lane: &Lane) {
    lane.user.ok(&["pause", "one"]);
    lane.user.ok(&["down", "one"]);
    lane.assert_nothing_runs();
    lane.user.fails(10, &["pause", "one"]);
    lane.start();
}

pub fn removed(lane: &Lane) {
    let volumes: &[&str] = if lane.can(Feature::Drives) { &["--volumes"] } else { &[] };
    lane.user.ok(&[&["rm", "--force", "one"], volumes].concat());
    lane.user.ok(&["rm", "two"]);
    assert_eq!(lane.user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    lane.assert_no_vm();
}
