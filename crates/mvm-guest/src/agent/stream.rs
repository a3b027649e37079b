//! The transports of the guest channel: vsock, and a Unix socket where there is no VM.

use mvm_protocol::{AGENT_PORT, announce_port};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// Where hosts connect to.
pub enum Listener {
    /// A Unix socket that nobody but its owner may open.
    Unix(UnixListener),
    /// vsock port [`AGENT_PORT`].
    Vsock(VsockListener),
}

/// Where the host takes the guest's announcement.
pub enum Announce {
    /// A Unix socket of the host's.
    Unix(PathBuf),
    /// The host's vsock port for it.
    Vsock,
}

/// A connection.
pub enum Stream {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over vsock.
    Vsock(VsockStream),
}

impl Listener {
    /// Listens on a Unix socket (0600), in place of a stale one. Once the path is there it can be connected to.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The mode comes from the umask, so there is no moment in which somebody else could connect.
        let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(&new);
        rustix::process::umask(umask);
        let bound = bound?;
        std::fs::rename(&new, path)?;
        Ok(Self::Unix(bound))
    }

    /// Listens on a Unix socket that somebody else has made.
    pub fn made(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        UnixListener::from_std(socket.into()).map(Self::Unix)
    }

    /// Listens on vsock port [`AGENT_PORT`].
    pub fn vsock() -> io::Result<Self> {
        VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT)).map(Self::Vsock)
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Vsock(listener) => Ok(Stream::Vsock(listener.accept().await?.0)),
        }
    }
}

impl Announce {
    /// Connects to where the host takes announcements.
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Self::Vsock => {
                let port = announce_port(vsock::get_local_cid()?);
                VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await.map(Stream::Vsock)
            }
        }
    }
}

impl Stream {
    /// The same connection for blocking reads and writes.
    pub(super) fn into_blocking(self) -> io::Result<File> {
        let fd: OwnedFd = match self {
            Self::Unix(stream) => stream.into_std()?.into(),
            Self::Vsock(stream) => stream.into(),
        };
        rustix::io::ioctl_fionbio(&fd, false)?;
        Ok(fd.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Vsock(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Vsock(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Vsock(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
