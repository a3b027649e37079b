//! Children that do not outlive the process that owns them.
#![allow(unsafe_code)]

use std::io;
use tokio::process::Command;

/// Has the kernel kill the child when this thread's process dies, however it dies.
///
/// The supervisor runs on one thread, so the parent-death signal (prctl(2)), which follows the *thread* that
/// forked, follows the process. Elsewhere than on Linux the child's own pipes tell it.
pub(crate) fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let parent = rustix::process::getpid();
        let arm = move || -> io::Result<()> {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have died before the line above.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::other("the supervisor died"));
            }
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls are made, and nothing is allocated on their success.
        unsafe {
            command.pre_exec(arm);
        }
    }
    command.kill_on_drop(true);
}
