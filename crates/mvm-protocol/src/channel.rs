//! A stream with the handshake behind it: frames in, frames out.
//!
//! Nothing is read ahead: a header, then its payload. So a stream can be handed on as plain bytes at any frame's end.

use crate::frame::{Frame, FrameError, FrameHeader, FrameType, HEADER_LEN, MAX_PAYLOAD, MAX_UNAUTHENTICATED, encode};
use crate::handshake::{GuestHandshake, HandshakeError, HostHandshake, Refusal, Session};
use crate::keys::{GuestKeys, HostKeys};
use crate::message::{ErrorCode, Request, RequestError, Response};
use mvm_core::{Diagnostic, ErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

/// How long a peer may take from connecting to the end of its handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a channel broke.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The transport failed or closed in the middle of a frame.
    #[error("guest channel: {0}")]
    Io(#[from] io::Error),
    /// Bytes that are no frame.
    #[error("guest channel: {0}")]
    Frame(#[from] FrameError),
    /// The peer is not who it should be.
    #[error("guest channel: {0}")]
    Handshake(#[from] HandshakeError),
    /// The handshake took longer than [`HANDSHAKE_DEADLINE`].
    #[error("guest channel: the handshake did not end within {} s", HANDSHAKE_DEADLINE.as_secs())]
    Deadline,
    /// A frame that has no place here.
    #[error("guest channel: unexpected {0:?} frame")]
    Unexpected(FrameType),
    /// A payload that is not the JSON it should be.
    #[error("guest channel: {kind:?} frame: {source}")]
    Json {
        /// The frame.
        kind: FrameType,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The peer closed where a frame was due.
    #[error("guest channel: closed by the peer")]
    Closed,
    /// The guest refused the request.
    #[error("{0}")]
    Refused(RequestError),
}

impl Diagnostic for ChannelError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(error) => match error.code {
                ErrorCode::Denied => ErrorKind::Denied,
                ErrorCode::Busy => ErrorKind::Busy,
                ErrorCode::NotFound => ErrorKind::NotFound,
                ErrorCode::Invalid => ErrorKind::Usage,
                _ => ErrorKind::Unexpected,
            },
            Self::Handshake(_) | Self::Io(_) | Self::Closed | Self::Deadline => ErrorKind::GuestUnreachable,
            Self::Frame(_) | Self::Unexpected(_) | Self::Json { .. } => ErrorKind::GuestUnreachable,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(error) if error.code == ErrorCode::Denied => {
                Some("the image decides what its host may do: open it under `access` where the image is defined".into())
            }
            Self::Handshake(HandshakeError::Version { .. } | HandshakeError::Refused(Some(Refusal::Version))) => {
                Some("the image was built with another mvm: rebuild it with the one that mvmctl belongs to".into())
            }
            _ => None,
        }
    }
}

/// An authenticated stream.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    session: Session,
}

/// Opens a channel as the host: the handshake, under its deadline.
pub async fn connect<S>(mut stream: S, keys: &HostKeys) -> Result<Channel<S>, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let (host, hello) = HostHandshake::new(keys, nonce()?);
        write_frame(&mut stream, FrameType::ClientHello, &hello).await?;
        let reply = read_frame(&mut stream, MAX_UNAUTHENTICATED).await?.ok_or(ChannelError::Closed)?;
        let (auth, session) = match reply.kind {
            FrameType::ServerHello => host.on_server_hello(&reply.payload)?,
            FrameType::Refused => return Err(HandshakeError::from_refused(&reply.payload).into()),
            other => return Err(ChannelError::Unexpected(other)),
        };
        write_frame(&mut stream, FrameType::ClientAuth, &auth).await?;
        Ok(session)
    };
    let session = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await.map_err(|_| ChannelError::Deadline)??;
    Ok(Channel { stream, session })
}

/// Accepts a channel as the guest: the handshake, under its deadline. A refusal is told to the peer.
pub async fn accept<S>(mut stream: S, keys: &GuestKeys) -> Result<Channel<S>, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let guest = GuestHandshake::new(keys, nonce()?);
        let hello = expect_handshake(&mut stream, FrameType::ClientHello).await?;
        let (guest, reply) = guest.on_client_hello(&hello)?;
        write_frame(&mut stream, FrameType::ServerHello, &reply).await?;
        let auth = expect_handshake(&mut stream, FrameType::ClientAuth).await?;
        Ok(guest.on_client_auth(&auth)?)
    };
    match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(session)) => Ok(Channel { stream, session }),
        Ok(Err(ChannelError::Handshake(error))) => {
            // Best effort: the peer may be gone.
            let _ = write_frame(&mut stream, FrameType::Refused, &[error.refusal() as u8]).await;
            Err(error.into())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ChannelError::Deadline),
    }
}

async fn expect_handshake(stream: &mut (impl AsyncRead + Unpin), kind: FrameType) -> Result<Vec<u8>, ChannelError> {
    match read_frame(stream, MAX_UNAUTHENTICATED).await? {
        Some(frame) if frame.kind == kind => Ok(frame.payload),
        Some(_) => Err(HandshakeError::Malformed.into()),
        None => Err(ChannelError::Closed),
    }
}

fn nonce() -> Result<[u8; 32], ChannelError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| ChannelError::Io(io::Error::other(e.to_string())))?;
    Ok(bytes)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    /// A channel over a stream whose handshake has ended on a borrow of it.
    pub fn authenticated(stream: S, session: Session) -> Self {
        Self { stream, session }
    }

    /// What the handshake agreed on.
    pub fn session(&self) -> Session {
        self.session
    }

    /// As the host: sends a request and waits for its answer.
    pub async fn request(&mut self, request: &Request) -> Result<(), ChannelError> {
        let sent = self.send_json(FrameType::Request, request).await;
        // A guest that turns the host away says why and closes, at times before the request is sent: its word counts for
        // more than the broken pipe.
        let frame = match sent {
            Ok(()) => self.receive().await?.ok_or(ChannelError::Closed)?,
            Err(ChannelError::Io(broken)) => self.receive().await.ok().flatten().ok_or(broken)?,
            Err(error) => return Err(error),
        };
        // A guest that does not accept the ClientAuth says so only now: the host does not wait for it in between.
        if frame.kind == FrameType::Refused {
            return Err(HandshakeError::from_refused(&frame.payload).into());
        }
        match frame.json(FrameType::Response)? {
            Response::Ok => Ok(()),
            Response::Error(error) => Err(ChannelError::Refused(error)),
        }
    }

    /// Sends a frame.
    pub async fn send(&mut self, kind: FrameType, payload: &[u8]) -> Result<(), ChannelError> {
        write_frame(&mut self.stream, kind, payload).await
    }

    /// Sends a frame of JSON.
    pub async fn send_json(&mut self, kind: FrameType, message: &impl Serialize) -> Result<(), ChannelError> {
        let payload = serde_json::to_vec(message).map_err(|source| ChannelError::Json { kind, source })?;
        self.send(kind, &payload).await
    }

    /// Receives a frame; `None` where the peer closed between frames. Not cancel-safe: split the channel and
    /// give the reader a task of its own where something else is waited for as well.
    pub async fn receive(&mut self) -> Result<Option<Frame>, ChannelError> {
        read_frame(&mut self.stream, MAX_PAYLOAD).await
    }

    /// Both directions apart.
    pub fn split(self) -> (Reader<S>, Writer<S>) {
        let (read, write) = tokio::io::split(self.stream);
        (Reader { stream: read }, Writer { stream: write })
    }

    /// The bare stream, for plain bytes.
    pub fn into_stream(self) -> S {
        self.stream
    }
}

/// The receiving half of a channel.
#[derive(Debug)]
pub struct Reader<S> {
    stream: ReadHalf<S>,
}

/// The sending half of a channel.
#[derive(Debug)]
pub struct Writer<S> {
    stream: WriteHalf<S>,
}

impl<S: AsyncRead> Reader<S> {
    /// Receives a frame; `None` where the peer closed between frames. Not cancel-safe.
    pub async fn receive(&mut self) -> Result<Option<Frame>, ChannelError> {
        read_frame(&mut self.stream, MAX_PAYLOAD).await
    }
}

impl<S> Reader<S> {
    /// The bare reading half, for plain bytes.
    pub fn into_inner(self) -> ReadHalf<S> {
        self.stream
    }
}

impl<S: AsyncWrite> Writer<S> {
    /// Sends a frame.
    pub async fn send(&mut self, kind: FrameType, payload: &[u8]) -> Result<(), ChannelError> {
        write_frame(&mut self.stream, kind, payload).await
    }

    /// Sends a frame whose payload lies behind [`HEADER_LEN`] bytes of room for the header: no copy, one write.
    pub async fn send_in_place(&mut self, kind: FrameType, frame: &mut [u8]) -> Result<(), ChannelError> {
        let length = frame.len().saturating_sub(HEADER_LEN);
        let Some(room) = frame.first_chunk_mut().filter(|_| length <= MAX_PAYLOAD) else {
            return Err(FrameError::TooLong { length, limit: MAX_PAYLOAD }.into());
        };
        *room = FrameHeader { kind, length }.to_bytes();
        self.stream.write_all(frame).await?;
        Ok(self.stream.flush().await?)
    }

    /// Sends a frame of JSON.
    pub async fn send_json(&mut self, kind: FrameType, message: &impl Serialize) -> Result<(), ChannelError> {
        let payload = serde_json::to_vec(message).map_err(|source| ChannelError::Json { kind, source })?;
        self.send(kind, &payload).await
    }

    /// The bare writing half, for plain bytes.
    pub fn into_inner(self) -> WriteHalf<S> {
        self.stream
    }

    /// Closes the sending direction.
    pub async fn shutdown(&mut self) -> Result<(), ChannelError> {
        Ok(self.stream.shutdown().await?)
    }
}

impl Frame {
    /// Reads the payload as JSON, where the frame is of the right kind.
    pub fn json<T: DeserializeOwned>(&self, kind: FrameType) -> Result<T, ChannelError> {
        if self.kind != kind {
            return Err(ChannelError::Unexpected(self.kind));
        }
        serde_json::from_slice(&self.payload).map_err(|source| ChannelError::Json { kind, source })
    }
}

async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: FrameType,
    payload: &[u8],
) -> Result<(), ChannelError> {
    let mut bytes = Vec::new();
    encode(kind, payload, &mut bytes)?;
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Option<Frame>, ChannelError> {
    let mut header = [0; HEADER_LEN];
    // The end of the stream is an end only before the first byte of a header.
    let read = stream.read(&mut header).await?;
    if read == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[read..]).await?;
    let header = FrameHeader::parse(header, limit)?;
    let mut payload = vec![0; header.length];
    stream.read_exact(&mut payload).await?;
    Ok(Some(Frame { kind: header.kind, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelKeys;

    fn keys() -> (HostKeys, GuestKeys) {
        let keys = ChannelKeys::generate().unwrap();
        let guest = GuestKeys::from_hex(keys.guest_secret_hex(), &keys.host_public_hex().unwrap()).unwrap();
        (keys.host().unwrap(), guest)
    }

    #[tokio::test]
    async fn a_request_is_answered() {
        let (host, guest) = keys();
        let (a, b) = tokio::io::duplex(64);
        let serve = async {
            let mut channel = accept(b, &guest).await.unwrap();
            let request: Request = channel.receive().await.unwrap().unwrap().json(FrameType::Request).unwrap();
            assert_eq!(request, Request::Ping);
            channel.send_json(FrameType::Response, &Response::Ok).await.unwrap();
        };
        let ask = async { connect(a, &host).await.unwrap().request(&Request::Ping).await };
        assert!(tokio::join!(ask, serve).0.is_ok());
    }

    #[tokio::test]
    async fn a_stranger_is_told_why() {
        let (host, _) = keys();
        let (mut host2, guest) = keys();
        host2.secret = host.secret;
        let (a, b) = tokio::io::duplex(512);
        let ask = async { connect(a, &host2).await.unwrap().request(&Request::Ping).await };
        let (asked, served) = tokio::join!(ask, accept(b, &guest));
        assert!(matches!(served, Err(ChannelError::Handshake(HandshakeError::HostKey))));
        assert!(matches!(asked, Err(ChannelError::Handshake(HandshakeError::Refused(Some(Refusal::Key))))));
    }

    #[tokio::test]
    async fn a_stranger_is_told_why_even_where_the_guest_has_hung_up() {
        let (host, _) = keys();
        let (mut host2, guest) = keys();
        host2.secret = host.secret;
        let (a, b) = tokio::io::duplex(512);
        let (channel, served) = tokio::join!(connect(a, &host2), accept(b, &guest));
        // The guest's end is closed before the request is sent.
        assert!(served.is_err());
        drop(served);
        let asked = channel.unwrap().request(&Request::Ping).await;
        assert!(
            matches!(asked, Err(ChannelError::Handshake(HandshakeError::Refused(Some(Refusal::Key))))),
            "{asked:?}"
        );
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused_before_its_payload() {
        let (_, guest) = keys();
        let (mut a, b) = tokio::io::duplex(64);
        a.write_all(&[0xff, 0xff, 0xff, 0xff, 1]).await.unwrap();
        assert!(matches!(accept(b, &guest).await, Err(ChannelError::Frame(FrameError::TooLong { .. }))));
    }

    #[tokio::test]
    async fn a_truncated_frame_is_an_error_and_a_clean_end_is_not() {
        let (mut a, mut b) = tokio::io::duplex(64);
        a.write_all(&[0, 0, 0, 9, 0x30, 1, 2]).await.unwrap();
        drop(a);
        assert!(matches!(read_frame(&mut b, 64).await, Err(ChannelError::Io(_))));
        let (a, mut b) = tokio::io::duplex(64);
        drop(a);
        assert!(matches!(read_frame(&mut b, 64).await, Ok(None)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_a_byte_a_minute_is_cut_off() {
        let (_, guest) = keys();
        let (mut a, b) = tokio::io::duplex(64);
        let drip = async move {
            for byte in [0, 0, 0, 40, 1, b'm', b'v', b'm'] {
                if a.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        };
        let start = tokio::time::Instant::now();
        let (result, ()) = tokio::join!(accept(b, &guest), drip);
        assert!(matches!(result, Err(ChannelError::Deadline)));
        assert!(start.elapsed() < HANDSHAKE_DEADLINE * 3);
    }
}
