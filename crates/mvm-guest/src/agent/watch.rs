//! The guest's status, now and at every change.

use super::stream::Stream;
use crate::context::Guest;
use mvm_protocol::{Channel, ChannelError, Frame, FrameType, Response};

/// Sends the status until the host closes.
pub(super) async fn watch(guest: &Guest, mut channel: Channel<Stream>) -> Result<(), ChannelError> {
    let mut status = guest.status.subscribe();
    channel.send_json(FrameType::Response, &Response::Ok).await?;
    let (mut reader, mut writer) = channel.split();
    let mut closed = std::pin::pin!(reader.receive());
    loop {
        let now = status.borrow_and_update().clone();
        writer.send_json(FrameType::Status, &now).await?;
        if now.stopping {
            break;
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            frame = &mut closed => return ended(frame?),
        }
    }
    // The last word is said. Who ends the agent when all have heard it waits for no receiver that is left.
    drop(status);
    ended(closed.await?)
}

/// The host has nothing to say but that it closes.
fn ended(frame: Option<Frame>) -> Result<(), ChannelError> {
    match frame {
        Some(frame) => Err(ChannelError::Unexpected(frame.kind)),
        None => Ok(()),
    }
}
