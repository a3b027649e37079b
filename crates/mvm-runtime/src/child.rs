//! Children that do not outlive the process that owns them.

use rustix::process::{Pid, Signal, kill_process};
use std::io;
use tokio::process::{Child, Command};

/// Has the child killed when the supervisor dies, however it dies: it runs on one thread, which its children so follow.
pub(crate) fn die_with_parent(command: &mut Command) {
    mvm_process::signal_with_parent(command.as_std_mut(), Signal::KILL);
    command.kill_on_drop(true);
}

/// Sends a signal to a child that has not been waited for yet, so that its number is still its own.
pub(crate) fn signal(child: &Child, signal: Signal) -> io::Result<()> {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
    let pid = pid.ok_or_else(|| io::Error::other("it has ended"))?;
    Ok(kill_process(pid, signal)?)
}
