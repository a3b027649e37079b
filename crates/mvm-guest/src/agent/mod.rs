//! The agent: serves the host's requests, one connection each.
//!
//! ```text
//! accept ── gate ── handshake ── request ── policy ── exec | console | push | pull | forward | watch | ping | shutdown
//!           ≤ 16 unfinished      10 s       guest.json
//! ```
//! Nothing of a request is read before the handshake has ended, and nothing is done before the policy of the image has
//! been asked, in [`allowed`] and nowhere else.

pub mod command;
mod console;
mod exec;
mod files;
mod forward;
mod gate;
mod pump;
mod session;
mod stream;
pub mod sys;
pub mod users;
mod watch;

pub use stream::{Announce, Listener};

use crate::context::Guest;
use gate::{Gate, Handshake};
use mvm_core::AccessPolicy;
use mvm_protocol::{Channel, ChannelError, ErrorCode, FrameType, Refusal, Request, RequestError, Response, accept};
use serde::Deserialize;
use std::rc::Rc;
use std::time::Duration;
use stream::Stream;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;

/// How long a host may take from its handshake to its request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long a failing accept is left alone where nothing says that it would succeed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Agent {
    guest: Rc<Guest>,
    gate: Rc<Gate>,
    console: console::Slot,
}

/// Serves for as long as the guest lives. With `announce`, one connection is opened to the host and served like the
/// others, so that the host learns at once that the guest is there.
///
/// Must run inside a `LocalSet`.
pub async fn serve(guest: Rc<Guest>, listener: Listener, announce: Option<Announce>) {
    raise_descriptor_limit();
    let agent = Rc::new(Agent { guest, gate: Rc::default(), console: console::Slot::default() });
    if let Some(announce) = announce {
        let agent = Rc::clone(&agent);
        spawn_local(async move {
            match announce.connect().await {
                Ok(stream) => {
                    let handshake = agent.gate.handshake().await;
                    connection(agent, stream, handshake).await;
                }
                Err(error) => tracing::debug!(%error, "nobody to announce to"),
            }
        });
    }
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let handshake = agent.gate.handshake().await;
                spawn_local(connection(Rc::clone(&agent), stream, handshake));
            }
            Err(error) => {
                // Out of descriptors or memory; connections that end will give some back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(agent: Rc<Agent>, stream: Stream, handshake: Handshake) {
    // Peers that go away are everyday life, and a stranger's bad handshake must not flood the log.
    if let Err(error) = connected(agent, stream, handshake).await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn connected(agent: Rc<Agent>, mut stream: Stream, mut handshake: Handshake) -> Result<(), ChannelError> {
    let session = tokio::select! {
        accepted = accept(&mut stream, &agent.guest.keys) => Some(accepted?.session()),
        _ = &mut handshake.evicted => None,
    };
    drop(handshake);
    let Some(session) = session else { return give_way(stream).await };
    let mut channel = Channel::authenticated(stream, session);
    let Some(_open) = agent.gate.connection() else {
        let text = format!("{} connections to the guest are open, as many as there may be", gate::MAX_CONNECTIONS);
        return refuse(&mut channel, RequestError::new(ErrorCode::Busy, text)).await;
    };
    let frame = tokio::time::timeout(REQUEST_DEADLINE, channel.receive())
        .await
        .map_err(|_| ChannelError::Deadline)??
        .ok_or(ChannelError::Closed)?;
    if frame.kind != FrameType::Request {
        return Err(ChannelError::Unexpected(frame.kind));
    }
    let request = match read_request(&frame.payload) {
        Ok(request) => request,
        Err(error) => return refuse(&mut channel, error).await,
    };
    if let Err(error) = allowed(&agent.guest.manifest.policy, &request) {
        return refuse(&mut channel, error).await;
    }
    // Boxed apart, or every connection would have the size of the largest.
    match request {
        Request::Exec(request) => Box::pin(exec::exec(&agent, channel, request)).await,
        Request::Console(request) => Box::pin(console::console(&agent, channel, request)).await,
        Request::Push(request) => Box::pin(files::push(channel, request.path)).await,
        Request::Pull(request) => Box::pin(files::pull(channel, request.path)).await,
        Request::Forward { port } => Box::pin(forward::forward(channel, port)).await,
        Request::Watch => Box::pin(watch::watch(&agent.guest, channel)).await,
        Request::Ping => channel.send_json(FrameType::Response, &Response::Ok).await,
        Request::Shutdown => {
            channel.send_json(FrameType::Response, &Response::Ok).await?;
            agent.guest.shutdown();
            Ok(())
        }
    }
}

/// The policy of the image, for every request there is.
fn allowed(policy: &AccessPolicy, request: &Request) -> Result<(), RequestError> {
    let (open, word) = match request {
        Request::Ping | Request::Watch | Request::Shutdown => return Ok(()),
        Request::Exec(_) => (policy.exec, "exec"),
        Request::Console(_) => (policy.console, "console"),
        Request::Push(_) | Request::Pull(_) => (policy.files, "files"),
        Request::Forward { .. } => (policy.forward, "forward"),
    };
    if open {
        return Ok(());
    }
    let text = format!("the image's policy does not allow this (access.{word} is off in its guest manifest)");
    Err(RequestError::new(ErrorCode::Denied, text))
}

/// Reads a request, telling one of a later host from one that makes no sense.
fn read_request(payload: &[u8]) -> Result<Request, RequestError> {
    #[derive(Deserialize)]
    struct Operation {
        op: String,
    }
    const KNOWN: [&str; 8] = ["ping", "watch", "exec", "console", "push", "pull", "forward", "shutdown"];
    serde_json::from_slice(payload).map_err(|error| match serde_json::from_slice::<Operation>(payload) {
        Ok(Operation { op }) if !KNOWN.contains(&op.as_str()) => {
            let version = env!("CARGO_PKG_VERSION");
            RequestError::new(ErrorCode::Unsupported, format!("mvm-guest {version} does not know the request {op:?}"))
        }
        _ => RequestError::new(ErrorCode::Invalid, format!("the request cannot be read: {error}")),
    })
}

/// Answers a request with an error.
async fn refuse(channel: &mut Channel<Stream>, error: RequestError) -> Result<(), ChannelError> {
    channel.send_json(FrameType::Response, &Response::Error(error)).await
}

/// Tells a peer whose handshake takes too long that others wait. It may not read: one attempt is enough.
async fn give_way(mut stream: Stream) -> Result<(), ChannelError> {
    let mut frame = Vec::new();
    mvm_protocol::encode(FrameType::Refused, &[Refusal::Busy as u8], &mut frame)?;
    let _ = tokio::time::timeout(ACCEPT_PAUSE, stream.write_all(&frame)).await;
    Ok(())
}

/// 500 forwards need two descriptors each; the kernel starts a process with room for 1024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_its_policy() {
        let requests = [
            (r#"{"op":"ping"}"#, ""),
            (r#"{"op":"watch"}"#, ""),
            (r#"{"op":"shutdown"}"#, ""),
            (r#"{"op":"exec","argv":["x"]}"#, "exec"),
            (r#"{"op":"console"}"#, "console"),
            (r#"{"op":"push","path":"/"}"#, "files"),
            (r#"{"op":"pull","path":"/"}"#, "files"),
            (r#"{"op":"forward","port":1}"#, "forward"),
        ];
        for (text, word) in requests {
            let request = read_request(text.as_bytes()).unwrap();
            let denied = allowed(&AccessPolicy::default(), &request);
            assert_eq!(denied.is_ok(), word.is_empty(), "{text}");
            assert!(denied.is_ok() || denied.unwrap_err().message.contains(&format!("access.{word}")));
            assert!(allowed(&AccessPolicy::OPEN, &request).is_ok());
            let mut others = serde_json::to_value(AccessPolicy::OPEN).unwrap();
            if !word.is_empty() {
                others[word] = false.into();
            }
            let others = serde_json::from_value(others).unwrap();
            assert_eq!(allowed(&others, &request).is_ok(), word.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_later_request_is_told_from_nonsense() {
        let code = |text: &[u8]| read_request(text).unwrap_err().code;
        assert_eq!(code(br#"{"op":"teleport","to":"mars"}"#), ErrorCode::Unsupported);
        assert_eq!(code(br#"{"op":"forward","port":70000}"#), ErrorCode::Invalid);
        assert_eq!(code(br#"{"op":"push"}"#), ErrorCode::Invalid);
        assert_eq!(code(b"\xff"), ErrorCode::Invalid);
        assert_eq!(code(b"{}"), ErrorCode::Invalid);
    }
}
