//! A helper program does not outlive the process that waits for it.
#![allow(unsafe_code)]

use std::process::Command;

/// Has the kernel kill the child when the thread that starts it dies (prctl(2), `PR_SET_PDEATHSIG`). That thread waits
/// for the child, so it dies before it only with its process. Elsewhere than on Linux a helper of a killed process runs
/// to its end, which is soon.
pub(crate) fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
        use std::os::unix::process::CommandExt;
        let parent = getpid();
        let arm = move || -> std::io::Result<()> {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::CANCELED.into()) }
        };
        // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(arm);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}
