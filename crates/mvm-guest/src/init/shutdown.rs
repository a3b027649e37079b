//! The end of all processes, in order.

use super::say;
use crate::process::Reaper;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::time::Duration;

/// How long processes may take to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(10);
/// How long they may take after SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// SIGTERM to every process but this one, patience, SIGKILL. Must be called by PID 1 only.
pub(super) async fn end_processes(reaper: &Reaper) {
    everybody(Signal::TERM);
    // A shell at a terminal ignores SIGTERM, but not that its terminal is gone.
    for pid in at_terminals() {
        let _ = kill_process(pid, Signal::HUP);
    }
    // What is stopped hears nothing until it goes on.
    everybody(Signal::CONT);
    if tokio::time::timeout(TERM_GRACE, reaper.wait_until_alone()).await.is_ok() {
        return;
    }
    say(&format!("processes are left {} s after SIGTERM; they are killed", TERM_GRACE.as_secs()));
    everybody(Signal::KILL);
    if tokio::time::timeout(KILL_GRACE, reaper.wait_until_alone()).await.is_err() {
        say("processes are left that cannot be killed");
    }
}

/// Signals every process of user space but PID 1; that there is none is no error.
fn everybody(signal: Signal) {
    let _ = kill_process_group(Pid::INIT, signal);
}

/// The processes that have a controlling terminal.
fn at_terminals() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| has_terminal(&stat)))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Whether `/proc/PID/stat` names a terminal: its seventh field, the fifth after the name, which may hold anything.
fn has_terminal(stat: &[u8]) -> bool {
    let Some(name) = stat.iter().rposition(|byte| *byte == b')') else { return false };
    stat[name + 1..].split(|byte| *byte == b' ').nth(5).is_some_and(|terminal| terminal != b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_told_from_none() {
        assert!(has_terminal(b"7 (sh) S 1 7 7 34816 7 4194560 100"));
        assert!(!has_terminal(b"7 (sh) S 1 7 7 0 -1 4194560 100"));
        assert!(has_terminal(b"7 (a) b 0 0 (c) S 1 7 7 34816 7 0"));
        assert!(!has_terminal(b"") && !has_terminal(b"7 (sh"));
    }
}
