//! A log file that grows and is rotated, read as it does: woken by inotify(7), never by a clock.

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use mvm_core::Fault;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most bytes in one piece.
const PIECE: usize = 64 * 1024;

/// A reader at some place of a log.
pub(crate) struct LogFollower {
    path: PathBuf,
    file: Option<File>,
    events: EventStream<[u8; 4096]>,
}

impl LogFollower {
    /// Reads the log at `path`, whose folder exists, from its start.
    pub(crate) fn open(path: &Path) -> Result<Self, Fault> {
        let open = || -> io::Result<Self> {
            let inotify = Inotify::init()?;
            let folder = path.parent().unwrap_or(Path::new("."));
            inotify.watches().add(folder, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO)?;
            // The watch first: what is written from now on is either read or told.
            let file = File::open(path).ok();
            Ok(Self { path: path.into(), file, events: inotify.into_event_stream([0; 4096])? })
        };
        open().map_err(|e| Fault::unexpected(&format!("cannot follow {}", path.display()), &e))
    }

    /// What has been written since; empty at the end of what there is.
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, Fault> {
        let mut read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            if let Some(file) = &mut self.file {
                file.take(PIECE as u64).read_to_end(&mut bytes)?;
                if !bytes.is_empty() {
                    return Ok(bytes);
                }
            }
            // The end of this file: where another has taken its place, go on there.
            let Ok(next) = File::open(&self.path) else { return Ok(bytes) };
            let place = |file: &File| file.metadata().map(|m| (m.dev(), m.ino()));
            let same = match &self.file {
                Some(file) => place(file)? == place(&next)?,
                None => false,
            };
            if !same {
                let mut next = next;
                (&mut next).take(PIECE as u64).read_to_end(&mut bytes)?;
                self.file = Some(next);
            }
            Ok(bytes)
        };
        read().map_err(|e| Fault::unexpected(&format!("cannot read {}", self.path.display()), &e))
    }

    /// Returns when something has happened to the log. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.events.next().await.is_none() {
            std::future::pending().await
        }
    }
}
