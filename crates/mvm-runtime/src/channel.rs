//! The way to a guest's agent: one stream an operation.

use mvm_protocol::{AGENT_PORT, Channel, ChannelError, HostKeys};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::UnixStream;

/// How long the device may take to say that the guest's port is open. A device whose guest has no driver yet
/// says nothing at all, neither yes nor no.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Where a guest's agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestChannel {
    /// A hybrid vsock: a Unix socket that takes `CONNECT port` (Firecracker, vhost-device-vsock).
    Hybrid(PathBuf),
    /// AF_VSOCK with the guest's context id.
    #[cfg(target_os = "linux")]
    Vsock(u32),
    /// A Unix socket that the agent itself serves.
    Direct(PathBuf),
}

/// A stream to a guest, whatever carries it.
#[derive(Debug)]
pub enum GuestStream {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over AF_VSOCK.
    #[cfg(target_os = "linux")]
    Vsock(tokio_vsock::VsockStream),
}

impl GuestChannel {
    /// The guest's context id, where that is its address.
    pub fn cid(&self) -> Option<u32> {
        match self {
            Self::Hybrid(_) | Self::Direct(_) => None,
            #[cfg(target_os = "linux")]
            Self::Vsock(cid) => Some(*cid),
        }
    }

    /// Opens a stream to a port of the guest.
    pub async fn connect(&self, port: u32) -> io::Result<GuestStream> {
        let connect = async {
            match self {
                Self::Hybrid(path) => hybrid_connect(crate::unix::connect(path)?, port).await.map(GuestStream::Unix),
                Self::Direct(path) => crate::unix::connect(path).map(GuestStream::Unix),
                #[cfg(target_os = "linux")]
                Self::Vsock(cid) => {
                    let address = tokio_vsock::VsockAddr::new(*cid, port);
                    tokio_vsock::VsockStream::connect(address).await.map(GuestStream::Vsock)
                }
            }
        };
        tokio::time::timeout(CONNECT_DEADLINE, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Opens an authenticated channel to a guest's agent.
pub async fn open_channel(at: &GuestChannel, keys: &HostKeys) -> Result<Channel<GuestStream>, ChannelError> {
    mvm_protocol::connect(at.connect(AGENT_PORT).await?, keys).await
}

async fn hybrid_connect(mut stream: UnixStream, port: u32) -> io::Result<UnixStream> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // The guest stays silent until the host has spoken, so reading ahead cannot swallow bytes of the conversation;
    // the length is bounded all the same.
    let mut reply = String::new();
    let mut reader = BufReader::with_capacity(64, (&mut stream).take(64));
    reader.read_line(&mut reply).await?;
    if reply.starts_with("OK ") {
        Ok(stream)
    } else {
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the guest's agent does not listen"))
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            #[cfg(target_os = "linux")]
            Self::Vsock(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            #[cfg(target_os = "linux")]
            Self::Vsock(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            #[cfg(target_os = "linux")]
            Self::Vsock(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            #[cfg(target_os = "linux")]
            Self::Vsock(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
