//! The only unsafe code of the agent: what a child does between fork and exec, and promises that types cannot make.

use rustix::process::{Gid, Uid};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes the child another user. Costs the fast spawn, so for others than root only.
#[allow(unsafe_code)]
pub fn become_user(command: &mut Command, uid: u32, gid: u32, groups: &[u32]) {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // SAFETY: the closure makes three system calls and allocates nothing, as is due between fork and exec. The calls are
    // those of one thread, which after a fork is the only one.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            Ok(())
        });
    }
}

/// Gives the child a session of its own, with the terminal that is its standard input.
#[allow(unsafe_code)]
pub fn own_terminal(command: &mut Command) {
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
}

/// Registers a descriptor with the runtime.
#[allow(unsafe_code)]
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and the `AsyncFd` that owns it takes it
    // off the runtime before it is closed.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
