//! An asynchronous stream for a blocking thread, which can be called off the stream.

use std::io::{self, Read, Write};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Reads and writes fail once the guard that comes with it is dropped, also those that wait already: the peer may
/// never let them go on, and whoever drops the guard may be the one who drives the runtime.
pub(super) struct Stoppable<S> {
    stream: S,
    stopped: CancellationToken,
    runtime: Handle,
}

impl<S> Stoppable<S> {
    /// For a blocking thread of the current runtime.
    pub(super) fn new(stream: S) -> (Self, DropGuard) {
        let stopped = CancellationToken::new();
        (Self { stream, stopped: stopped.clone(), runtime: Handle::current() }, stopped.drop_guard())
    }
}

impl<S: AsyncRead + Unpin> Read for Stoppable<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let done = self.runtime.block_on(self.stopped.run_until_cancelled(self.stream.read(buffer)));
        done.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl<S: AsyncWrite + Unpin> Write for Stoppable<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.runtime.block_on(self.stopped.run_until_cancelled(self.stream.write(bytes)));
        done.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))
    }

    /// Not called off: a peer that has all may have said so before this is reached, and a socket holds nothing back.
    fn flush(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.stream.flush())
    }
}
