//! Services: started, watched, started again with back-off, left alone when the guest stops.

use super::readiness::Awaited;
use crate::agent::command::{Wanted, command, spawn_error};
use crate::agent::users::User;
use crate::context::Guest;
use crate::process::Child;
use mvm_core::{Restart, Service};
use mvm_protocol::{ExitStatus, ServiceState, ServiceStatus};
use rustix::process::{Signal, kill_process_group};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
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

/// Starts every service and keeps it as its policy says. The guest is ready when none is awaited any more.
pub(super) fn start(guest: &Rc<Guest>) -> Services {
    let names: Vec<String> = guest.manifest.services.keys().cloned().collect();
    let awaited = Rc::new(Cell::new(names.len()));
    if names.is_empty() {
        ready(guest);
    }
    let keep = |name| spawn_local(keep(Rc::clone(guest), name, Rc::clone(&awaited)));
    Services(names.into_iter().map(keep).collect())
}

fn ready(guest: &Guest) {
    guest.phase("services");
    guest.status.send_modify(|status| status.ready = true);
}

/// That the guest's readiness waits for a service.
struct Trial<'g> {
    guest: &'g Guest,
    awaited: Rc<Cell<usize>>,
    over: Cell<bool>,
}

impl Trial<'_> {
    /// It waits for it no longer. Only the first time counts.
    fn end(&self) {
        if !self.over.replace(true) {
            self.awaited.set(self.awaited.get() - 1);
            if self.awaited.get() == 0 {
                ready(self.guest);
            }
        }
    }
}

async fn keep(guest: Rc<Guest>, name: String, awaited: Rc<Cell<usize>>) {
    let Some(service) = guest.manifest.services.get(&name) else { return };
    let trial = Trial { guest: &guest, awaited, over: Cell::new(false) };
    let patience = async {
        if let Some(readiness) = &service.readiness {
            tokio::time::sleep(Duration::from_secs(readiness.timeout_seconds.into())).await;
            // It may still become ready; until then the guest is degraded.
            trial.end();
        }
    };
    tokio::join!(run_again(&guest, &name, service, &trial), patience);
}

/// Runs a service again and again, as its policy says.
async fn run_again(guest: &Guest, name: &str, service: &Service, trial: &Trial<'_>) {
    let mut pause = FIRST_PAUSE;
    let (mut restarts, mut last_exit) = (0, None);
    let report = |state, restarts, last_exit| {
        let status = ServiceStatus { state, restarts, last_exit };
        guest.status.send_modify(|all| {
            all.services.insert(name.to_owned(), status);
        });
    };
    loop {
        let began = Instant::now();
        let runs = |state| {
            report(state, restarts, last_exit);
            if state == ServiceState::Running {
                trial.end();
            }
        };
        last_exit = match once(guest, name, service, runs).await {
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
        // One that tells when it is ready may still do so, next time.
        if !again || service.readiness.is_none() {
            trial.end();
        }
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

/// Runs a service to its end, and tells when it runs and when it is ready. What ends the preparation badly ends the
/// service.
async fn once(guest: &Guest, name: &str, service: &Service, tell: impl Fn(ServiceState)) -> io::Result<ExitStatus> {
    if let Some(before) = &service.pre_start {
        let exit = spawn(guest, service, before, None)?.ended().await?;
        if exit.code != Some(0) {
            return Ok(exit);
        }
    }
    let Some(readiness) = &service.readiness else {
        let mut running = spawn(guest, service, &service.command, None)?;
        tell(ServiceState::Running);
        return running.ended().await;
    };
    let awaited = Awaited::new(guest, service, &readiness.check, name)?;
    let mut running = spawn(guest, service, &service.command, awaited.variable())?;
    tell(ServiceState::Starting);
    tokio::select! {
        exit = running.ended() => return exit,
        () = awaited.ready() => tell(ServiceState::Running),
    }
    running.ended().await
}

/// A command of a service that was started.
struct Running(Child);

impl Running {
    /// Waits for its end, and leaves nothing of its process group. Cancel-safe until it has ended.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let exit = (&mut self.0.exit).await.map_err(io::Error::other)?;
        // What it has left behind would be in the way of the next one: ports, locks. Mostly there is nothing.
        let _ = kill_process_group(self.0.pid, Signal::KILL);
        Ok(exit)
    }
}

/// What the service's commands are run with.
pub(super) fn wanted<'s>(service: &'s Service, argv: &'s [String]) -> Wanted<'s> {
    Wanted {
        argv,
        env: &service.env,
        cwd: Some(service.working_directory.as_deref().unwrap_or("/")),
        user: service.user.as_deref(),
    }
}

/// Starts one command of a service, with one more variable where there is one.
fn spawn(guest: &Guest, service: &Service, argv: &[String], variable: Option<(&str, &Path)>) -> io::Result<Running> {
    let mut command = command(guest, &wanted(service, argv)).map_err(|error| io::Error::other(error.message))?;
    command.envs(variable);
    let output = output(service)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    let child = guest.reaper.spawn(command).map_err(|error| {
        let program = argv.first().map_or("", String::as_str);
        io::Error::other(spawn_error(program, &error).message)
    })?;
    Ok(Running(child))
}

/// Where a service writes. Many programs open `/dev/stdout` anew, which only the owner of what is behind it may, and the
/// console and log files are root's: other users get a pipe of their own.
fn output(service: &Service) -> io::Result<OwnedFd> {
    let mut log = log(service.log_file.as_deref().map(Path::new))?;
    let user = User::find(service.user.as_deref()).map_err(|error| io::Error::other(error.message))?;
    if user.uid == rustix::process::geteuid().as_raw() {
        return Ok(log.into());
    }
    let (mut ours, theirs) = io::pipe()?;
    fchown(&theirs, Some(user.uid), Some(user.gid))?;
    // Apart from the agent, for a console may be slow. It ends with the last who could write, not with the first line that
    // finds no room: a service whose pipe nobody reads is killed by it.
    tokio::task::spawn_blocking(move || {
        io::copy(&mut ours, &mut log).or_else(|_| io::copy(&mut ours, &mut io::sink()))
    });
    Ok(theirs.into())
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
    fn the_guest_waits_for_who_tells_when_it_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        let gate = dir.path().join("gate");
        // It fails first, and is ready when we say so.
        let script = "test -e tried || { touch tried; exit 1; }; exec sleep 1000";
        let mut service = shell(script, dir.path());
        service["workingDirectory"] = json!(dir.path());
        service["env"] = json!({"GATE": gate});
        service["readiness"] = json!({"kind": "command", "command": ["/bin/sh", "-c", "test -e $GATE"]});
        in_guest(json!({"services": {"a": service}}), async |guest| {
            let services = start(&guest);
            let starts = |status: &mvm_protocol::GuestStatus| {
                status.services.get("a").is_some_and(|a| (a.state, a.restarts) == (ServiceState::Starting, 1))
            };
            let status = until(&guest, starts).await;
            assert!(!status.ready && status.degraded());
            std::fs::write(&gate, "").unwrap();
            let status = until(&guest, |status| status.ready).await;
            assert_eq!(status.services["a"].state, ServiceState::Running);
            assert!(!status.degraded());
            services.leave();
        });
    }

    #[test]
    fn the_guest_does_not_wait_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut slow = shell("exec sleep 1000", dir.path());
        slow["readiness"] = json!({"kind": "notify", "timeoutSeconds": 1});
        let mut broken = shell("exit 1", dir.path());
        broken["restart"] = json!("no");
        broken["readiness"] = json!({"kind": "port", "port": 1, "timeoutSeconds": 3600});
        in_guest(json!({"services": {"slow": slow, "broken": broken}}), async |guest| {
            let services = start(&guest);
            let status = until(&guest, |status| status.ready).await;
            assert_eq!(status.services["slow"].state, ServiceState::Starting);
            assert_eq!(status.services["broken"].state, ServiceState::Failed);
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
