//! The sending side: a file or a folder becomes an archive.

use super::frames::FrameWriter;
use super::{MAX_DEPTH, MAX_PATH, TransferError};
use crate::{CHUNK, TransferSummary};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, ReadDir};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// Files below this many bytes are read to their end before their header is written, so that those which do not know
/// their size (`/proc`, `/sys`) are copied too, and a small file that grows is simply the larger file.
const SMALL: usize = CHUNK / 2;
const BLOCK: usize = 512;

/// Checks that a source can be sent at all, before a peer is asked to receive it.
pub fn check_source(source: &Path) -> Result<(), TransferError> {
    let metadata = fs::symlink_metadata(source).map_err(|e| unreadable(source, e))?;
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_dir() || kind.is_symlink() {
        Ok(())
    } else {
        Err(TransferError::Special(source.to_owned()))
    }
}

/// Sends a file, a folder or a link, and `End`; or `Abort` where the source cannot be read to its end.
///
/// `progress` is called with the number of bytes of contents each time some have been read.
pub fn send(source: &Path, out: impl Write, progress: &mut dyn FnMut(u64)) -> Result<TransferSummary, TransferError> {
    let mut sender = Sender { out: FrameWriter::new(out), summary: TransferSummary::default(), progress };
    match sender.all(source) {
        Ok(()) => {
            sender.out.end(&sender.summary).map_err(TransferError::Connection)?;
            Ok(sender.summary)
        }
        Err(error) => {
            if !matches!(error, TransferError::Connection(_)) {
                // The error itself is what the caller should see, also where the peer is gone.
                let _ = sender.out.abort(&error.to_request_error());
            }
            Err(error)
        }
    }
}

struct Sender<'p, W> {
    out: FrameWriter<W>,
    summary: TransferSummary,
    progress: &'p mut dyn FnMut(u64),
}

/// A folder that is being read.
struct Level {
    entries: ReadDir,
    source: PathBuf,
    name: Vec<u8>,
}

impl<W: Write> Sender<'_, W> {
    fn all(&mut self, source: &Path) -> Result<(), TransferError> {
        check_source(source)?;
        let base = base_name(source);
        let mut levels = Vec::new();
        levels.extend(self.entry(source, base.to_vec())?);
        while let Some(level) = levels.last_mut() {
            let Some(next) = level.entries.next() else {
                levels.pop();
                continue;
            };
            let next = next.map_err(|e| unreadable(&level.source, e))?;
            let path = level.source.join(next.file_name());
            let mut name = Vec::with_capacity(level.name.len() + 1 + next.file_name().len());
            if level.name != b"." {
                name.extend_from_slice(&level.name);
                name.push(b'/');
            }
            name.extend_from_slice(next.file_name().as_bytes());
            if let Some(level) = self.entry(&path, name)? {
                if levels.len() == MAX_DEPTH {
                    return Err(TransferError::TooDeep(path));
                }
                levels.push(level);
            }
        }
        // The end of a tar archive is two blocks of zeros.
        self.out.write_all(&[0; 2 * BLOCK]).map_err(TransferError::Connection)
    }

    /// Sends one entry; a folder is returned to be read.
    fn entry(&mut self, path: &Path, name: Vec<u8>) -> Result<Option<Level>, TransferError> {
        let metadata = fs::symlink_metadata(path).map_err(|e| unreadable(path, e))?;
        let kind = metadata.file_type();
        if name.len() > MAX_PATH {
            return Err(unreadable(path, rustix::io::Errno::NAMETOOLONG.into()));
        }
        let mut level = None;
        if kind.is_file() {
            self.file(path, &name)?;
        } else if kind.is_dir() {
            let entries = fs::read_dir(path).map_err(|e| unreadable(path, e))?;
            self.header(EntryType::Directory, &metadata, &name, 0)?;
            level = Some(Level { entries, source: path.to_owned(), name });
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|e| unreadable(path, e))?;
            self.link(&metadata, &name, target.as_os_str())?;
        } else {
            self.summary.skip(path);
            return Ok(None);
        }
        self.summary.entries += 1;
        Ok(level)
    }

    fn header(&mut self, kind: EntryType, of: &Metadata, name: &[u8], size: u64) -> Result<(), TransferError> {
        self.long_name(name)?;
        self.out.write_all(header(kind, of, name, size).as_bytes()).map_err(TransferError::Connection)
    }

    fn link(&mut self, of: &Metadata, name: &[u8], target: &OsStr) -> Result<(), TransferError> {
        let target = target.as_bytes();
        let mut header = header(EntryType::Symlink, of, name, 0);
        let field = &mut header.as_old_mut().linkname;
        let n = target.len().min(field.len());
        let long = target.len() > field.len();
        field[..n].copy_from_slice(&target[..n]);
        header.set_cksum();
        if long {
            self.extension(EntryType::GNULongLink, target)?;
        }
        self.long_name(name)?;
        self.out.write_all(header.as_bytes()).map_err(TransferError::Connection)
    }

    fn long_name(&mut self, name: &[u8]) -> Result<(), TransferError> {
        if name.len() > Header::new_gnu().as_old().name.len() {
            self.extension(EntryType::GNULongName, name)?;
        }
        Ok(())
    }

    /// GNU tar's way of saying more than a header can hold: an entry before the entry.
    fn extension(&mut self, kind: EntryType, value: &[u8]) -> Result<(), TransferError> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(value.len() as u64 + 1);
        header.set_entry_type(kind);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(value);
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        self.out.write_all(&bytes).map_err(TransferError::Connection)
    }

    fn file(&mut self, path: &Path, name: &[u8]) -> Result<(), TransferError> {
        // Not through a link, and not waiting for a writer, should the path have become a link or a pipe meanwhile.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file =
            File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| unreadable(path, e.into()))?);
        let metadata = file.metadata().map_err(|e| unreadable(path, e))?;
        if !metadata.is_file() {
            return Err(TransferError::Special(path.to_owned()));
        }
        self.long_name(name)?;
        let size = if metadata.len() < SMALL as u64 {
            self.small_file(path, &mut file, &metadata, name)?
        } else {
            self.large_file(path, &mut file, &metadata, name)?
        };
        let padding = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        self.out.write_all(&[0; BLOCK][..padding]).map_err(TransferError::Connection)?;
        self.summary.bytes += size;
        Ok(())
    }

    fn small_file(
        &mut self,
        path: &Path,
        file: &mut File,
        metadata: &Metadata,
        name: &[u8],
    ) -> Result<u64, TransferError> {
        let room = self.out.room_for(BLOCK + SMALL).map_err(TransferError::Connection)?;
        let (block, contents) = room.split_at_mut(BLOCK);
        let mut size = 0;
        loop {
            match file.read(&mut contents[size..SMALL]) {
                Ok(0) if size < SMALL => break,
                Ok(0) => return Err(TransferError::Changed(path.to_owned())),
                Ok(n) => size += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(path, e)),
            }
        }
        block.copy_from_slice(header(EntryType::Regular, metadata, name, size as u64).as_bytes());
        self.out.advance(BLOCK + size);
        (self.progress)(size as u64);
        Ok(size as u64)
    }

    fn large_file(
        &mut self,
        path: &Path,
        file: &mut File,
        metadata: &Metadata,
        name: &[u8],
    ) -> Result<u64, TransferError> {
        let size = metadata.len();
        let header = header(EntryType::Regular, metadata, name, size);
        self.out.write_all(header.as_bytes()).map_err(TransferError::Connection)?;
        let mut left = size;
        while left > 0 {
            let room = self.out.room().map_err(TransferError::Connection)?;
            let n = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match file.read(&mut room[..n]) {
                Ok(0) => return Err(TransferError::Changed(path.to_owned())),
                Ok(n) => {
                    self.out.advance(n);
                    left -= n as u64;
                    (self.progress)(n as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(path, e)),
            }
        }
        if file.metadata().map_err(|e| unreadable(path, e))?.len() != size {
            return Err(TransferError::Changed(path.to_owned()));
        }
        Ok(size)
    }
}

/// The header of an entry; a name that is too long for it is cut off, for [`Sender::long_name`] has said it.
fn header(kind: EntryType, of: &Metadata, name: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    let field = &mut header.as_old_mut().name;
    let n = name.len().min(field.len());
    field[..n].copy_from_slice(&name[..n]);
    header.set_entry_type(kind);
    header.set_mode(of.mode() & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    // Times before 1970 have no place in a tar header.
    header.set_mtime(u64::try_from(of.mtime()).unwrap_or(0));
    header.set_size(size);
    header.set_cksum();
    header
}

/// The name under which a source arrives in a folder; `.` where only what it holds does.
fn base_name(source: &Path) -> &[u8] {
    let bytes = source.as_os_str().as_bytes();
    match source.file_name() {
        Some(name) if bytes != b"." && !bytes.ends_with(b"/.") => name.as_bytes(),
        _ => b".",
    }
}

fn unreadable(path: &Path, source: io::Error) -> TransferError {
    TransferError::Source { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_what_cp_would_take() {
        for (source, base) in [
            ("/a/b", "b"),
            ("b", "b"),
            ("/a/b/", "b"),
            ("/a/b/.", "."),
            (".", "."),
            ("..", "."),
            ("a/..", "."),
            ("/", "."),
            ("/a/.hidden", ".hidden"),
            ("/a/-rf", "-rf"),
        ] {
            assert_eq!(base_name(Path::new(source)), base.as_bytes(), "{source}");
        }
    }
}
