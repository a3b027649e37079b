//! When a service is ready: a command or a port is asked until it says so, or the service tells by itself.
//!
//! Neither a command nor a port can be waited for, so these two are asked again and again, with back-off from 20 ms to a
//! second. A service that knows sd_notify(3) costs nothing while it starts.

use super::health::probe;
use super::services::wanted;
use crate::agent::users::User;
use crate::context::Guest;
use mvm_core::{ReadinessCheck, Service};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpStream, UnixDatagram};
use tokio::time::{sleep, timeout};

/// The first pause between two attempts; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Where the sockets are to which services tell that they are ready.
const SOCKETS: &str = "/run/mvm/notify";
/// Most bytes of a datagram that are read.
const DATAGRAM: usize = 4096;

/// A service whose readiness is awaited.
pub(super) struct Awaited<'s> {
    guest: &'s Guest,
    service: &'s Service,
    check: &'s ReadinessCheck,
    socket: Option<Socket>,
}

impl<'s> Awaited<'s> {
    /// Prepares what has to be there before the service is started.
    pub(super) fn new(
        guest: &'s Guest,
        service: &'s Service,
        check: &'s ReadinessCheck,
        name: &str,
    ) -> io::Result<Self> {
        let socket = match check {
            ReadinessCheck::Notify => Some(Socket::bind(Path::new(SOCKETS), name, service.user.as_deref())?),
            ReadinessCheck::Command { .. } | ReadinessCheck::Port { .. } => None,
        };
        Ok(Self { guest, service, check, socket })
    }

    /// The variable by which the service knows where to tell.
    pub(super) fn variable(&self) -> Option<(&'static str, &Path)> {
        self.socket.as_ref().map(|socket| ("NOTIFY_SOCKET", socket.path.as_path()))
    }

    /// Returns when the service is ready.
    pub(super) async fn ready(self) {
        match (self.check, &self.socket) {
            (ReadinessCheck::Notify, Some(socket)) => socket.ready().await,
            // Never without its socket.
            (ReadinessCheck::Notify, None) => std::future::pending().await,
            (ReadinessCheck::Port { port }, _) => again_until(async || accepts(*port).await).await,
            (ReadinessCheck::Command { command }, _) => {
                let wanted = wanted(self.service, command);
                again_until(async || {
                    // What keeps it from being run may be what the service is about to make.
                    matches!(probe(self.guest, &wanted, ATTEMPT).await, Ok((true, _)))
                })
                .await;
            }
        }
    }
}

async fn again_until(attempt: impl AsyncFn() -> bool) {
    let mut pause = FIRST_PAUSE;
    while !attempt().await {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether somebody takes connections at a port of the loopback.
async fn accepts(port: u16) -> bool {
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()] {
        if matches!(timeout(ATTEMPT, TcpStream::connect(address)).await, Ok(Ok(_))) {
            return true;
        }
    }
    false
}

/// The socket of one service, which nobody but its user can send to. It goes when the service is ready: what sd_notify(3)
/// has to tell later concerns nobody here.
struct Socket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Socket {
    fn bind(folder: &Path, name: &str, user: Option<&str>) -> io::Result<Self> {
        let user = user.map(|user| User::find(Some(user))).transpose().map_err(|e| io::Error::other(e.message))?;
        let path = folder.join(name);
        let bind = || {
            fs::create_dir_all(folder)?;
            // Of an earlier start that did not become ready.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let socket = UnixDatagram::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            if let Some(user) = user {
                chown(&path, Some(user.uid), Some(user.gid))?;
            }
            Ok(socket)
        };
        let socket = bind().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(Self { socket, path })
    }

    async fn ready(&self) {
        let mut datagram = [0; DATAGRAM];
        // A socket without a connection has no end, and what else may fail will not pass by asking again.
        while let Ok(length) = self.socket.recv(&mut datagram).await {
            if datagram[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Best effort: the next start replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_tells_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("web"), "of an earlier start").unwrap();
        let socket = Socket::bind(dir.path(), "web", None).unwrap();
        assert_eq!(fs::metadata(&socket.path).unwrap().permissions().mode() & 0o777, 0o600);
        let service = UnixDatagram::unbound().unwrap();
        let mut ready = Box::pin(socket.ready());
        for not_yet in ["STATUS=READY=1", "READY=0\nREADY=11", ""] {
            service.send_to(not_yet.as_bytes(), &socket.path).await.unwrap();
        }
        assert!(timeout(Duration::from_millis(1), &mut ready).await.is_err());
        service.send_to(b"STATUS=up\nREADY=1\n", &socket.path).await.unwrap();
        ready.await;
        drop(socket);
        assert!(!dir.path().join("web").exists());
    }

    #[tokio::test]
    async fn a_port_is_ready_when_somebody_listens() {
        let listener = tokio::net::TcpListener::bind("[::1]:0").await;
        // A machine without IPv6 has the other loopback.
        let listener = match listener {
            Ok(listener) => listener,
            Err(_) => tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let port = listener.local_addr().unwrap().port();
        assert!(accepts(port).await);
        drop(listener);
        assert!(!accepts(port).await);
    }
}
