//! `push` and `pull`: the host's two operations, over a channel whose request the guest has answered.

use super::{SpecialBits, TransferError, receive, send};
use crate::{Channel, ChannelError, FrameType, TransferSummary};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::io::SyncIoBridge;

/// Sends `source` to the guest and waits until the guest has it on its disk.
///
/// `progress` is called with the number of bytes of contents each time some are on their way. Runs on a blocking
/// thread of the current tokio runtime.
pub async fn push<S>(
    channel: Channel<S>,
    source: PathBuf,
    mut progress: impl FnMut(u64) + Send + 'static,
) -> Result<TransferSummary, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut reader, writer) = channel.split();
    let stop = Arc::new(AtomicBool::new(false));
    let out = Stoppable { out: SyncIoBridge::new(writer.into_inner()), stop: Arc::clone(&stop) };
    let mut sending = spawn_blocking(move || {
        let mut out = out;
        // The stream stays open until the guest has answered: it takes the end of it for the end of the host.
        let sent = send(&source, &mut out, &mut progress);
        (sent, out)
    });
    let mut answer = std::pin::pin!(reader.receive());
    let mut sent = None;
    let answer = tokio::select! {
        early = &mut answer => early,
        done = &mut sending => {
            let (result, out) = joined(done)?;
            match result {
                Ok(summary) => sent = Some((summary, out)),
                // The guest may have said why it closed.
                Err(TransferError::Connection(error)) => {
                    return Err(match (&mut answer).await {
                        Ok(Some(frame)) => aborted(&frame).unwrap_or(TransferError::Connection(error)),
                        _ => TransferError::Connection(error),
                    });
                }
                Err(error) => return Err(error),
            }
            answer.await
        }
    };
    stop.store(true, Ordering::Relaxed);
    let frame = answer.map_err(broken)?.ok_or_else(|| broken(ChannelError::Closed))?;
    if let Some(error) = aborted(&frame) {
        return Err(error);
    }
    let received: TransferSummary = frame.json(FrameType::End).map_err(broken)?;
    // The guest's End may be read before the sending thread is seen to have ended.
    let (mut summary, _out) = match sent {
        Some(sent) => sent,
        None => {
            let (result, out) = joined(sending.await)?;
            (result?, out)
        }
    };
    if (received.entries, received.bytes) != (summary.entries, summary.bytes) {
        return Err(TransferError::Malformed("the guest received something else than was sent".into()));
    }
    summary.skipped = summary.skipped.max(received.skipped);
    Ok(summary)
}

/// Receives what the guest sends into `dest`. The guest is taken for hostile.
///
/// `progress` is called with the number of bytes of contents each time some have been written. Runs on a blocking
/// thread of the current tokio runtime.
pub async fn pull<S>(
    channel: Channel<S>,
    dest: PathBuf,
    mut progress: impl FnMut(u64) + Send + 'static,
) -> Result<TransferSummary, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let input = SyncIoBridge::new(channel.into_stream());
    joined(spawn_blocking(move || receive(&dest, input, SpecialBits::Drop, &mut progress)).await)?
}

/// A writer that fails once it has been told to stop.
struct Stoppable<W> {
    out: W,
    stop: Arc<AtomicBool>,
}

impl<W: Write> Write for Stoppable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn aborted(frame: &crate::Frame) -> Option<TransferError> {
    frame.json(FrameType::Abort).ok().map(TransferError::Aborted)
}

fn broken(error: ChannelError) -> TransferError {
    match error {
        ChannelError::Io(error) => TransferError::Connection(error),
        ChannelError::Closed => TransferError::Connection(io::ErrorKind::UnexpectedEof.into()),
        other => TransferError::Malformed(other.to_string()),
    }
}

fn joined<T>(result: Result<T, JoinError>) -> Result<T, TransferError> {
    result.map_err(|error| TransferError::Connection(io::Error::other(error)))
}
