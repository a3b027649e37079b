//! The receiving side: an archive becomes a file or a folder. The sender is taken for hostile.

use super::frames::{Ended, FrameReader};
use super::tree::{Attributes, SpecialBits, Target, Tree};
use super::{MAX_PATH, TransferError};
use crate::{CHUNK, TransferSummary};
use std::ffi::OsStr;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{Archive, EntryType};

/// Headers and small files are read through a buffer of this many bytes; larger reads pass it by.
const BUFFER: usize = 32 * 1024;

/// Checks that a destination could take an archive, before a peer is asked for one.
pub fn check_dest(dest: &Path) -> Result<(), TransferError> {
    Target::find(dest, OsStr::new("mvm")).map(|_| ())
}

/// Receives an archive up to its `End`, which must say what has arrived.
///
/// `progress` is called with the number of bytes of contents each time some have been written.
pub fn receive(
    dest: &Path,
    input: impl Read,
    special_bits: SpecialBits,
    progress: &mut dyn FnMut(u64),
) -> Result<TransferSummary, TransferError> {
    let (frames, ended) = FrameReader::new(input);
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, frames));
    let unpacked = unpack(&mut archive, dest, special_bits, progress);
    let result = unpacked.and_then(|held| finish(&mut archive.into_inner()).map(|()| held));
    // What broke below the archive explains the archive's error.
    match ended.take() {
        Ended::Broken(error) => Err(error),
        Ended::No => Err(result.err().unwrap_or_else(|| TransferError::Malformed("it has no end".into()))),
        Ended::Complete(said) => {
            let held = result?;
            if (said.entries, said.bytes) == (held.entries, held.bytes) {
                Ok(said)
            } else {
                Err(TransferError::Malformed("its end does not say what it held".into()))
            }
        }
    }
}

/// Reads the end: the second block of zeros (the archive reader has had the first), and nothing else.
fn finish(rest: &mut impl Read) -> Result<(), TransferError> {
    let mut block = Vec::new();
    rest.take(513).read_to_end(&mut block).map_err(malformed)?;
    if block == [0; 512] { Ok(()) } else { Err(TransferError::Malformed("it does not end where it should".into())) }
}

fn unpack(
    archive: &mut Archive<impl Read>,
    dest: &Path,
    special_bits: SpecialBits,
    progress: &mut dyn FnMut(u64),
) -> Result<TransferSummary, TransferError> {
    let mut summary = TransferSummary::default();
    let mut tree: Option<Tree> = None;
    let mut long_name: Option<Vec<u8>> = None;
    let mut long_link: Option<Vec<u8>> = None;
    let mut buffer = Vec::new();
    for entry in archive.entries().map_err(malformed)?.raw(true) {
        let mut entry = entry.map_err(malformed)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName if long_name.is_none() => {
                long_name = Some(extension(&mut entry)?);
                continue;
            }
            EntryType::GNULongLink if long_link.is_none() => {
                long_link = Some(extension(&mut entry)?);
                continue;
            }
            EntryType::Regular | EntryType::Directory | EntryType::Symlink => {}
            other => return Err(TransferError::Malformed(format!("an entry of type {:?}", other.as_byte() as char))),
        }
        if kind != EntryType::Regular && entry.header().entry_size().map_err(malformed)? != 0 {
            return Err(TransferError::Malformed("a folder or link with contents".into()));
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let attributes = Attributes {
            mode: entry.header().mode().map_err(malformed)?,
            mtime: entry.header().mtime().map_err(malformed)?,
        };
        let tree = match &mut tree {
            Some(tree) => tree,
            none => {
                let base = base(&name)?;
                if kind != EntryType::Directory && dest.as_os_str().as_bytes().ends_with(b"/") && !dest.is_dir() {
                    let reason = "the folder does not exist";
                    return Err(TransferError::Conflict { path: dest.to_owned(), reason });
                }
                none.insert(Tree::new(Target::find(dest, base)?, base.to_owned(), special_bits))
            }
        };
        match kind {
            EntryType::Directory => tree.folder(&name, attributes)?,
            EntryType::Symlink => {
                let target = match long_link.take() {
                    Some(target) => target,
                    None => entry.link_name_bytes().unwrap_or_default().into_owned(),
                };
                tree.link(&name, &target, attributes)?;
            }
            _ => {
                let size = entry.header().entry_size().map_err(malformed)?;
                let mut file = tree.file(&name, attributes)?;
                buffer.resize(CHUNK.min(usize::try_from(size).unwrap_or(CHUNK)).max(buffer.len()), 0);
                let mut left = size;
                while left > 0 {
                    let n = match entry.read(&mut buffer) {
                        Ok(0) => return Err(TransferError::Malformed("it ends inside a file".into())),
                        Ok(n) => n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                        Err(e) => return Err(malformed(e)),
                    };
                    file.write(&buffer[..n])?;
                    left -= n as u64;
                    progress(n as u64);
                }
                file.finish()?;
                summary.bytes += size;
            }
        }
        if long_link.is_some() {
            return Err(TransferError::Malformed("a link's target without a link".into()));
        }
        summary.entries += 1;
    }
    match tree {
        Some(mut tree) => tree.finish()?,
        None => return Err(TransferError::Malformed("it is empty".into())),
    }
    Ok(summary)
}

/// The value of a GNU long name or long link, at most [`MAX_PATH`] bytes.
fn extension(entry: &mut impl Read) -> Result<Vec<u8>, TransferError> {
    let mut value = Vec::new();
    entry.take(MAX_PATH as u64 + 2).read_to_end(&mut value).map_err(malformed)?;
    if value.pop() != Some(0) || value.len() > MAX_PATH {
        return Err(TransferError::Malformed(format!("a name of more than {MAX_PATH} bytes")));
    }
    Ok(value)
}

/// The first entry's name is the base's.
fn base(name: &[u8]) -> Result<&OsStr, TransferError> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    if name.is_empty() || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(TransferError::Malformed(format!("the name {:?}", String::from_utf8_lossy(name))));
    }
    Ok(OsStr::from_bytes(name))
}

fn malformed(error: io::Error) -> TransferError {
    TransferError::Malformed(error.to_string())
}
