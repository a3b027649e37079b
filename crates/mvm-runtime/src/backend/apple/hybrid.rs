//! A hybrid vsock socket in front of a socket device that only the supervisor's process can use: other commands reach the
//! guest through it as through Firecracker's (`CONNECT port`, answered by `OK port`), and its announcements come out of it.

use std::io;
use std::path::Path;
use std::rc::Rc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Most bytes of a request's line.
const LINE: u64 = 32;

/// Opens streams to ports of a guest.
pub(super) trait Device {
    /// A new stream, or why the guest does not take it.
    async fn connect(&self, port: u32) -> io::Result<UnixStream>;
}

/// Serves the socket. Each client has a stream of its own; one that fails is its client's affair.
pub(super) async fn serve(listener: UnixListener, device: Rc<impl Device + 'static>) {
    while let Ok((client, _)) = listener.accept().await {
        let device = device.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = carry(client, &*device).await {
                tracing::debug!(%error, "a stream to the guest ended");
            }
        });
    }
}

/// Hands what the guest opens to the socket where its announcements are awaited.
pub(super) async fn hand_on(mut opened: mpsc::Receiver<UnixStream>, to: &Path) {
    while let Some(mut guest) = opened.recv().await {
        match crate::unix::connect(to) {
            Ok(mut host) => {
                tokio::task::spawn_local(async move { copy_bidirectional(&mut guest, &mut host).await });
            }
            // Nobody waits for it any more.
            Err(error) => tracing::debug!(%error, "the guest's announcement is not taken"),
        }
    }
}

async fn carry(mut client: UnixStream, device: &impl Device) -> io::Result<()> {
    let port = requested(&mut client).await?;
    let mut guest = device.connect(port).await?;
    client.write_all(format!("OK {port}\n").as_bytes()).await?;
    copy_bidirectional(&mut client, &mut guest).await?;
    Ok(())
}

/// The port of a client's first line. A client says nothing more before it has its answer.
async fn requested(client: &mut UnixStream) -> io::Result<u32> {
    let mut line = String::new();
    BufReader::with_capacity(LINE as usize, client.take(LINE)).read_line(&mut line).await?;
    let port = line.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix('\n')?.parse().ok());
    port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a request of a hybrid vsock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::GuestChannel;
    use tokio::task::LocalSet;

    /// A guest that echoes what it is told, on one port.
    struct Echo;

    impl Device for Echo {
        async fn connect(&self, port: u32) -> io::Result<UnixStream> {
            if port != 1024 {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = UnixStream::pair()?;
            tokio::task::spawn_local(async move {
                let (mut from, mut to) = theirs.into_split();
                tokio::io::copy(&mut from, &mut to).await
            });
            Ok(ours)
        }
    }

    fn socket() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.sock");
        (dir, path)
    }

    #[tokio::test]
    async fn the_channel_of_every_backend_reaches_the_device() {
        let work = async {
            let (_dir, path) = socket();
            tokio::task::spawn_local(serve(crate::unix::listen(&path).unwrap(), Rc::new(Echo)));
            let channel = GuestChannel::Hybrid(path.clone());
            let mut stream = channel.connect(1024).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
            // An end goes both ways.
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut heard).await.unwrap(), 0);
            assert_eq!(channel.connect(7).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn what_is_no_request_is_hung_up_on() {
        let work = async {
            let (_dir, path) = socket();
            tokio::task::spawn_local(serve(crate::unix::listen(&path).unwrap(), Rc::new(Echo)));
            for words in ["CONNECT x\n", "GET / HTTP/1.1\n", "CONNECT 4294967296\n", &"C".repeat(4096)] {
                let mut client = crate::unix::connect(&path).unwrap();
                // It may be hung up on before all of it is said.
                let _ = client.write_all(words.as_bytes()).await;
                let mut heard = Vec::new();
                let _ = client.read_to_end(&mut heard).await;
                assert!(heard.is_empty(), "{words:?}");
            }
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn announcements_come_out_where_they_are_awaited() {
        let work = async {
            let (_dir, path) = socket();
            let listener = crate::unix::listen(&path).unwrap();
            let (tell, opened) = mpsc::channel(1);
            let to = path.clone();
            tokio::task::spawn_local(async move { hand_on(opened, &to).await });
            let (mut guest, theirs) = UnixStream::pair().unwrap();
            tell.send(theirs).await.unwrap();
            let (mut host, _) = listener.accept().await.unwrap();
            host.write_all(b"who").await.unwrap();
            let mut heard = [0; 3];
            guest.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"who");
        };
        LocalSet::new().run_until(work).await;
    }
}
