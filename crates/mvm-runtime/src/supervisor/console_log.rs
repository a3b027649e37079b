//! The console's log, rotated: what a guest prints is hostile in its amount.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes after which the log moves to `console.log.1`, over the one before.
const ROTATE_AT: u64 = 8 << 20;

/// An open log.
#[derive(Debug)]
pub(super) struct ConsoleLog {
    path: PathBuf,
    file: File,
    written: u64,
}

impl ConsoleLog {
    /// Opens the log of a new start; the one of the start before becomes `console.log.1`.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let mut log = Self { file: File::options().create(true).append(true).open(&path)?, path, written: 0 };
        log.written = log.file.metadata()?.len();
        if log.written > 0 {
            log.rotate()?;
        }
        Ok(log)
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("log.1"))?;
        self.file = File::options().create(true).append(true).open(&self.path)?;
        self.written = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written >= ROTATE_AT { self.rotate() } else { Ok(()) }
    }

    /// Writes what the console says until it ends. A full disk costs lines, never the VM.
    pub(super) async fn follow(mut self, mut console: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        let mut lost = false;
        loop {
            match console.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if let Err(error) = self.write(&buffer[..n])
                        && !std::mem::replace(&mut lost, true)
                    {
                        tracing::warn!(%error, "lines of the console are lost");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_takes_a_bounded_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = ConsoleLog::open(path.clone()).unwrap();
        for _ in 0..5 {
            log.write(&vec![b'x'; ROTATE_AT as usize / 2]).unwrap();
        }
        let total: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 2 * ROTATE_AT, "{total}");
    }

    #[test]
    fn the_log_of_the_start_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        ConsoleLog::open(path.clone()).unwrap().write(b"first\n").unwrap();
        ConsoleLog::open(path.clone()).unwrap().write(b"second\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second\n");
        assert_eq!(fs::read(path.with_extension("log.1")).unwrap(), b"first\n");
    }
}
