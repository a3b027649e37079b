//! Files and folders that appear whole or not at all, and are made once however many ask for them at once.

use crate::error::ImageError;
use crate::stop::Stop;
use rustix::fs::FlockOperation;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How the names of unfinished files and folders in shared folders begin.
pub(crate) const PREFIX: &str = ".draft-";

/// A file that replaces `dest` when it is finished, and is gone where it never is. Readable by its owner only.
///
/// For folders with one writer: the draft's name is fixed, so that what a killed process left is overwritten by the
/// next one and does not pile up.
pub(crate) struct Draft<'a> {
    pub file: File,
    path: PathBuf,
    dest: &'a Path,
    finished: bool,
}

/// Where a draft of this file lies; there is one only while it is written, or after a writer was killed.
pub fn draft_of(dest: &Path) -> PathBuf {
    let mut name = dest.file_name().map(OsString::from).unwrap_or_default();
    name.push(".new");
    dest.with_file_name(name)
}

impl<'a> Draft<'a> {
    pub(crate) fn create(dest: &'a Path) -> Result<Self, ImageError> {
        let path = draft_of(dest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(ImageError::io("replace", path)(e)),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        Ok(Self { file: file.map_err(ImageError::io("write", dest))?, path, dest, finished: false })
    }

    pub(crate) fn finish(mut self) -> Result<(), ImageError> {
        fs::rename(&self.path, self.dest).map_err(ImageError::io("write", self.dest))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _best_effort = fs::remove_file(&self.path);
        }
    }
}

/// Gives what `find` finds; where that is nothing, `make`s it, once: who comes at the same time waits (for as long as
/// the maker lives: the lock dies with it) and then finds it too. Drafts that killed makers left in `folder` are removed.
pub(crate) fn once<T>(
    folder: &Path,
    stop: &Stop,
    find: impl Fn() -> Option<T>,
    make: impl FnOnce() -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    if let Some(found) = find() {
        return Ok(found);
    }
    fs::create_dir_all(folder).map_err(ImageError::io("make", folder))?;
    let path = folder.join(".lock");
    let lock = File::options().write(true).create(true).truncate(false).open(&path);
    let lock = lock.map_err(ImageError::io("open", &path))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        tracing::info!(folder = %folder.display(), "waiting for another mvmctl that is making the same");
        wait_for(&lock, stop)?.map_err(ImageError::io("lock", &path))?;
    }
    if let Some(found) = find() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder).map_err(ImageError::io("read", folder))?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            // Best effort: what cannot be removed is in nobody's way.
            let _ = if entry.file_type().is_ok_and(|t| t.is_dir()) {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
        }
    }
    make()
}

/// Waits for the lock. flock(2) cannot be told to give up, so a thread of its own waits, and is left behind where
/// nobody wants the lock any more: it holds nothing but the lock, if ever it gets it, and that for an instant.
fn wait_for(lock: &File, stop: &Stop) -> Result<io::Result<()>, ImageError> {
    let begin = || Ok((lock.try_clone()?, io::pipe()?));
    let (lock, (locked, tell)) = match begin() {
        Ok(begun) => begun,
        Err(error) => return Ok(Err(error)),
    };
    let waiting = std::thread::spawn(move || {
        let _tells_by_its_end = tell;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive)).map_err(io::Error::from)
    });
    stop.readable(&locked)?;
    Ok(waiting.join().unwrap_or_else(|_| Err(io::Error::other("the thread that waited died"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn unfinished_files_are_gone_and_finished_ones_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("secret");
        fs::write(dir.path().join("secret.new"), "of a killed process").unwrap();
        Draft::create(&dest).unwrap().file.write_all(b"half").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut draft = Draft::create(&dest).unwrap();
        draft.file.write_all(b"whole").unwrap();
        draft.finish().unwrap();
        assert_eq!(fs::read(&dest).unwrap(), b"whole");
        assert_eq!(fs::metadata(&dest).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn twenty_at_once_make_one() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("made");
        fs::create_dir(dir.path().join(".draft-of-a-killed-one")).unwrap();
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let find = || made.exists().then_some(());
                    let make = || {
                        count.fetch_add(1, Ordering::SeqCst);
                        fs::write(&made, "").map_err(ImageError::io("write", &made))
                    };
                    once(dir.path(), &Stop::never(), find, make).unwrap();
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
        assert!(!dir.path().join(".draft-of-a-killed-one").exists());
    }
}
