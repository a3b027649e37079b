//! A forwarded connection: its bytes in `Data` frames, either way at once.
//!
//! The end of a direction is a frame of its own, an empty `Data`, since not every transport can tell it:
//! vhost-device-vsock passes on no half of a close. `Abort` says that the connection broke. Whoever closes the channel
//! without either has gone.

use crate::channel::{Channel, ChannelError, Reader};
use crate::frame::{FrameType, HEADER_LEN};
use crate::message::{ErrorCode, RequestError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Passes bytes between a channel and a connection until both directions have ended. At most `buffer` bytes are read
/// from the connection at a time.
///
/// What is left of the channel is given back: on transports that drop what is under way at a close, the side whose
/// bytes matter lets the other one close first.
pub async fn relay<S, T>(channel: Channel<S>, connection: T, buffer: usize) -> Result<Reader<S>, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = channel.split();
    let (mut from, mut to) = tokio::io::split(connection);
    let out = async {
        let mut frame = vec![0; HEADER_LEN + buffer].into_boxed_slice();
        loop {
            match from.read(&mut frame[HEADER_LEN..]).await {
                Ok(n) => {
                    writer.send_in_place(FrameType::Data, &mut frame[..HEADER_LEN + n]).await?;
                    if n == 0 {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let error = RequestError::new(ErrorCode::Failed, error.to_string());
                    return writer.send_json(FrameType::Abort, &error).await;
                }
            }
        }
    };
    let inward = async {
        loop {
            let frame = reader.receive().await?.ok_or(ChannelError::Closed)?;
            match frame.kind {
                FrameType::Data if frame.payload.is_empty() => {
                    // A connection that is closed already needs no end.
                    let _ = to.shutdown().await;
                    return Ok(());
                }
                // Who reads no more may still have something to say.
                FrameType::Data => {
                    if to.write_all(&frame.payload).await.is_err() {
                        return Ok(());
                    }
                }
                FrameType::Abort => return Err(ChannelError::Refused(frame.json(FrameType::Abort)?)),
                other => return Err(ChannelError::Unexpected(other)),
            }
        }
    };
    tokio::try_join!(out, inward)?;
    Ok(reader)
}
