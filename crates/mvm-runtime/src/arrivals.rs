//! Waiting for what a child makes in a folder, by inotify(7).

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// Waits for sockets that a child is about to make, from before it is started. The waiting ends when the caller says so:
/// it has a deadline, and hears of the child's end.
pub(crate) struct Arrivals {
    folder: PathBuf,
    events: EventStream<[u8; 1024]>,
}

impl Arrivals {
    pub(crate) fn watch(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        inotify.watches().add(folder, WatchMask::CREATE)?;
        Ok(Self { folder: folder.into(), events: inotify.into_event_stream([0; 1024])? })
    }

    /// Connects to a socket of the folder as soon as somebody listens there.
    pub(crate) async fn connect(&mut self, name: &str) -> io::Result<UnixStream> {
        loop {
            match crate::unix::connect(&self.folder.join(name)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.next().await?,
                // Between bind(2) and listen(2), two system calls in a row, there is no event to wait for.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => tokio::task::yield_now().await,
                done => return done,
            }
        }
    }

    /// Waits until a file is there.
    pub(crate) async fn present(&mut self, name: &str) -> io::Result<()> {
        while !self.folder.join(name).exists() {
            self.next().await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> io::Result<()> {
        self.events.next().await.transpose().map(|_| ())
    }
}
