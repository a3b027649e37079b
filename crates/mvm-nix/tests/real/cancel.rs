//! A build that nobody waits for any more leaves no builder, whichever way its waiter went.

use crate::world::{World, worlds};
use mvm_nix::{BuildEvent, Nix};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::oneshot;

/// Builds what never ends, and tells when its builder runs.
async fn build_endlessly(world: &World, package: &str, started: oneshot::Sender<()>) {
    let mut started = Some(started);
    let result = world
        .nix
        .build(&world.request(package), |event| {
            if matches!(event, BuildEvent::Log { line, .. } if line == "started") {
                started.take().map(|s| s.send(()));
            }
        })
        .await;
    panic!("{}: {result:?}", world.label);
}

/// Waits for processes to end. They were struck already: this is for the time between the blow and the death.
fn wait_for_end(pids: &[i32]) {
    for pid in pids {
        let Ok(process) = pidfd_open(Pid::from_raw(*pid).unwrap(), PidfdFlags::empty()) else { continue };
        let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ended, 1, "process {pid} lives on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_build_leaves_no_builder() {
    for world in worlds() {
        let (tell, started) = oneshot::channel();
        let mut build = Box::pin(build_endlessly(&world, "./flake#endless", tell));
        tokio::select! {
            () = &mut build => unreachable!(),
            told = tokio::time::timeout(Duration::from_secs(60), started) => told.unwrap().unwrap(),
        }
        let builders = world.builders();
        assert!(!builders.is_empty(), "{}: the builder runs", world.label);
        let from = std::time::Instant::now();
        drop(build);
        assert!(from.elapsed() < Duration::from_secs(4), "{}: nix had to be killed", world.label);
        wait_for_end(&builders);
        wait_for_end(&world.builders());
        assert_eq!(world.builders(), [0; 0], "{}", world.label);
        assert_eq!(world.gc_roots().len(), 0, "{}", world.label);
    }
}

/// The last resort, with a program that does not mind being interrupted in the place of Nix.
#[tokio::test(flavor = "multi_thread")]
async fn what_ignores_interrupts_is_killed_with_its_builders() {
    let world = worlds().remove(0);
    let program = world.folder.join("stubborn");
    let builder = "setsid /bin/sh -c 'echo up >&2; sleep 600; exit 0' &";
    let text = format!("#!/bin/sh\ntrap '' INT\nexport marker={}\n{builder}\nwait\n", world.marker);
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (tell, started) = oneshot::channel();
    let mut tell = Some(tell);
    let (nix, request) = (Nix::at(&program), world.request("./flake"));
    let mut build = Box::pin(nix.build(&request, |event| {
        if matches!(event, BuildEvent::Plain(_)) {
            tell.take().map(|t| t.send(()));
        }
    }));
    tokio::select! {
        result = &mut build => panic!("{result:?}"),
        told = tokio::time::timeout(Duration::from_secs(60), started) => told.unwrap().unwrap(),
    }
    assert!(!world.builders().is_empty());
    drop(build);
    wait_for_end(&world.builders());
    assert_eq!(world.builders(), [0; 0]);
}

/// Not a test of its own: what `a_killed_waiter_leaves_no_builder` kills.
#[tokio::test(flavor = "multi_thread")]
async fn waiter() {
    let Some(newer) = std::env::var_os("MVM_NIX_TEST_WAITER") else { return };
    let world = worlds().remove(usize::from(newer == "1"));
    println!("\nmarker {}", world.marker);
    let (tell, started) = oneshot::channel();
    tokio::join!(build_endlessly(&world, "./flake#ticking", tell), async {
        started.await.unwrap();
        println!("\nstarted");
    });
}

#[test]
fn a_killed_waiter_leaves_no_builder() {
    for (index, mut world) in worlds().into_iter().enumerate() {
        let mut waiter = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cancel::waiter", "--nocapture", "--test-threads=1"])
            .env("MVM_NIX_TEST_WAITER", index.to_string())
            // The waiter is killed and cannot tidy up: its world lies in ours.
            .env("TMPDIR", &world.folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(waiter.stdout.take().unwrap()).lines().map(Result::unwrap);
        let marker = lines.find_map(|l| l.strip_prefix("marker ").map(str::to_owned)).expect("the waiter speaks");
        assert!(lines.any(|l| l == "started"), "{}: the builder started", world.label);
        world.marker = marker;
        let builders = world.builders();
        assert!(!builders.is_empty(), "{}", world.label);
        kill_process(Pid::from_raw(waiter.id() as i32).unwrap(), Signal::KILL).unwrap();
        waiter.wait().unwrap();
        wait_for_end(&builders);
        wait_for_end(&world.builders());
        assert_eq!(world.builders(), [0; 0], "{}", world.label);
    }
}
