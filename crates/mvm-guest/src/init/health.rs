//! Health checks: commands of the image, run again and again; their exit codes are the guest's health.

use crate::agent::command::{Wanted, command, spawn_error};
use crate::context::Guest;
use mvm_protocol::HealthStatus;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

/// Of a check's output, the last bytes that are kept.
const TAIL: usize = 4096;
/// Most characters of the detail that is reported.
const MAX_DETAIL: usize = 256;

/// Runs every check for as long as the guest lives.
pub fn start(guest: &Rc<Guest>) {
    let began = Instant::now();
    for name in guest.manifest.health_checks.keys().cloned() {
        guest.status.send_modify(|status| drop(status.health.insert(name.clone(), unknown())));
        spawn_local(repeat(Rc::clone(guest), name, began));
    }
}

/// Before the first run has ended.
fn unknown() -> HealthStatus {
    HealthStatus { healthy: None, detail: String::new() }
}

async fn repeat(guest: Rc<Guest>, name: String, began: Instant) {
    let Some(check) = guest.manifest.health_checks.get(&name) else { return };
    let grace = seconds(check.startup_grace_seconds);
    loop {
        let wanted = Wanted { argv: &check.command, env: &BTreeMap::new(), cwd: Some("/"), user: None };
        let (healthy, detail) = match probe(&guest, &wanted, seconds(check.timeout_seconds.max(1))).await {
            Ok(result) => result,
            Err(error) => (false, error.to_string()),
        };
        let counts = healthy || began.elapsed() >= grace;
        guest.status.send_if_modified(|status| {
            let known = status.health.entry(name.clone()).or_insert_with(unknown);
            // One that has been healthy is past its start: from then on failures count.
            let counts = counts || known.healthy.is_some();
            let now = HealthStatus { healthy: counts.then_some(healthy), detail: detail.clone() };
            std::mem::replace(known, now.clone()) != now
        });
        tokio::time::sleep(seconds(check.interval_seconds.max(1))).await;
    }
}

/// Runs a check: whether it succeeded, and the last line that it printed. Dropping the future ends the check.
pub(super) async fn probe(guest: &Guest, wanted: &Wanted<'_>, timeout: Duration) -> io::Result<(bool, String)> {
    let mut command = command(guest, wanted).map_err(|error| io::Error::other(error.message))?;
    let (ours, theirs) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(theirs.try_clone()?).stderr(theirs).process_group(0);
    let child = guest.reaper.spawn(command).map_err(|error| {
        let program = wanted.argv.first().map_or("", String::as_str);
        io::Error::other(spawn_error(program, &error).message)
    })?;
    let _group = Group(child.pid);
    let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(ours))?;
    let mut tail = Vec::new();
    let exit = timeout_at(Instant::now() + timeout, async {
        let mut exit = child.exit;
        let mut open = true;
        loop {
            tokio::select! {
                // First what it printed, then that it ended.
                biased;
                more = more(&mut output, &mut tail), if open => open = more,
                exit = &mut exit => break exit.map_err(io::Error::other),
            }
        }
    });
    match exit.await {
        Ok(exit) => Ok((exit?.code == Some(0), last_line(&tail))),
        Err(_) => Ok((false, format!("no answer within {} s", timeout.as_secs()))),
    }
}

/// What is left of a check when it is over, killed.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Mostly there is nothing.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// Reads on; `false` at the end.
async fn more(output: &mut pipe::Receiver, tail: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 1024];
    match output.read(&mut buffer).await {
        Ok(count @ 1..) => {
            tail.extend_from_slice(&buffer[..count]);
            tail.drain(..tail.len().saturating_sub(TAIL));
            true
        }
        _ => false,
    }
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    // It goes to the host's terminal.
    line.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect()
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::{in_guest, until};
    use serde_json::json;

    fn check(script: &str) -> serde_json::Value {
        let command = ["/bin/sh", "-c", script];
        json!({"command": command, "intervalSeconds": 1, "timeoutSeconds": 30, "startupGraceSeconds": 0})
    }

    #[test]
    fn good_and_bad_are_told_apart() {
        let mut missing = check("");
        missing["command"] = json!(["/no/such/check"]);
        let checks = json!({"good": check("echo fine"), "bad": check("echo first; echo no port >&2; exit 1"),
                            "missing": missing});
        in_guest(json!({"healthChecks": checks}), async |guest| {
            start(&guest);
            let status = until(&guest, |status| status.health.values().all(|h| h.healthy.is_some())).await;
            let seen = |name: &str| (status.health[name].healthy.unwrap(), status.health[name].detail.as_str());
            assert_eq!(seen("good"), (true, "fine"));
            assert_eq!(seen("bad"), (false, "no port"));
            assert!(!seen("missing").0 && seen("missing").1.contains("/no/such/check"), "{:?}", seen("missing"));
            assert!(status.degraded());
        });
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_its_processes() {
        let mut slow = check("sleep 1000 & sleep 1000");
        slow["timeoutSeconds"] = json!(1);
        slow["intervalSeconds"] = json!(1000);
        in_guest(json!({"healthChecks": {"slow": slow}}), async |guest| {
            start(&guest);
            let status = until(&guest, |status| status.health["slow"].healthy.is_some()).await;
            assert_eq!(status.health["slow"].detail, "no answer within 1 s");
            guest.reaper.wait_until_alone().await;
        });
    }

    #[test]
    fn failures_do_not_count_until_the_start_is_over() {
        let mut bad = check("echo not yet; exit 1");
        bad["startupGraceSeconds"] = json!(3600);
        in_guest(json!({"healthChecks": {"bad": bad}}), async |guest| {
            start(&guest);
            let status = until(&guest, |status| status.health["bad"].detail == "not yet").await;
            assert_eq!(status.health["bad"].healthy, None);
            assert!(!status.degraded());
        });
    }

    #[test]
    fn details_are_bounded_and_harmless() {
        assert_eq!(last_line(b"a\nb\x1b[31m \n\n"), "b[31m");
        assert_eq!(last_line(b""), "");
        assert_eq!(last_line(&[b'x'; 5000]).len(), MAX_DETAIL);
    }
}
