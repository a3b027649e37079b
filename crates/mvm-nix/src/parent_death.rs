//! Nix dies with the process that started it, even when that process is killed and can do nothing about it.
#![allow(unsafe_code)]

use tokio::process::Command;

/// Has the kernel send SIGINT to the child when the thread that starts it ends (prctl(2), `PR_SET_PDEATHSIG`).
///
/// SIGINT, not SIGKILL: on SIGINT Nix kills its builders, which live in sessions of their own, before it ends.
/// Nix 2.34 can miss one SIGINT that comes while it handles a line of its builder's log; it then ends at the next
/// line. On systems without the call a killed mvmctl leaves Nix to notice the closed pipes.
pub(crate) fn interrupt_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
        let parent = getpid();
        let arm = move || -> std::io::Result<()> {
            set_parent_process_death_signal(Some(Signal::INT))?;
            // The parent may have died before the line above took effect.
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
