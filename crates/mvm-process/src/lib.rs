//! Programs that end with the process that started them, even when that process is killed and can do nothing about it.
#![allow(unsafe_code)]

use rustix::process::Signal;
use std::process::Command;

/// Has the kernel send a signal to the child when the thread that starts it ends (prctl(2), `PR_SET_PDEATHSIG`): it
/// follows the *thread*, so start the child from one that lives as long as the child is meant to.
///
/// Elsewhere than on Linux there is no such call, and the child has to notice by its closed pipes.
pub fn signal_with_parent(command: &mut Command, signal: Signal) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpid, getppid, set_parent_process_death_signal};
        use std::os::unix::process::CommandExt;
        let parent = getpid();
        let arm = move || -> std::io::Result<()> {
            set_parent_process_death_signal(Some(signal))?;
            // The parent may have died before the line above took effect.
            if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::CANCELED.into()) }
        };
        // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(arm);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (command, signal);
}
