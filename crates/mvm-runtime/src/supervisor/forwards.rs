//! Published ports: listeners on the host whose connections go through the guest channel.

use crate::channel::{GuestChannel, open_channel};
use mvm_core::{Diagnostic, ErrorKind, PortForward};
use mvm_protocol::{HostKeys, Request, relay};
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Bytes that are read from a client at a time.
const BUFFER: usize = 64 * 1024;

/// Why a port is not published.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    /// The host refused the listener.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No such port is published.
    #[error("{0} is not published")]
    Unknown(PortForward),
}

impl Diagnostic for ForwardError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => ErrorKind::Busy,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                io::ErrorKind::AddrNotAvailable => ErrorKind::Usage,
                _ => ErrorKind::Unexpected,
            },
            Self::Unknown(_) => ErrorKind::NotFound,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { source, address } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "another program listens on port {}; publish another one, or 0:GUEST for any free port",
                address.port()
            )),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 need rights that this user does not have; publish a higher one".into())
            }
            _ => None,
        }
    }
}

/// The published ports of a VM.
#[derive(Default)]
pub(super) struct Forwards {
    bound: Vec<(PortForward, StdListener)>,
    serving: Vec<(PortForward, JoinHandle<()>)>,
    guest: Option<(GuestChannel, Rc<HostKeys>)>,
}

impl Forwards {
    /// Binds every port or none, before anything else of a start, so that a port in use costs nothing.
    pub(super) fn bind(ports: &[PortForward]) -> Result<Self, ForwardError> {
        let bound = ports.iter().map(|p| listen(*p)).collect::<Result<_, _>>()?;
        Ok(Self { bound, ..Self::default() })
    }

    /// Begins to serve, now that there is a guest.
    pub(super) fn serve(&mut self, channel: GuestChannel, keys: Rc<HostKeys>) {
        self.guest = Some((channel, keys));
        for (forward, listener) in std::mem::take(&mut self.bound) {
            self.accept_on(forward, listener);
        }
    }

    /// Publishes one more port.
    pub(super) fn add(&mut self, forward: PortForward) -> Result<PortForward, ForwardError> {
        let (forward, listener) = listen(forward)?;
        self.accept_on(forward, listener);
        Ok(forward)
    }

    /// Withdraws a port: nobody listens on it when this returns. Open connections through it go on.
    pub(super) async fn remove(&mut self, forward: PortForward) -> Result<(), ForwardError> {
        let at = self.serving.iter().position(|(f, _)| *f == forward).ok_or(ForwardError::Unknown(forward))?;
        let listening = self.serving.swap_remove(at).1;
        listening.abort();
        // An abort is a wish; the listener is closed when its task has ended.
        let _ = listening.await;
        Ok(())
    }

    /// The ports with the numbers that were really bound.
    pub(super) fn published(&self) -> Vec<PortForward> {
        self.bound.iter().map(|(f, _)| *f).chain(self.serving.iter().map(|(f, _)| *f)).collect()
    }

    fn accept_on(&mut self, forward: PortForward, listener: StdListener) {
        let Some((channel, keys)) = self.guest.clone() else {
            self.bound.push((forward, listener));
            return;
        };
        let task = tokio::task::spawn_local(async move {
            let listener = match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!(%error, %forward, "the port cannot be served"),
            };
            loop {
                match listener.accept().await {
                    Ok((client, _)) => {
                        let (channel, keys) = (channel.clone(), keys.clone());
                        tokio::task::spawn_local(async move {
                            if let Err(error) = carry(client, &channel, &keys, forward.guest).await {
                                tracing::info!(error, %forward, "a forwarded connection failed");
                            }
                        });
                    }
                    // Out of descriptors, or the client has gone: the next one may do better.
                    Err(error) => {
                        tracing::warn!(%error, %forward, "a connection was not accepted");
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        self.serving.push((forward, task));
    }
}

fn listen(forward: PortForward) -> Result<(PortForward, StdListener), ForwardError> {
    let address = forward.listen();
    let bind = || {
        let listener = StdListener::bind(address)?;
        let host = listener.local_addr()?.port();
        Ok((PortForward { host, ..forward }, listener))
    };
    bind().map_err(|source| ForwardError::Listen { address, source })
}

async fn carry(client: TcpStream, channel: &GuestChannel, keys: &HostKeys, port: u16) -> Result<(), String> {
    client.set_nodelay(true).map_err(|e| e.to_string())?;
    let mut guest = open_channel(channel, keys).await.map_err(|e| e.to_string())?;
    guest.request(&Request::Forward { port }).await.map_err(|e| e.to_string())?;
    relay(guest, client, BUFFER).await.map(|_| ()).map_err(|e| e.to_string())
}
