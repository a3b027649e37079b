//! Services: started, watched, started again with back-off, left alone when the guest stops.

use crate::agent::command::{Wanted, command, spawn_error};
use crate::context::Guest;
use mvm_core::{Restart, Service};
use mvm_protocol::{ExitStatus, ServiceState, ServiceStatus};
use rustix::process::{Signal, kill_process_group};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

/// The first pause before a service is started again; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A service that ran this long begins again with the first pause.
const SETTLED: Duration = Duration::from_secs(60);

/// The services of a guest.
pub(super) struct Services(Vec<JoinHandle<()>>);

impl Services {
    /// Starts nothing again from now on. The processes themselves are ended with all the others.
    pub(super) fn leave(self) {
        for task in self.0 {
            task.abort();
        }
    }
}

/// Starts every service once and keeps it as its policy says. The guest is ready when each has been tried.
pub(super) fn start(guest: &Rc<Guest>) -> Services {
    let names: Vec<String> = guest.manifest.services.keys().cloned().collect();
    let untried = Rc::new(Cell::new(names.len()));
    if names.is_empty() {
        ready(guest);
    }
    let keep = |name| spawn_local(keep(Rc::clone(guest), name, Rc::clone(&untried)));
    Services(names.into_iter().map(keep).collect())
}

fn ready(guest: &Guest) {
    guest.phase("services");
    guest.status.send_modify(|status| status.ready = true);
}

async fn keep(guest: Rc<Guest>, name: String, untried: Rc<Cell<usize>>) {
    let Some(service) = guest.manifest.services.get(&name) else { return };
    let mut pause = FIRST_PAUSE;
    let (mut restarts, mut last_exit) = (0, None);
    let report = |state, restarts, last_exit| {
        let status = ServiceStatus { state, restarts, last_exit };
        guest.status.send_modify(|all| {
            all.services.insert(name.clone(), status);
        });
    };
    let mut tried = false;
    let mut try_once = || {
        if !std::mem::replace(&mut tried, true) {
            untried.set(untried.get() - 1);
            if untried.get() == 0 {
                ready(&guest);
            }
        }
    };
    loop {
        let began = Instant::now();
        let running = || {
            report(ServiceState::Running, restarts, last_exit);
            try_once();
        };
        last_exit = match once(&guest, service, running).await {
            Ok(exit) => Some(exit),
            Err(error) => {
                tracing::warn!("service {name}: {error}");
                None
            }
        };
        let failed = last_exit.is_none_or(|exit| exit.code != Some(0));
        let again = match service.restart {
            Restart::Always => true,
            Restart::OnFailure => failed,
            Restart::No => false,
        };
        let state = match (again, failed) {
            (true, _) => ServiceState::BackOff,
            (false, true) => ServiceState::Failed,
            (false, false) => ServiceState::Exited,
        };
        report(state, restarts, last_exit);
        try_once();
        if !again {
            return;
        }
        if began.elapsed() >= SETTLED {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        restarts = restarts.saturating_add(1);
    }
}

/// Runs a service to its end. What ends the preparation badly ends the service.
async fn once(guest: &Guest, service: &Service, running: impl FnOnce()) -> io::Result<ExitStatus> {
    if let Some(before) = &service.pre_start {
        let exit = run(guest, service, before, || {}).await?;
        if exit.code != Some(0) {
            return Ok(exit);
        }
    }
    run(guest, service, &service.command, running).await
}

/// Runs one command of a service, and leaves nothing of its process group.
async fn run(guest: &Guest, service: &Service, argv: &[String], running: impl FnOnce()) -> io::Result<ExitStatus> {
    let wanted = Wanted {
        argv,
        env: &service.env,
        cwd: Some(service.working_directory.as_deref().unwrap_or("/")),
        user: service.user.as_deref(),
    };
    let mut command = command(guest, &wanted).map_err(|error| io::Error::other(error.message))?;
    let log = log(service.log_file.as_deref().map(Path::new))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = guest.reaper.spawn(command).map_err(|error| {
        let program = argv.first().map_or("", String::as_str);
        io::Error::other(spawn_error(program, &error).message)
    })?;
    running();
    let exit = child.exit.await.map_err(io::Error::other)?;
    // What it has left behind would be in the way of the next one: ports, locks. Mostly there is nothing.
    let _ = kill_process_group(child.pid, Signal::KILL);
    Ok(exit)
}

fn log(path: Option<&Path>) -> io::Result<File> {
    let path = path.unwrap_or(Path::new("/dev/console"));
    let because = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(because)?;
    }
    File::options().append(true).create(true).open(path).map_err(because)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::{in_guest, until};
    use serde_json::json;

    fn shell(script: &str, dir: &Path) -> serde_json::Value {
        json!({"command": ["/bin/sh", "-c", script], "logFile": dir.join("log/service")})
    }

    #[test]
    fn a_service_is_started_again_and_counts() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let mut service = shell(&format!("echo x >> {0}; test $(wc -l < {0}) = 3", count.display()), dir.path());
        service["restart"] = json!("on-failure");
        in_guest(json!({"services": {"a": service}}), async |guest| {
            let services = start(&guest);
            let status =
                until(&guest, |status| status.services.get("a").is_some_and(|a| a.state == ServiceState::Exited));
            let status = status.await;
            assert!(status.ready);
            assert_eq!(status.services["a"].restarts, 2);
            assert_eq!(status.services["a"].last_exit, Some(ExitStatus { code: Some(0), signal: None }));
            services.leave();
        });
        assert_eq!(std::fs::read_to_string(count).unwrap(), "x\nx\nx\n");
    }

    #[test]
    fn the_guest_is_ready_when_each_was_tried_and_failures_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut prepared = shell("echo out; echo err >&2; exec sleep 1000", dir.path());
        prepared["preStart"] = json!(["/bin/sh", "-c", "echo prepared"]);
        let mut unprepared = shell("exec sleep 1000", dir.path());
        unprepared["preStart"] = json!(["/bin/sh", "-c", "exit 7"]);
        unprepared["restart"] = json!("no");
        let mut missing = json!({"command": ["no-such-program"], "restart": "no"});
        missing["logFile"] = json!(dir.path().join("none"));
        let services = json!({"prepared": prepared, "unprepared": unprepared, "missing": missing});
        in_guest(json!({"services": services}), async |guest| {
            let services = start(&guest);
            assert!(!guest.status.borrow().ready);
            let status = until(&guest, |status| status.ready).await;
            assert_eq!(status.services["prepared"].state, ServiceState::Running);
            assert_eq!(status.services["unprepared"].state, ServiceState::Failed);
            assert_eq!(status.services["unprepared"].last_exit.and_then(|exit| exit.code), Some(7));
            assert_eq!(status.services["missing"].state, ServiceState::Failed);
            assert!(status.phases.iter().any(|phase| phase.name == "services"));
            assert!(status.degraded());
            services.leave();
        });
    }

    #[test]
    fn what_a_service_leaves_behind_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut service = shell("sleep 1000 & exit 0", dir.path());
        service["restart"] = json!("no");
        in_guest(json!({"services": {"a": service}}), async |guest| {
            let services = start(&guest);
            until(&guest, |status| status.services.get("a").is_some_and(|a| a.state == ServiceState::Exited)).await;
            // The sleep is ours to reap, and nothing but its death lets this return.
            guest.reaper.wait_until_alone().await;
            services.leave();
        });
    }

    #[test]
    fn a_guest_without_services_is_ready() {
        in_guest(json!({}), async |guest| {
            start(&guest).leave();
            assert!(guest.status.borrow().ready);
        });
    }
}
