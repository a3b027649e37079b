//! Follows the guest: takes its announcement, proves both sides, and passes its status on.

use crate::backend::Announce;
use crate::channel::GuestStream;
use mvm_protocol::{Channel, ChannelError, FrameType, GuestStatus, HostKeys, Request};
use std::rc::Rc;
use tokio::sync::mpsc;

/// What is seen of a guest.
pub(super) enum GuestEvent {
    /// Its agent listens and proved that it is this VM's.
    Announced,
    /// How it is.
    Status(Box<GuestStatus>),
    /// Somebody in it announced himself but could not prove to be its agent.
    Rejected(String),
    /// The channel of its status ended: it is powering off, or its agent died.
    Lost,
}

/// Serves announcements, one after the other, for as long as somebody listens to the events.
pub(super) async fn watch(announce: Announce, keys: Rc<HostKeys>, tell: mpsc::Sender<GuestEvent>) {
    while let Ok(stream) = announce.accept().await {
        let event = match follow(stream, &keys, &tell).await {
            Ok(()) => GuestEvent::Lost,
            Err(error) => GuestEvent::Rejected(error.to_string()),
        };
        if tell.send(event).await.is_err() {
            return;
        }
    }
}

async fn follow(stream: GuestStream, keys: &HostKeys, tell: &mpsc::Sender<GuestEvent>) -> Result<(), ChannelError> {
    let mut channel: Channel<GuestStream> = mvm_protocol::connect(stream, keys).await?;
    channel.request(&Request::Watch).await?;
    // Nobody listens any more when the VM has ended.
    let _ = tell.send(GuestEvent::Announced).await;
    while let Some(frame) = channel.receive().await? {
        let status: GuestStatus = frame.json(FrameType::Status)?;
        if tell.send(GuestEvent::Status(Box::new(status))).await.is_err() {
            break;
        }
    }
    Ok(())
}
