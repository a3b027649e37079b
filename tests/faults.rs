//! Every process of a start and a stop is killed at every stage, and what is left is a VM that works.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::fs::inotify::WatchFlags;
use rustix::process::Signal;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::events::{Held, Process, Watch, all_gone, end_of};
use support::{User, text};

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

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs `command` and returns the moment the VM has reached the stage: every change of its record is a rename in its
/// folder, which inotify tells of.
#[allow(clippy::zombie_processes, reason = "the caller waits; a panic ends the test")]
fn run_until(user: &User, command: &[&str], stage: Stage) -> (Child, serde_json::Value) {
    let watch = Watch::new(&cache(user), WatchFlags::MOVED_TO);
    let child = spawn(&mut user.command(command));
    loop {
        // The record of the start before must not be taken for this one's.
        watch.next(&format!("{stage:?}"), |name| name == "state.json");
        let record = record(user);
        if reached(&record, stage) {
            return (child, record);
        }
    }
}

fn vsock_device(record: &serde_json::Value) -> Option<u32> {
    let supervisor = record["supervisorPid"].as_u64()?;
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("vhost-device")
    })
}

fn process(record: &serde_json::Value, field: &str) -> Process {
    let pid = record[field].as_u64().unwrap_or_else(|| panic!("no {field} in {record}"));
    Process::open(u32::try_from(pid).unwrap()).unwrap()
}

/// The state that `ls -a` shows.
fn shown(user: &User) -> Option<String> {
    let vms: serde_json::Value = serde_json::from_str(&user.ok(&["ls", "-a", "--json"])).unwrap();
    let vm = vms.as_array().unwrap().iter().find(|vm| vm["spec"]["name"] == "vm")?;
    Some(vm["record"]["state"].as_str().unwrap().to_string())
}

fn kill_at(user: &User, victim: Victim, stage: Stage) {
    let case = format!("{victim:?} at {stage:?}");
    let stops = stage == Stage::Stopping;
    let vmm = stops.then(|| {
        user.ok(&["start", "-d", "vm"]);
        // A guest that stands still cannot have ended before the victim is killed.
        let vmm = process(&record(user), "vmmPid");
        vmm.signal(Signal::STOP);
        vmm
    });
    let command: &[&str] = if stops { &["down", "vm", "--timeout", "10"] } else { &["start", "vm"] };
    let (cli, record) = run_until(user, command, stage);
    let target = match victim {
        Victim::Cli => Process::open(cli.id()).unwrap(),
        Victim::Supervisor => process(&record, "supervisorPid"),
        Victim::Vmm => process(&record, "vmmPid"),
        Victim::Vsock => Process::open(vsock_device(&record).unwrap_or_else(|| panic!("{case}: no device"))).unwrap(),
    };
    target.signal(Signal::KILL);
    target.gone();
    if let Some(vmm) = vmm.filter(Process::is_alive) {
        vmm.signal(Signal::CONT);
    }
    end_of(cli);
    all_gone(user);
    let state = shown(user).unwrap_or_else(|| panic!("{case}: the VM is gone"));
    // A supervisor that still lived has seen to it that its end was told as a failure or an end in order.
    let ends: &[&str] = match (victim, stops) {
        (Victim::Supervisor, _) => &["failed"],
        (_, true) => &["stopped"],
        (_, false) => &["stopped", "failed"],
    };
    assert!(ends.contains(&state.as_str()), "{case}: {state}");
    user.assert_nothing_left();
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
            Process::open(cli.id()).unwrap().signal(how);
            let status = end_of(cli);
            // Before it is ready it was interrupted; then it is stopped as was wished.
            let code = if stage == Stage::Ready { 0 } else { 128 + how.as_raw() };
            assert_eq!(status.code(), Some(code), "{how:?} at {stage:?}");
            // Nobody is waited for: `up` ends after all that it started.
            user.assert_nothing_left();
            let state = shown(&user).unwrap();
            assert!(state == "stopped" || state == "failed", "{how:?} at {stage:?}: {state}");
        }
    }
    works_and_goes(&user);
}

/// Kills the process that makes a file system (the command for an image, the supervisor for drives), or the command, while
/// mke2fs is at it.
#[test]
fn an_assembly_survives_the_death_of_anyone() {
    let user = User::new();
    let held = Held::new(user.home().join("held"));
    for (label, kills_maker) in [
        ("-L mvm-root", true),
        ("-L mvm-rw", true),
        ("-L mvm-rw", false),
        ("-L mvm-config", true),
        ("-L mvm-config", false),
    ] {
        let case = format!("{label}, its maker: {kills_maker}");
        let stand_in = held.stand_in("mke2fs", label, true);
        let command = if shown(&user).is_some() { &["start", "vm"][..] } else { UP };
        let cli = spawn(user.command(command).env("MVM_MKE2FS", stand_in));
        let mke2fs = held.next(&case);
        let maker = mke2fs.parent();
        assert_eq!(maker.pid() == cli.id(), label == "-L mvm-root", "{case}");
        if kills_maker { maker } else { Process::open(cli.id()).unwrap() }.signal(Signal::KILL);
        // It would wait for ever.
        mke2fs.gone();
        end_of(cli);
        all_gone(&user);
        let state = shown(&user);
        // A VM that its `up` has made goes with the fault of its supervisor; without that `up` it stays.
        assert!(matches!(state.as_deref(), None | Some("failed")), "{case}: {state:?}");
    }
    if shown(&user).is_none() {
        user.ok(UP);
        user.ok(&["down", "vm"]);
    }
    works_and_goes(&user);
}

/// A file that is there for an instant only, and who is killed in that instant.
struct Instantly {
    /// The folder to look at, below the home.
    folder: &'static str,
    /// What happens in it.
    event: WatchFlags,
    name: &'static str,
    kills: Victim,
    command: &'static [&'static str],
    /// Whether the blow has fallen in that instant: it may come too late.
    hit: fn(&User) -> bool,
}

const INSTANTS: [Instantly; 3] = [
    // The VM is written down: its keys and its spec.
    Instantly {
        folder: ".local/share/mvm/vms",
        event: WatchFlags::CREATE,
        name: ".new-",
        kills: Victim::Cli,
        command: &["up", "-d", "--name", "new"],
        hit: |user| below(user, ".local/share/mvm/vms").iter().any(|name| name.starts_with(".new-")),
    },
    // The config drive is written.
    Instantly {
        folder: ".cache/mvm/vms/vm",
        event: WatchFlags::CREATE,
        name: "config.ext4.new",
        kills: Victim::Supervisor,
        command: &["start", "vm"],
        hit: |user| below(user, ".cache/mvm/vms/vm").iter().any(|name| name == "config.ext4.new"),
    },
    // The VMM has ended, and the supervisor tidies up after it.
    Instantly {
        folder: ".cache/mvm/run/vms/vm",
        event: WatchFlags::DELETE,
        name: "control.sock",
        kills: Victim::Supervisor,
        command: &["down", "vm"],
        hit: |user| record(user)["state"] == "stopping",
    },
];

fn below(user: &User, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(user.home().join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_instant_is_survived_as_well() {
    let user = User::new();
    user.ok(UP);
    user.ok(&["down", "vm"]);
    for instant in INSTANTS {
        let Instantly { folder, event, name, kills, command, hit } = instant;
        let hit_at = (1..=100).find(|_| {
            if command[0] == "down" {
                user.ok(&["start", "-d", "vm"]);
            }
            let supervisor = record(&user)["supervisorPid"].as_u64();
            let watch = Watch::new(&user.home().join(folder), event);
            let cli = spawn(&mut user.command(command));
            watch.next(name, |seen| seen.starts_with(name));
            let victim = match kills {
                Victim::Cli => Some(cli.id()),
                // One that starts has said who it is before it makes anything.
                _ if supervisor.is_none() => record(&user)["supervisorPid"].as_u64().map(|pid| pid as u32),
                _ => supervisor.map(|pid| pid as u32),
            };
            if let Some(victim) = victim.and_then(Process::open).filter(Process::is_alive) {
                victim.signal(Signal::KILL);
                victim.gone();
            }
            let hit = hit(&user);
            end_of(cli);
            all_gone(&user);
            // The next command sees it and puts it right, hit or not.
            user.ok(&["ls"]);
            user.assert_nothing_left();
            user.run(&["rm", "-f", "new"]);
            hit
        });
        println!("{name}: {hit_at:?}");
        assert!(hit_at.is_some(), "{name} is never there for long enough");
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
    // Roots of builds for a VM that never came to be; that of the last `build` is the user's.
    let roots = user.home().join(".local/share/mvm/gcroots");
    std::fs::create_dir_all(&roots).unwrap();
    for name in ["web", "web-dev", ".tmp-1-web", ".last-build"] {
        std::os::unix::fs::symlink("/nix/store/00000000000000000000000000000000-web", roots.join(name)).unwrap();
    }
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    user.assert_never_was();
    assert_eq!(below(&user, ".local/share/mvm/gcroots"), [".last-build"]);
}

#[test]
fn a_claim_to_live_is_not_believed() {
    let user = User::new();
    user.ok(UP);
    let claim = std::fs::read(cache(&user).join("state.json")).unwrap();
    assert!(text(&claim).contains(r#""ready""#));
    user.ok(&["down", "vm"]);
    let left_by_a_dead_supervisor = || {
        // Nor does it depend on a file that somebody could remove.
        for entry in std::fs::read_dir(user.home().join(".local/share/mvm/vms/vm")).unwrap() {
            let path = entry.unwrap().path();
            assert!(["spec.json", "keys.json", "rw.ext4"].iter().any(|name| path.ends_with(name)), "{path:?}");
        }
        std::fs::write(cache(&user).join("state.json"), &claim).unwrap();
        let runtime = user.home().join(".cache/mvm/run/vms/vm");
        std::fs::create_dir_all(&runtime).unwrap();
        std::fs::write(runtime.join("secrets.ext4"), "for a guest that never came").unwrap();
    };
    left_by_a_dead_supervisor();
    // Whoever has the drive still open reads nothing of the secrets.
    let drive = user.home().join(".cache/mvm/run/vms/vm/secrets.ext4");
    let mut open = std::fs::File::open(&drive).unwrap();
    assert!(!user.ok(&["ls"]).contains("vm"));
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut open, &mut left).unwrap();
    assert!(!drive.exists() && left.iter().all(|byte| *byte == 0), "{left:?}");
    assert_eq!(shown(&user).as_deref(), Some("failed"));
    left_by_a_dead_supervisor();
    user.ok(&["down", "vm"]);
    left_by_a_dead_supervisor();
    user.ok(&["up", "-d", "vm"]);
    assert_eq!(user.ok(&["exec", "vm", "--", "echo", "well"]), "well\n");
    user.ok(&["down", "vm"]);
    left_by_a_dead_supervisor();
    user.ok(&["rm", "vm"]);
    user.assert_never_was();
}

/// Makes a guest that does not power off when it is asked to.
type Deafen = fn(&User);

#[test]
fn a_guest_that_does_not_power_off_does_not_hold_up_down() {
    let user = User::new();
    user.ok(UP);
    user.ok(&["down", "vm"]);
    let deaf: [(&str, Deafen); 3] = [
        ("its kernel panicked and hangs", |user| {
            let log = user.home().join(".local/state/mvm/logs/vm");
            let watch = Watch::new(&log, WatchFlags::MODIFY);
            // Out of memory: our own kernel has no key that makes it panic.
            let panic = "echo 0 > /proc/sys/kernel/panic; echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
            let command = spawn(&mut user.command(&["exec", "vm", "--", "sh", "-c", panic]));
            let says = |line: &str| text(&std::fs::read(log.join("console.log")).unwrap()).contains(line);
            // The last line of a panic: the kernel does nothing after it.
            watch.next("the panic", |_| says("---[ end Kernel panic - not syncing"));
            // Nobody hears the signals, and still they end it.
            let pid = Process::open(command.id()).unwrap();
            for how in [Signal::HUP, Signal::INT, Signal::TERM] {
                pid.signal(how);
            }
            let status = end_of(command);
            assert!(matches!(status.code(), Some(129 | 130 | 143)), "{status:?}");
        }),
        ("a process does not mind SIGTERM", |user| {
            let script = "trap '' TERM HUP; setsid sleep 1000 </dev/null >/dev/null 2>&1 &";
            user.ok(&["exec", "vm", "--", "sh", "-c", script]);
        }),
        ("the VMM stands still", |user| {
            process(&record(user), "vmmPid").signal(Signal::STOP);
        }),
    ];
    for (case, deafen) in deaf {
        user.ok(&["start", "-d", "vm"]);
        deafen(&user);
        let before = Instant::now();
        let down = user.run(&["down", "--timeout", "1", "vm"]);
        let took = before.elapsed();
        // The guest gives its processes ten seconds, and `down` without --timeout the guest thirty.
        assert!(took > Duration::from_secs(1) && took < Duration::from_secs(8), "{case}: {took:?}");
        let said = text(&down.stderr);
        assert!(down.status.success() && said.contains("was killed"), "{case}: {}: {said}", down.status);
        user.assert_nothing_left();
        let record = record(&user);
        assert!(record["state"] == "stopped" && record["exit"]["kind"] == "killed", "{case}: {record}");
    }
    works_and_goes(&user);
}
