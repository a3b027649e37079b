//! Ends from outside what takes long to make: for a Ctrl-C that must not wait for a disk.

use crate::error::ImageError;
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Looked at by whoever makes something, between its steps and while it waits.
#[derive(Debug)]
pub struct Stop(Option<OwnedFd>);

/// Ends the work when dropped; what was half made is removed by whoever makes it.
#[derive(Debug)]
pub struct Stopper {
    _writer: io::PipeWriter,
}

/// Both ends. The work may run on another thread.
pub fn stoppable() -> io::Result<(Stopper, Stop)> {
    let (reader, writer) = io::pipe()?;
    Ok((Stopper { _writer: writer }, Stop(Some(reader.into()))))
}

impl Stop {
    /// For work that nobody ends.
    pub const fn never() -> Self {
        Self(None)
    }

    /// Between two steps.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        let Some(stop) = &self.0 else { return Ok(()) };
        let mut fds = [PollFd::new(stop, PollFlags::IN)];
        // Nothing is ever written: what can be seen is that the other end was closed.
        match rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Default::default()))) {
            Ok(0) => Ok(()),
            _ => Err(ImageError::Stopped),
        }
    }

    /// Waits until something can be read.
    pub(crate) fn readable(&self, fd: &impl AsFd) -> Result<(), ImageError> {
        let ours: Vec<BorrowedFd<'_>> = self.0.iter().map(AsFd::as_fd).chain([fd.as_fd()]).collect();
        let mut fds: Vec<PollFd<'_>> = ours.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        // Should the system refuse, the read that follows tells why.
        let _ = rustix::io::retry_on_intr(|| poll(&mut fds, None));
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_the_stopper_goes() {
        let (stopper, stop) = stoppable().unwrap();
        let (silent, _keep) = io::pipe().unwrap();
        stop.check().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.readable(&silent));
            drop(stopper);
            assert!(matches!(waiting.join().unwrap(), Err(ImageError::Stopped)));
        });
        assert!(matches!(stop.check(), Err(ImageError::Stopped)));
    }

    #[test]
    fn what_comes_in_time_is_taken() {
        let (_stopper, stop) = stoppable().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        stop.readable(&reader).unwrap();
        Stop::never().readable(&reader).unwrap();
    }
}
