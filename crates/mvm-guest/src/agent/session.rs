//! The end of a session: nothing of it stays.

use super::sys;
use mvm_protocol::ExitStatus;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How long the leader may take to end after the hangup.
const HANGUP_GRACE: Duration = Duration::from_millis(500);
/// How long killed processes may take to die.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// How often new processes of the session are looked for; each round kills those of the one before.
const ROUNDS: usize = 64;

/// Ends every process of a session: SIGHUP, and SIGKILL for those that stay. Gives the leader's exit status.
pub(super) async fn end(leader: Pid, exit: &mut oneshot::Receiver<ExitStatus>) -> Option<ExitStatus> {
    for pid in members(leader) {
        // A stopped process hears nothing until it goes on.
        let _ = kill_process(pid, Signal::HUP);
        let _ = kill_process(pid, Signal::CONT);
    }
    let mut status = tokio::time::timeout(HANGUP_GRACE, &mut *exit).await.ok().and_then(Result::ok);
    let deadline = Instant::now() + KILL_DEADLINE;
    for _ in 0..ROUNDS {
        let dying: Vec<_> = members(leader).into_iter().filter_map(|pid| kill(pid, leader).ok()).collect();
        if dying.is_empty() {
            break;
        }
        for process in dying {
            // A pidfd can be read once its process has died.
            if timeout_at(deadline, process.readable()).await.is_err() {
                return status;
            }
        }
    }
    if status.is_none() {
        status = timeout_at(deadline, exit).await.ok().and_then(Result::ok);
    }
    status
}

/// Kills a process that still belongs to the session.
fn kill(pid: Pid, leader: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let process = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // The number may have become another's before the descriptor was opened; now it cannot any more.
    if !is_member(pid, leader) {
        return Err(io::ErrorKind::NotFound.into());
    }
    pidfd_send_signal(&process, Signal::KILL)?;
    sys::watch(process, Interest::READABLE)
}

/// The session's processes that have not died.
fn members(leader: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().filter(|pid| *pid > 0))
        .filter_map(Pid::from_raw)
        .filter(|pid| is_member(*pid, leader))
        .collect()
}

/// Whether a process is of the session, and more than something that waits to be reaped.
fn is_member(pid: Pid, leader: Pid) -> bool {
    std::fs::read(format!("/proc/{}/stat", pid.as_raw_pid()))
        .ok()
        .and_then(|stat| state_and_session(&stat))
        .is_some_and(|(state, session)| session == leader.as_raw_pid() && !matches!(state, b'Z' | b'X'))
}

/// Fields 3 and 6 of `/proc/PID/stat`. The name before them stands in parentheses and may hold anything.
fn state_and_session(stat: &[u8]) -> Option<(u8, i32)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(2)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_do_not_hide_a_process() {
        assert_eq!(state_and_session(b"12 (sh) S 1 12 7 34816 0"), Some((b'S', 7)));
        assert_eq!(state_and_session(b"12 (a) Z 1 2 3 (b) \n) T 1 12 -7 0"), Some((b'T', -7)));
        assert_eq!(state_and_session(b"12 (sh"), None);
        assert_eq!(state_and_session(b"12 (sh) S 1"), None);
    }
}
