//! Every process of a start and a stop is killed at every stage, and what is left is a VM that works.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use support::User;

/// Longest wait for anything: a machine under load is slow, not broken.
const DEADLINE: Duration = Duration::from_secs(90);
const UP: &[&str] = &["up", "-d", "--name", "vm", "--memory", "128M"];

/// Which process is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Cli,
    Supervisor,
    Vmm,
    Vsock,
}

/// The state of the VM in which it is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// The supervisor has begun.
    Starting,
    /// The VMM runs and the guest boots.
    Spawned,
    Booted,
    Ready,
    Stopping,
}

fn left(until: Instant) -> Timespec {
    Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap()
}

fn wait_for(fd: &OwnedFd, until: Instant, what: &str) {
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left(until))) {
            Ok(0) => panic!("{what} did not happen in time"),
            Ok(_) => return,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// Waits for the end of a process that need not be our child.
fn gone(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
        wait_for(&fd, Instant::now() + DEADLINE, &format!("the end of {pid:?}"));
    }
}

fn all_gone(user: &User) {
    for process in user.processes() {
        gone(process.split(':').next().unwrap().parse().unwrap());
    }
}

fn signal(pid: u32, signal: Signal) {
    // It may have ended in the same instant.
    let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal);
}

fn end_of(mut child: Child) -> ExitStatus {
    gone(child.id());
    child.wait().unwrap()
}

fn cache(user: &User) -> PathBuf {
    user.home().join(".cache/mvm/vms/vm")
}

/// The record that the supervisor last wrote.
fn record(user: &User) -> serde_json::Value {
    std::fs::read(cache(user).join("state.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn reached(record: &serde_json::Value, stage: Stage) -> bool {
    let state = record["state"].as_str().unwrap_or_default();
    let spawned = !record["vmmPid"].is_null();
    match stage {
        Stage::Starting => matches!(state, "starting" | "booted" | "ready"),
        Stage::Spawned => spawned && matches!(state, "starting" | "booted" | "ready"),
        Stage::Booted => matches!(state, "booted" | "ready"),
        Stage::Ready => state == "ready",
        Stage::Stopping => matches!(state, "stopping" | "stopped"),
    }
}

/// Runs `command` and returns the moment the VM has reached the stage: every change of its record is a rename in its
/// folder, which inotify tells of.
#[allow(clippy::zombie_processes, reason = "the caller waits; a panic ends the test")]
fn run_until(user: &User, command: &[&str], stage: Stage) -> (Child, serde_json::Value) {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, cache(user), inotify::WatchFlags::MOVED_TO).unwrap();
    let child = user.command(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.unwrap();
    let until = Instant::now() + DEADLINE;
    loop {
        // The record of the start before must not be taken for this one's.
        wait_for(&watch, until, &format!("{stage:?}"));
        let mut buffer = [0; 4096];
        while rustix::io::read(&watch, &mut buffer).is_ok_and(|n| n > 0) {}
        let record = record(user);
        if reached(&record, stage) {
            return (child, record);
        }
    }
}

fn vsock_device(supervisor: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("vhost-device")
    })
}

fn pid(record: &serde_json::Value, field: &str) -> Option<u32> {
    record[field].as_u64().map(|pid| u32::try_from(pid).unwrap())
}

/// The state that `ls -a` shows.
fn shown(user: &User) -> Option<String> {
    let vms: serde_json::Value = serde_json::from_str(&user.ok(&["ls", "-a", "--json"])).unwrap();
    let vm = vms.as_array().unwrap().iter().find(|vm| vm["spec"]["name"] == "vm")?;
    Some(vm["record"]["state"].as_str().unwrap().to_string())
}

fn kill_at(user: &User, victim: Victim, stage: Stage) {
    let case = format!("{victim:?} at {stage:?}");
    if stage == Stage::Stopping {
        user.ok(&["start", "-d", "vm"]);
    }
    let command: &[&str] = if stage == Stage::Stopping { &["down", "vm"] } else { &["start", "vm"] };
    let (cli, record) = run_until(user, command, stage);
    let supervisor = pid(&record, "supervisorPid");
    let target = match victim {
        Victim::Cli => Some(cli.id()),
        Victim::Supervisor => supervisor,
        Victim::Vmm => pid(&record, "vmmPid"),
        Victim::Vsock => supervisor.and_then(vsock_device),
    };
    // Only a stop may have been quicker than we.
    assert!(target.is_some() || stage == Stage::Stopping, "{case}: nobody to kill in {record}");
    if let Some(target) = target {
        signal(target, Signal::KILL);
    }
    end_of(cli);
    all_gone(user);
    let state = shown(user).unwrap_or_else(|| panic!("{case}: the VM is gone"));
    assert!(state == "stopped" || state == "failed", "{case}: {state}");
    // A supervisor that still lived has seen to it that its end was told as a failure or an end in order.
    if victim == Victim::Supervisor && stage != Stage::Stopping {
        assert_eq!(state, "failed", "{case}");
    }
    user.assert_nothing_left();
    assert!(!cache(user).join("config.ext4").exists(), "{case}: the guest's key is left");
}

fn works_and_goes(user: &User) {
    user.ok(&["start", "-d", "vm"]);
    assert_eq!(user.ok(&["exec", "vm", "--", "echo", "well"]), "well\n");
    user.ok(&["down", "vm"]);
    user.assert_nothing_left();
    user.ok(&["rm", "vm"]);
    assert_eq!(shown(user), None);
    user.ok(UP);
    user.ok(&["down", "--rm", "vm"]);
    user.assert_nothing_left();
}

fn kills(stages: &[Stage], victims: &[Victim]) {
    let user = User::new();
    user.ok(UP);
    user.ok(&["down", "vm"]);
    for stage in stages {
        for victim in victims {
            // Before the VMM is there, only two can be killed.
            if *stage == Stage::Starting && matches!(victim, Victim::Vmm | Victim::Vsock) {
                continue;
            }
            kill_at(&user, *victim, *stage);
        }
    }
    works_and_goes(&user);
}

const OURS: &[Victim] = &[Victim::Cli, Victim::Supervisor];
const THEIRS: &[Victim] = &[Victim::Vmm, Victim::Vsock];
const START: &[Stage] = &[Stage::Starting, Stage::Spawned, Stage::Booted, Stage::Ready];

#[test]
fn a_start_survives_the_death_of_our_processes() {
    kills(START, OURS);
}

#[test]
fn a_start_survives_the_death_of_the_vmm_and_its_device() {
    kills(START, THEIRS);
}

#[test]
fn a_stop_survives_the_death_of_anyone() {
    kills(&[Stage::Stopping], &[Victim::Cli, Victim::Supervisor, Victim::Vmm, Victim::Vsock]);
}

#[test]
fn a_signal_to_a_foreground_up_stops_the_vm() {
    let user = User::new();
    user.ok(UP);
    user.ok(&["down", "vm"]);
    for how in [Signal::INT, Signal::TERM] {
        for stage in [Stage::Starting, Stage::Spawned, Stage::Ready] {
            let (cli, _) = run_until(&user, &["up", "vm"], stage);
            signal(cli.id(), how);
            end_of(cli);
            // Nobody is waited for: `up` ends after all that it started.
            user.assert_nothing_left();
            let state = shown(&user).unwrap();
            assert!(state == "stopped" || state == "failed", "{how:?} at {stage:?}: {state}");
        }
    }
    works_and_goes(&user);
}

#[test]
fn what_a_killed_command_left_half_made_is_swept() {
    let user = User::new();
    let vms = user.home().join(".local/share/mvm/vms");
    for name in [".new-a1b2c3", ".gone-vm-77"] {
        std::fs::create_dir_all(vms.join(name)).unwrap();
        std::fs::write(vms.join(name).join("spec.json"), "{").unwrap();
    }
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    user.assert_nothing_left();
}

#[test]
fn a_guest_that_panicked_does_not_hold_up_down() {
    let user = User::new();
    user.ok(UP);
    // The command dies with its guest, so how it ends is of no interest.
    let panic = ["exec", "vm", "--", "sh", "-c", "echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger"];
    let panicking = user.command(&panic).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let before = Instant::now();
    user.run(&["down", "--timeout", "2", "vm"]);
    assert!(before.elapsed() < Duration::from_secs(25), "{:?}", before.elapsed());
    end_of(panicking);
    all_gone(&user);
    assert!(matches!(shown(&user).as_deref(), Some("stopped" | "failed")));
    works_and_goes(&user);
}
