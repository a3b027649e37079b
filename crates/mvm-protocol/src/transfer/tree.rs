//! A destination into which a hostile archive may be unpacked: no name in it leads out.
//!
//! Every folder on the way is opened from the one above it, by one component, without following links, and kept open.
//! So `..`, absolute names and links (those of the archive and those that were there) cannot lead anywhere, on any
//! Unix, whatever else happens to the tree meanwhile.

use super::{MAX_DEPTH, MAX_PATH, TransferError};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What becomes of setuid, setgid and sticky bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialBits {
    /// They are kept: the sender is trusted with more than this.
    Keep,
    /// They are dropped: the sender may be hostile.
    Drop,
}

/// Mode and time of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    /// Seconds since the epoch.
    pub(super) mtime: u64,
}

/// Where the base of the archive goes.
pub(super) struct Target {
    folder: OwnedFd,
    /// `None` where the folder itself is the base.
    name: Option<OsString>,
    path: PathBuf,
}

impl Target {
    /// Decides as `cp` does: into an existing folder under the base's name, else as the destination's own name.
    pub(super) fn find(dest: &Path, base: &OsStr) -> Result<Self, TransferError> {
        let into = match std::fs::metadata(dest) {
            Ok(found) if found.is_dir() => {
                let folder = open_dest_folder(dest)?;
                return Ok(if base == "." {
                    Self { folder, name: None, path: dest.to_owned() }
                } else {
                    Self { folder, name: Some(base.to_owned()), path: dest.join(base) }
                });
            }
            // A link to a file stands for the file.
            Ok(_) => std::fs::canonicalize(dest).map_err(|e| unwritable(dest, e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if std::fs::symlink_metadata(dest).is_ok() {
                    return Err(conflict(dest, "it is a link to nothing"));
                }
                dest.to_owned()
            }
            Err(e) => return Err(unwritable(dest, e)),
        };
        let Some(name) = into.file_name() else {
            return Err(conflict(dest, "the folder does not exist"));
        };
        let parent = match into.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Self { folder: open_dest_folder(parent)?, name: Some(name.to_owned()), path: into })
    }
}

fn open_dest_folder(path: &Path) -> Result<OwnedFd, TransferError> {
    rustix::fs::open(path, FOLDER, Mode::empty()).map_err(|e| match e {
        Errno::NOENT => conflict(path, "the folder does not exist"),
        Errno::NOTDIR => conflict(path, "it is not a folder"),
        e => unwritable(path, e.into()),
    })
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open folder on the way to the current entry.
struct Folder {
    name: OsString,
    fd: OwnedFd,
    /// Set when it is left; `None` for a folder that was there before.
    attributes: Option<Attributes>,
}

/// The tree that is being written.
pub(super) struct Tree {
    target: Target,
    base: OsString,
    special_bits: SpecialBits,
    /// Below `target.folder`; the first is the base, where that has a name of its own.
    open: Vec<Folder>,
    unnamed_files: bool,
}

impl Tree {
    pub(super) fn new(target: Target, base: OsString, special_bits: SpecialBits) -> Self {
        Self { target, base, special_bits, open: Vec::new(), unnamed_files: unnamed::available() }
    }

    /// Makes a folder, or goes into the one that is there.
    pub(super) fn folder(&mut self, name: &[u8], attributes: Attributes) -> Result<(), TransferError> {
        let Some((parents, last)) = self.locate(name)? else { return Ok(()) };
        self.enter(&parents)?;
        let path = self.path(&last);
        let fresh = match rustix::fs::mkdirat(self.top(), &last, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(unwritable(&path, e.into())),
        };
        let fd = self.open_folder(&last)?;
        self.open.push(Folder { name: last, fd, attributes: fresh.then_some(attributes) });
        Ok(())
    }

    /// Begins a file. It takes its place when [`NewFile::finish`] is called, and leaves nothing otherwise.
    pub(super) fn file(&mut self, name: &[u8], attributes: Attributes) -> Result<NewFile<'_>, TransferError> {
        let (last, path, exists) = self.place(name)?;
        let mut temporary = None;
        let mut file = None;
        if self.unnamed_files {
            file = unnamed::create(self.top()).ok();
            self.unnamed_files = file.is_some();
        }
        let file = match file {
            Some(file) => file,
            None => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let name = temporary_name().map_err(|e| unwritable(&path, e))?;
                let fd = rustix::fs::openat(self.top(), &name, flags, Mode::from_raw_mode(0o600))
                    .map_err(|e| unwritable(&path, e.into()))?;
                temporary = Some(name);
                File::from(fd)
            }
        };
        let mode = self.mode(attributes.mode);
        Ok(NewFile { folder: self.top(), file, temporary, name: last, path, mode, mtime: attributes.mtime, exists })
    }

    /// Makes a symbolic link, in place of a file or link that is there.
    pub(super) fn link(&mut self, name: &[u8], target: &[u8], attributes: Attributes) -> Result<(), TransferError> {
        if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
            return Err(TransferError::Malformed(format!("the target of link {:?}", lossy(name))));
        }
        let target = OsStr::from_bytes(target);
        let (last, path, exists) = self.place(name)?;
        let folder = self.top();
        let made = (|| {
            if !exists {
                match rustix::fs::symlinkat(target, folder, &last) {
                    Err(Errno::EXIST) => {}
                    done => return Ok(done?),
                }
            }
            let temporary = temporary_name()?;
            rustix::fs::symlinkat(target, folder, &temporary)?;
            rename_into_place(folder, &temporary, &last).map_err(std::io::Error::from)
        })();
        made.map_err(|e| unwritable(&path, e))?;
        // Some file systems keep no times for links, and nothing depends on them.
        let _ = rustix::fs::utimensat(folder, &last, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    /// Leaves all folders.
    pub(super) fn finish(&mut self) -> Result<(), TransferError> {
        self.leave(0)
    }

    /// Goes to where a file or link is to be: its name there, its path for messages, and whether something is there.
    fn place(&mut self, name: &[u8]) -> Result<(OsString, PathBuf, bool), TransferError> {
        let Some((parents, last)) = self.locate(name)? else {
            return Err(TransferError::Malformed("a file named \".\"".into()));
        };
        self.enter(&parents)?;
        let path = self.path(&last);
        match rustix::fs::statat(self.top(), &last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() => {
                Err(conflict(&path, "a folder of that name is there"))
            }
            Ok(_) => Ok((last, path, true)),
            Err(Errno::NOENT) => Ok((last, path, false)),
            Err(e) => Err(unwritable(&path, e.into())),
        }
    }

    /// An entry's place: the folders above it, below `target.folder`, and its own name. `None` is the base itself,
    /// where that is `target.folder`.
    fn locate(&self, name: &[u8]) -> Result<Option<(Vec<OsString>, OsString)>, TransferError> {
        let refused = || TransferError::Malformed(format!("the name {:?}", lossy(name)));
        let trimmed = name.strip_suffix(b"/").unwrap_or(name);
        if trimmed.len() > MAX_PATH {
            return Err(refused());
        }
        let mut parts = Vec::new();
        if trimmed != b"." || self.base != "." {
            for part in trimmed.split(|b| *b == b'/') {
                if matches!(part, b"" | b"." | b"..") || part.contains(&0) {
                    return Err(refused());
                }
                parts.push(OsStr::from_bytes(part).to_owned());
            }
        }
        if self.base != "." {
            if parts.first() != Some(&self.base) {
                return Err(refused());
            }
            parts.remove(0);
        }
        if let Some(own) = &self.target.name {
            parts.insert(0, own.clone());
        }
        if parts.len() > MAX_DEPTH {
            return Err(TransferError::TooDeep(self.target.path.join(lossy(name).as_ref())));
        }
        let last = parts.pop();
        Ok(last.map(|last| (parts, last)))
    }

    /// Goes to a folder whose entry came before.
    fn enter(&mut self, parents: &[OsString]) -> Result<(), TransferError> {
        let common = self.open.iter().zip(parents).take_while(|(open, name)| open.name == **name).count();
        self.leave(common)?;
        for name in &parents[common..] {
            let fd = self.open_folder(name)?;
            self.open.push(Folder { name: name.clone(), fd, attributes: None });
        }
        Ok(())
    }

    fn open_folder(&self, name: &OsStr) -> Result<OwnedFd, TransferError> {
        rustix::fs::openat(self.top(), name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(|e| match e {
            Errno::NOTDIR | Errno::LOOP => conflict(&self.path(name), "what is there is not a folder"),
            e => unwritable(&self.path(name), e.into()),
        })
    }

    /// Leaves the innermost folders until `depth` are open.
    fn leave(&mut self, depth: usize) -> Result<(), TransferError> {
        while self.open.len() > depth {
            let Some(folder) = self.open.pop() else { break };
            if let Some(attributes) = folder.attributes {
                rustix::fs::fchmod(&folder.fd, self.mode(attributes.mode))
                    .and_then(|()| rustix::fs::futimens(&folder.fd, &times(attributes.mtime)))
                    .map_err(|e| unwritable(&self.path(&folder.name), e.into()))?;
            }
        }
        Ok(())
    }

    fn top(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(&self.target.folder, |folder| &folder.fd).as_fd()
    }

    /// A path for messages.
    fn path(&self, last: &OsStr) -> PathBuf {
        let mut path = self.target.path.clone();
        if self.target.name.is_some() && self.open.is_empty() {
            return path;
        }
        let named = usize::from(self.target.name.is_some());
        path.extend(self.open.iter().skip(named).map(|folder| &folder.name));
        path.join(last)
    }

    fn mode(&self, mode: u32) -> Mode {
        let kept = match self.special_bits {
            SpecialBits::Keep => 0o7777,
            SpecialBits::Drop => 0o777,
        };
        // `RawMode` is 16 bits wide on some systems; twelve bits fit all.
        Mode::from_raw_mode((mode & kept) as rustix::fs::RawMode)
    }
}

/// A file that has no place yet.
pub(super) struct NewFile<'t> {
    folder: BorrowedFd<'t>,
    file: File,
    /// Its name until it has its own; `None` where it has none at all.
    temporary: Option<OsString>,
    name: OsString,
    path: PathBuf,
    mode: Mode,
    mtime: u64,
    exists: bool,
}

impl NewFile<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.file.write_all(bytes).map_err(|e| unwritable(&self.path, e))
    }

    /// Sets mode and time and takes the name, in place of a file or link that has it.
    pub(super) fn finish(mut self) -> Result<(), TransferError> {
        self.take_place().map_err(|e| unwritable(&self.path, e))
    }

    fn take_place(&mut self) -> std::io::Result<()> {
        rustix::fs::fchmod(&self.file, self.mode)?;
        rustix::fs::futimens(&self.file, &times(self.mtime))?;
        if self.temporary.is_none() {
            if !self.exists {
                match unnamed::link(&self.file, self.folder, &self.name) {
                    Err(Errno::EXIST) => {}
                    done => return Ok(done?),
                }
            }
            let name = temporary_name()?;
            unnamed::link(&self.file, self.folder, &name)?;
            self.temporary = Some(name);
        }
        if let Some(name) = self.temporary.take() {
            rename_into_place(self.folder, &name, &self.name)?;
        }
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            let _ = rustix::fs::unlinkat(self.folder, name, AtFlags::empty());
        }
    }
}

/// Renames over what is there; the temporary name does not outlive a failure.
fn rename_into_place(folder: BorrowedFd<'_>, temporary: &OsStr, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::renameat(folder, temporary, folder, name).inspect_err(|_| {
        let _ = rustix::fs::unlinkat(folder, temporary, AtFlags::empty());
    })
}

/// Files without a name, which vanish by themselves even where the process is killed.
#[cfg(target_os = "linux")]
mod unnamed {
    use super::{AtFlags, BorrowedFd, File, Mode, OFlags, OsStr};
    use rustix::fs::CWD;
    use std::os::fd::AsRawFd;

    /// Whether such a file could be given a name: that goes through `/proc`.
    pub(super) fn available() -> bool {
        rustix::fs::access("/proc/self/fd", rustix::fs::Access::EXEC_OK).is_ok()
    }

    pub(super) fn create(folder: BorrowedFd<'_>) -> rustix::io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(folder, ".", flags, Mode::from_raw_mode(0o600))?.into())
    }

    pub(super) fn link(file: &File, folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, path, folder, name, AtFlags::SYMLINK_FOLLOW)
    }
}

#[cfg(not(target_os = "linux"))]
mod unnamed {
    use super::{BorrowedFd, File, OsStr};
    use rustix::io::Errno;

    pub(super) fn available() -> bool {
        false
    }

    pub(super) fn create(_: BorrowedFd<'_>) -> rustix::io::Result<File> {
        Err(Errno::OPNOTSUPP)
    }

    pub(super) fn link(_: &File, _: BorrowedFd<'_>, _: &OsStr) -> rustix::io::Result<()> {
        Err(Errno::OPNOTSUPP)
    }
}

fn temporary_name() -> Result<OsString, std::io::Error> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok(format!(".mvm-cp-{:016x}", u64::from_ne_bytes(random)).into())
}

fn times(mtime: u64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        // A time that no file system could hold is cut off by the kernel at its limit.
        last_modification: Timespec { tv_sec: i64::try_from(mtime).unwrap_or(i64::MAX), tv_nsec: 0 },
    }
}

fn lossy(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

fn unwritable(path: &Path, source: std::io::Error) -> TransferError {
    TransferError::Dest { path: path.to_owned(), source }
}

fn conflict(path: &Path, reason: &'static str) -> TransferError {
    TransferError::Conflict { path: path.to_owned(), reason }
}
