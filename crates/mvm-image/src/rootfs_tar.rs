//! A root file system as a tar stream: what a container runtime imports. Read without root and without mounting.
//!
//! Everything that the image says is checked or bounded: it may be damaged, or made to do damage. What a tar cannot say
//! or the reader does not tell is left out, and nothing in a container misses it: device nodes and sockets (a container
//! has a `/dev` of its own), extended attributes, and that two names are one file (each becomes a file).

use crate::error::ImageError;
use crate::stop::Stop;
use crate::superblock::{self, Superblock};
use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Metadata};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Files may have this many times the bytes of their file system, for holes and for files with several names. More can
/// only be made to fill the disk of whoever unpacks it.
const MOST_TIMES: u64 = 8;
/// What the name of a file begins with that stands for the lack of another (OCI image specification, layers): a file that
/// is really called so cannot be told from it.
const WHITEOUT: &[u8] = b".wh.";
/// Where ext4 puts what its repair finds.
const LOST_AND_FOUND: &[u8] = b"/lost+found";

/// Writes all that a root file system holds, as a tar with GNU's long names. Times are whole seconds from 1970 on.
pub fn write_rootfs_tar(rootfs: &Path, out: impl Write, stop: &Stop) -> Result<(), ImageError> {
    let file = File::open(rootfs).map_err(ImageError::io("read", rootfs))?;
    let mut block = [0; (superblock::RANGE.end - superblock::RANGE.start) as usize];
    file.read_exact_at(&mut block, superblock::RANGE.start).map_err(ImageError::io("read", rootfs))?;
    let limits = Superblock::parse(&block).ok_or_else(|| unreadable(rootfs, "it is not an ext4 file system"))?;
    let fs = Ext4::load(Box::new(Blocks(file))).map_err(|e| unreadable(rootfs, e))?;
    let mut walk = Walk {
        rootfs,
        fs,
        tar: Builder::new(out),
        stop,
        // A folder has one name, so more folders than inodes are a loop.
        folders_left: limits.inodes,
        bytes_left: limits.size.saturating_mul(MOST_TIMES),
    };
    walk.all()?;
    walk.tar.into_inner().and_then(|mut out| out.flush()).map_err(unwritable)
}

/// The image's blocks, read where they are asked for.
struct Blocks(File);

impl Ext4Read for Blocks {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.read_exact_at(into, at)?)
    }
}

struct Walk<'a, W: Write> {
    rootfs: &'a Path,
    fs: Ext4,
    tar: Builder<W>,
    stop: &'a Stop,
    folders_left: u32,
    bytes_left: u64,
}

impl<W: Write> Walk<'_, W> {
    fn all(&mut self) -> Result<(), ImageError> {
        let root = b"/".to_vec();
        let of = self.fs.symlink_metadata(root.as_slice()).map_err(|e| self.bad(&root, e))?;
        self.entry(&root, EntryType::Directory, &of, io::empty())?;
        let mut open = vec![root];
        while let Some(folder) = open.pop() {
            self.stop.check()?;
            for entry in self.fs.read_dir(folder.as_slice()).map_err(|e| self.bad(&folder, e))? {
                let entry = entry.map_err(|e| self.bad(&folder, e))?;
                let path = entry.path().as_ref().to_vec();
                let name = entry.file_name();
                if name == "." || name == ".." || path == LOST_AND_FOUND {
                    continue;
                }
                if name.as_ref().contains(&b'/') {
                    return Err(unreadable(self.rootfs, format!("{}: a name with a slash", text(&path))));
                }
                if name.as_ref().starts_with(WHITEOUT) {
                    let why =
                        format!("{}: to a container runtime this name means that a file was deleted", text(&path));
                    return Err(unreadable(self.rootfs, why));
                }
                let of = entry.metadata().map_err(|e| self.bad(&path, e))?;
                match of.file_type() {
                    FileType::Directory => {
                        self.folder(&path, &of)?;
                        open.push(path);
                    }
                    FileType::Regular => self.file(&path, &of)?,
                    FileType::Symlink => self.link(&path, &of)?,
                    FileType::Fifo => self.entry(&path, EntryType::Fifo, &of, io::empty())?,
                    FileType::BlockDevice | FileType::CharacterDevice | FileType::Socket => {}
                }
            }
        }
        Ok(())
    }

    fn folder(&mut self, path: &[u8], of: &Metadata) -> Result<(), ImageError> {
        let more = self.folders_left.checked_sub(1);
        self.folders_left = more.ok_or_else(|| unreadable(self.rootfs, "its folders lead in a circle"))?;
        self.entry(path, EntryType::Directory, of, io::empty())
    }

    fn file(&mut self, path: &[u8], of: &Metadata) -> Result<(), ImageError> {
        let more = self.bytes_left.checked_sub(of.len());
        self.bytes_left = more.ok_or_else(|| {
            let why = format!("{}: its files have more than {MOST_TIMES} times its own bytes", text(path));
            unreadable(self.rootfs, why)
        })?;
        let content = self.fs.open(path).map_err(|e| self.bad(path, e))?;
        let stop = self.stop;
        let mut content = Content { content, left: of.len(), stop, fault: None };
        let done = self.append(path, EntryType::Regular, of, of.len(), &mut content);
        match content.fault {
            Some(Fault::Stopped) => Err(ImageError::Stopped),
            Some(Fault::Ext4(error)) => Err(self.bad(path, error)),
            None => done,
        }
    }

    fn link(&mut self, path: &[u8], of: &Metadata) -> Result<(), ImageError> {
        let target = self.fs.read_link(path).map_err(|e| self.bad(path, e))?;
        let mut header = header(EntryType::Symlink, of, 0);
        let target = Path::new(OsStr::from_bytes(target.as_ref()));
        self.tar.append_link(&mut header, inside(path), target).map_err(unwritable)
    }

    fn entry(&mut self, path: &[u8], kind: EntryType, of: &Metadata, from: impl Read) -> Result<(), ImageError> {
        self.append(path, kind, of, 0, from)
    }

    fn append(
        &mut self,
        path: &[u8],
        kind: EntryType,
        of: &Metadata,
        size: u64,
        from: impl Read,
    ) -> Result<(), ImageError> {
        self.tar.append_data(&mut header(kind, of, size), inside(path), from).map_err(unwritable)
    }

    fn bad(&self, path: &[u8], error: Ext4Error) -> ImageError {
        unreadable(self.rootfs, format!("{}: {error}", text(path)))
    }
}

/// A file's bytes, as many as its header promised. What goes wrong is kept aside, to be told from the tar's own faults.
struct Content<'a> {
    content: ext4_view::File,
    left: u64,
    stop: &'a Stop,
    fault: Option<Fault>,
}

enum Fault {
    Stopped,
    Ext4(Ext4Error),
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fault = match self.stop.check() {
            Err(_) => Fault::Stopped,
            Ok(()) => match self.content.read_bytes(buffer) {
                Ok(0) if self.left > 0 => Fault::Ext4(Ext4Error::Io("the file ends too early".into())),
                Ok(n) => {
                    self.left = self.left.saturating_sub(n as u64);
                    return Ok(n);
                }
                Err(error) => Fault::Ext4(error),
            },
        };
        self.fault = Some(fault);
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn header(kind: EntryType, of: &Metadata, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(of.mode().into());
    header.set_uid(of.uid().into());
    header.set_gid(of.gid().into());
    // Times before 1970 have no place in a tar header.
    header.set_mtime(u64::try_from(of.modified().seconds()).unwrap_or(0));
    header.set_size(size);
    header
}

/// The path as the tar has it: `./` and the rest, so that there is something to cut off to where it is too long.
fn inside(path: &[u8]) -> PathBuf {
    Path::new(".").join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

fn unreadable(rootfs: &Path, why: impl ToString) -> ImageError {
    ImageError::Rootfs { path: rootfs.into(), why: why.to_string() }
}

fn unwritable(error: io::Error) -> ImageError {
    ImageError::io("write", "the tar of the root file system")(error)
}
