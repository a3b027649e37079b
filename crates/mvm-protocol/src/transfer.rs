//! The archive stream of `cp`: a tar archive inside `Data` frames.
//!
//! ```text
//! sender                                   receiver
//!  │ Data*   a GNU tar archive           ─→  │
//!  │ End     TransferSummary             ─→  │   or Abort: the sender could not go on
//!  │ ←─  End | Abort                         │   only where the receiver is the guest (push)
//! ```
//!
//! What is copied, on both sides alike, is what `cp -r` and `docker cp` copy:
//!
//! * Files, folders with all below them, and symbolic links as links. Devices, sockets and pipes inside a folder are
//!   left out and counted in [`TransferSummary::skipped`]; one that is asked for by name is an error.
//! * Modes and modification times (in seconds) are kept. Owners are not: everything belongs to whoever receives it,
//!   root in a guest. A receiver that does not trust the sender drops setuid, setgid and sticky bits ([`SpecialBits`]).
//! * A destination that is a folder receives the source under its own name; any other is the new name, and the folder
//!   around it must exist. A source that ends in `/.` (or is `/`) stands for what the folder holds.
//! * Folders merge: one that exists keeps its mode and time. A file is replaced in one step once all of it has
//!   arrived, so that an interrupted copy loses nothing.
//! * A file whose size changes while it is sent ends the copy with an error.
//!
//! The archive is a subset of GNU tar: types `0` (file), `5` (folder), `2` (symbolic link), and `L` and `K` (long name,
//! long link) of at most [`MAX_PATH`] bytes. The first entry names the base: one component, or `.` for a folder's
//! contents; all that follow lie below it, parents first. Anything else is refused before it touches the disk.
//!
//! [`send`] and [`receive`] block, over any `Read` and `Write`, and use constant memory; [`push`] and [`pull`] are the
//! host's two operations over an asynchronous [`Channel`](crate::Channel).

mod frames;
mod host;
mod receive;
mod send;
mod stoppable;
mod tree;

pub use host::{pull, push};
pub use receive::{check_dest, receive};
pub use send::{check_source, send};
pub use tree::SpecialBits;

use crate::{ErrorCode, RequestError, TransferSummary};
use std::io;
use std::path::PathBuf;

/// Most bytes in a path inside an archive, and in the target of a link.
pub const MAX_PATH: usize = 4096;
/// Most folders inside one another.
pub const MAX_DEPTH: usize = 256;
/// Most names in [`TransferSummary::skipped_names`].
pub const MAX_SKIPPED_NAMES: usize = 16;

/// Why a copy failed. Paths are shown escaped, since a hostile sender may have chosen them.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A file of the source could not be read.
    #[error("cannot read {path:?}: {source}")]
    Source {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the destination could not be written.
    #[error("cannot write {path:?}: {source}")]
    Dest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file's size changed while it was read.
    #[error("{0:?} changed its size while it was being copied")]
    Changed(PathBuf),
    /// The source is no file, folder or link.
    #[error("{0:?} is a device, a socket or a pipe; only files, folders and links can be copied")]
    Special(PathBuf),
    /// What lies at the destination is in the way.
    #[error("cannot write {path:?}: {reason}")]
    Conflict {
        /// The destination.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
    /// Folders are nested deeper than [`MAX_DEPTH`].
    #[error("{0:?} lies more than {MAX_DEPTH} folders deep")]
    TooDeep(PathBuf),
    /// The archive is not one that a sender of this protocol makes.
    #[error("the archive is refused: {0}")]
    Malformed(String),
    /// The peer gave up.
    #[error("{0}")]
    Aborted(RequestError),
    /// The connection broke.
    #[error("the connection broke during the copy: {0}")]
    Connection(io::Error),
}

impl TransferError {
    /// What the peer is told.
    pub fn to_request_error(&self) -> RequestError {
        let code = match self {
            Self::Source { source, .. } | Self::Dest { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorCode::NotFound
            }
            Self::Special(_) | Self::Conflict { .. } | Self::TooDeep(_) | Self::Malformed(_) => ErrorCode::Invalid,
            Self::Aborted(error) => return error.clone(),
            Self::Source { .. } | Self::Dest { .. } | Self::Changed(_) | Self::Connection(_) => ErrorCode::Failed,
        };
        RequestError::new(code, self.to_string())
    }
}

impl TransferSummary {
    fn skip(&mut self, path: &std::path::Path) {
        self.skipped += 1;
        if self.skipped_names.len() < MAX_SKIPPED_NAMES {
            self.skipped_names.push(path.to_string_lossy().into_owned());
        }
    }
}
