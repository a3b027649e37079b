//! Folders that appear under their name whole, and are gone from it at once: each by one rename. What a killed command
//! leaves half made or half removed, the next one sweeps.

use crate::files;
use rustix::fs::{FlockOperation, RenameFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How the names of folders begin that are not yet what they are to be, and that no longer are.
const DRAFT: &str = ".new-";
const GRAVE: &str = ".gone-";

/// What could not be done with which path, and why.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl Failed {
    pub(crate) fn to(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { action, path, source }
    }
}

/// Makes a folder in one that is ours: `fill` is given its draft. Where the name is taken, the source of the error says
/// that it exists already.
pub(crate) fn appear(folder: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Failed> {
    let parent = parent(folder);
    files::private_dir(parent).map_err(Failed::to("make", parent))?;
    let _busy = share(parent).map_err(Failed::to("lock", parent))?;
    let draft = draft_in(parent)?;
    fill(draft.path()).map_err(Failed::to("write to", draft.path()))?;
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, draft.path(), cwd, folder, RenameFlags::NOREPLACE)
        .map_err(|e| Failed::to("make", folder)(e.into()))?;
    let _gone = draft.keep();
    Ok(())
}

/// A folder, 0700, that goes when it is dropped, and is swept where it could not be. The caller shares its parent's lock.
pub(crate) fn draft_in(parent: &Path) -> Result<tempfile::TempDir, Failed> {
    tempfile::Builder::new().prefix(DRAFT).tempdir_in(parent).map_err(Failed::to("write to", parent))
}

/// Removes a folder: its name is free the moment it has moved away, and what is left of it is nobody's.
pub(crate) fn vanish(folder: &Path) -> Result<(), Failed> {
    let parent = parent(folder);
    let _busy = share(parent).map_err(Failed::to("lock", parent))?;
    let name = folder.file_name().unwrap_or_default().display();
    let grave = parent.join(format!("{GRAVE}{name}-{}", std::process::id()));
    std::fs::rename(folder, &grave).map_err(Failed::to("remove", folder))?;
    files::remove_dir(&grave).map_err(Failed::to("remove", &grave))
}

fn parent(folder: &Path) -> &Path {
    folder.parent().unwrap_or(Path::new("/"))
}

/// Whether the name is one of a draft or of what was being removed.
pub(crate) fn is_left(name: &OsStr) -> bool {
    [DRAFT, GRAVE].iter().any(|prefix| begins(name, prefix))
}

/// Whether a name begins so.
pub(crate) fn begins(name: &OsStr, prefix: &str) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
}

/// Removes what commands that were killed left. Whoever makes or removes something in the folder shares its lock, so what
/// is there when nobody does is nobody's. Best effort: the next command tries too.
pub(crate) fn sweep(path: &Path, is_left: impl Fn(&OsStr) -> bool) {
    let Ok(folder) = File::open(path) else { return };
    if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten().filter(|e| is_left(&e.file_name())) {
        let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
        let done = if is_folder { files::remove_dir(&entry.path()) } else { files::remove_file(&entry.path()) };
        if let Err(error) = done {
            tracing::warn!(%error, "what a killed command left cannot be removed");
        }
    }
}

/// Shares the lock of a folder, against [`sweep`].
pub(crate) fn share(path: &Path) -> io::Result<File> {
    let folder = File::open(path)?;
    rustix::fs::flock(&folder, FlockOperation::LockShared)?;
    Ok(folder)
}

/// Whether the path still leads to this open folder.
pub(crate) fn is_at(folder: &File, path: &Path) -> bool {
    let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (folder.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => place(open) == place(there),
        _ => false,
    }
}
