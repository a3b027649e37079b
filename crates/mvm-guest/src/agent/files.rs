//! Files in and out, on a thread that may block.

use super::refuse;
use super::stream::Stream;
use mvm_protocol::transfer::{SpecialBits, TransferError, check_dest, check_source, receive, send};
use mvm_protocol::{Channel, ChannelError, ErrorCode, FrameType, RequestError, Response, encode};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// How long the host may take to see that a push has failed, or to close after its end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Receives an archive. Everything in it belongs to root here; setuid bits are kept, for the host is trusted.
pub(super) async fn push(mut channel: Channel<Stream>, path: String) -> Result<(), ChannelError> {
    let Some(dest) = accept(&mut channel, &path, check_dest).await? else { return Ok(()) };
    blocking(channel, move |mut stream| {
        let result = receive(&dest, &stream, SpecialBits::Keep, &mut |_| {});
        match &result {
            Ok(summary) => answer(&mut stream, FrameType::End, summary)?,
            // The host gave up, or is gone.
            Err(TransferError::Aborted(_) | TransferError::Connection(_)) => return Ok(()),
            Err(error) => answer(&mut stream, FrameType::Abort, &error.to_request_error())?,
        }
        drain(stream)
    })
    .await
}

/// Sends an archive.
pub(super) async fn pull(mut channel: Channel<Stream>, path: String) -> Result<(), ChannelError> {
    let Some(source) = accept(&mut channel, &path, check_source).await? else { return Ok(()) };
    blocking(channel, move |stream| match send(&source, &stream, &mut |_| {}) {
        Err(TransferError::Connection(error)) => Err(error),
        // Anything else has been said as Abort.
        _ => drain(stream),
    })
    .await
}

/// Checks the path of a request and answers it.
async fn accept(
    channel: &mut Channel<Stream>,
    path: &str,
    check: fn(&Path) -> Result<(), TransferError>,
) -> Result<Option<PathBuf>, ChannelError> {
    let error = if !path.starts_with('/') {
        RequestError::new(ErrorCode::Invalid, format!("the guest's path {path:?} is not absolute"))
    } else if let Err(error) = check(Path::new(path)) {
        error.to_request_error()
    } else {
        channel.send_json(FrameType::Response, &Response::Ok).await?;
        return Ok(Some(path.into()));
    };
    refuse(channel, error).await?;
    Ok(None)
}

async fn blocking(
    channel: Channel<Stream>,
    work: impl FnOnce(File) -> io::Result<()> + Send + 'static,
) -> Result<(), ChannelError> {
    let stream = channel.into_stream().into_blocking()?;
    let done = spawn_blocking(move || work(stream)).await;
    Ok(done.map_err(io::Error::other)??)
}

fn answer(stream: &mut File, kind: FrameType, message: &impl Serialize) -> io::Result<()> {
    let mut frame = Vec::new();
    encode(kind, &serde_json::to_vec(message)?, &mut frame).map_err(io::Error::other)?;
    stream.write_all(&frame)
}

/// Ends the sending direction and reads until the host closes: closing with bytes unread could cut off the answer.
fn drain(mut stream: File) -> io::Result<()> {
    rustix::net::shutdown(&stream, rustix::net::Shutdown::Write)?;
    set_socket_timeout(&stream, Timeout::Recv, Some(CLOSE_DEADLINE))?;
    let deadline = Instant::now() + CLOSE_DEADLINE;
    let mut buffer = [0; 16 * 1024];
    while Instant::now() < deadline && stream.read(&mut buffer)? > 0 {}
    Ok(())
}
