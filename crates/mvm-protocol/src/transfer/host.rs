//! `push` and `pull`: the host's two operations, over a channel whose request the guest has answered.

use super::stoppable::Stoppable;
use super::{SpecialBits, TransferError, receive, send};
use crate::{Channel, ChannelError, FrameType, TransferSummary};
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinError, spawn_blocking};

/// Sends `source` to the guest and waits until the guest has it on its disk.
///
/// `progress` is called with the number of bytes of contents each time some are on their way. Runs on a blocking
/// thread of the current tokio runtime, which has ended when this returns. Dropping the future ends the copy.
pub async fn push<S>(
    channel: Channel<S>,
    source: PathBuf,
    mut progress: impl FnMut(u64) + Send + 'static,
) -> Result<TransferSummary, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The reading half keeps the stream open until the guest has answered: it takes the end of it for the end of the
    // host.
    let (mut reader, writer) = channel.split();
    let (out, stop) = Stoppable::new(writer.into_inner());
    let mut sending = spawn_blocking(move || send(&source, out, &mut progress));
    let mut answer = std::pin::pin!(reader.receive());
    let mut early = None;
    let sent = tokio::select! {
        sent = &mut sending => joined(sent)?,
        frame = &mut answer => {
            early = Some(frame);
            // A guest that has said its last word may read no more, and the sender would wait for it.
            drop(stop);
            joined(sending.await)?
        }
    };
    // What is wrong with the source is the reason for whatever the guest makes of it.
    if !matches!(sent, Ok(_) | Err(TransferError::Connection(_))) {
        return sent;
    }
    // The guest may have said why it closed.
    let answer = match early {
        Some(frame) => frame,
        None => answer.await,
    };
    let frame = answer.map_err(broken)?.ok_or_else(|| broken(ChannelError::Closed))?;
    if frame.kind == FrameType::Abort {
        return Err(TransferError::Aborted(frame.json(FrameType::Abort).map_err(broken)?));
    }
    let received: TransferSummary = frame.json(FrameType::End).map_err(broken)?;
    let Ok(mut summary) = sent else {
        return Err(TransferError::Malformed("the guest ended it before all was sent".into()));
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
/// thread of the current tokio runtime, which has ended when this returns. Dropping the future ends the copy.
pub async fn pull<S>(
    channel: Channel<S>,
    dest: PathBuf,
    mut progress: impl FnMut(u64) + Send + 'static,
) -> Result<TransferSummary, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (input, _stop) = Stoppable::new(channel.into_stream());
    joined(spawn_blocking(move || receive(&dest, input, SpecialBits::Drop, &mut progress)).await)?
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
