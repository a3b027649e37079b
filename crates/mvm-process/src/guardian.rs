//! macOS cannot send a child a signal when its parent ends: a guardian does it, a process that sleeps in kevent(2) until
//! one of the two has ended.

use rustix::event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, kill_process};
use std::io;
use std::mem::MaybeUninit;

/// Descriptors above this are not closed by the guardian; a process of ours has far fewer.
const DESCRIPTORS: i32 = 4096;

/// Posts a guardian over the calling process, which is between fork and exec: only system calls from here on.
pub(super) fn post(parent: Pid, signal: Signal) -> io::Result<()> {
    let child = getpid();
    // Twice, so that the guardian is nobody's child: the program must not find one that it did not start.
    // SAFETY: the new process makes system calls only, and ends by _exit(2).
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above.
            if unsafe { libc::fork() } == 0 {
                guard(parent, child, signal);
            }
            // SAFETY: ends this process, and nothing of it is to be cleaned up.
            unsafe { libc::_exit(0) }
        }
        between => {
            // SAFETY: it takes no status; the process was started right above.
            unsafe { libc::waitpid(between, std::ptr::null_mut(), 0) };
            Ok(())
        }
    }
}

/// Waits for the end of one of the two. Never returns.
fn guard(parent: Pid, child: Pid, signal: Signal) -> ! {
    // Pipes of the child would else stay open for as long as its parent lives.
    for descriptor in 0..DESCRIPTORS {
        // SAFETY: nothing in this process uses a descriptor yet.
        unsafe { libc::close(descriptor) };
    }
    match first_to_end(parent, child) {
        Ok(ended) if ended == child.as_raw_nonzero().get() => {}
        // The parent, or nobody can tell: then the child had better not run unwatched.
        _ => {
            let _ = kill_process(child, signal);
        }
    }
    // SAFETY: as in `post`.
    unsafe { libc::_exit(0) }
}

/// The number of the one that ended first. One that has ended already is no error to kevent(2) but an answer.
fn first_to_end(parent: Pid, child: Pid) -> Result<i32, Errno> {
    let queue = kqueue()?;
    let ends = |pid| {
        let filter = EventFilter::Proc { pid, flags: ProcessEvents::EXIT };
        Event::new(filter, EventFlags::ADD | EventFlags::ONESHOT, std::ptr::null_mut())
    };
    // The child first: where both have ended there is nobody to be killed.
    for pid in [child, parent] {
        // SAFETY: the event names a process and no descriptor.
        match unsafe { kevent(&queue, &[ends(pid)], &mut [] as &mut [Event], None) } {
            Ok(_) => {}
            Err(Errno::SRCH) => return Ok(pid.as_raw_nonzero().get()),
            Err(error) => return Err(error),
        }
    }
    let mut ended = [MaybeUninit::uninit(); 1];
    loop {
        // SAFETY: no descriptors are named.
        let (events, _) = match unsafe { kevent(&queue, &[], &mut ended[..], None) } {
            Err(Errno::INTR) => continue,
            events => events?,
        };
        if let Some(EventFilter::Proc { pid, .. }) = events.first().map(Event::filter) {
            return Ok(pid.as_raw_nonzero().get());
        }
    }
}
