//! Programs that end with the process that started them, even when that process is killed and can do nothing about it.
#![allow(unsafe_code)]

#[cfg(target_os = "macos")]
mod guardian;

use rustix::process::Signal;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has a signal sent to the child when the process that starts it ends.
///
/// On Linux the kernel does it (prctl(2), `PR_SET_PDEATHSIG`), and follows the *thread*: start the child from one that
/// lives as long as the child is meant to. On macOS a small process watches both.
pub fn signal_with_parent(command: &mut Command, signal: Signal) {
    // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
    unsafe {
        command.pre_exec(arm(signal));
    }
}

#[cfg(target_os = "linux")]
fn arm(signal: Signal) -> impl FnMut() -> std::io::Result<()> {
    use rustix::process::{getpid, getppid, set_parent_process_death_signal};
    let parent = getpid();
    move || {
        set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the line above took effect.
        if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::CANCELED.into()) }
    }
}

#[cfg(target_os = "macos")]
fn arm(signal: Signal) -> impl FnMut() -> std::io::Result<()> {
    let parent = rustix::process::getpid();
    move || guardian::post(parent, signal)
}
