//! Children that do not outlive the process that owns them.

use rustix::process::Signal;
use tokio::process::Command;

/// Has the child killed when the supervisor dies, however it dies: it runs on one thread, which its children so follow.
pub(crate) fn die_with_parent(command: &mut Command) {
    mvm_process::signal_with_parent(command.as_std_mut(), Signal::KILL);
    command.kill_on_drop(true);
}
