//! A folder of the user's own: it appears with all its files, or not at all.

use crate::folders::{self, Failed};
use mvm_core::{Diagnostic, ErrorKind};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How the name of a folder in the making begins.
const DRAFT: &str = ".mvm-init-";

/// Why a folder was not written.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// There is something already.
    #[error("{} exists already and is not an empty folder", .0.display())]
    Taken(PathBuf),
    /// A folder in which somebody stands cannot be another one from now on.
    #[error("{} is the current folder, or one above it", .0.display())]
    Here(PathBuf),
    /// The folder for the folder is not there, or cannot be written to.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<Failed> for ProjectError {
    fn from(Failed { action, path, source }: Failed) -> Self {
        Self::Io { action, path, source }
    }
}

impl Diagnostic for ProjectError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Taken(_) => ErrorKind::Busy,
            Self::Here(_) => ErrorKind::Usage,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
                _ => ErrorKind::Unexpected,
            },
        }
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Taken(_) => "choose another name, or empty the folder first".into(),
            Self::Here(_) => "give a new folder in it, or go out of it and give its name".into(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "make the folder that it is to be in first".into(),
                io::ErrorKind::StorageFull => "the disk is full: free some space and try again".into(),
                _ => "choose a folder that you may write to".into(),
            },
        })
    }
}

/// Writes a folder: one that is not there yet, or is empty. `folder` is absolute, the files' paths are relative to it.
pub fn write_project(folder: &Path, files: &[(&str, String)]) -> Result<(), ProjectError> {
    let here = std::env::current_dir().and_then(|cwd| cwd.canonicalize());
    if let (Ok(there), Ok(here)) = (folder.canonicalize(), here)
        && here.starts_with(&there)
    {
        return Err(ProjectError::Here(folder.into()));
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    folders::sweep(parent, |name| folders::begins(name, DRAFT));
    let _busy = folders::share(parent).map_err(Failed::to("open", parent))?;
    let draft = tempfile::Builder::new()
        .prefix(DRAFT)
        // As any folder of the user's: less what the umask takes away.
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(parent)
        .map_err(Failed::to("write to", parent))?;
    for (path, content) in files {
        let path = draft.path().join(path);
        let write = || {
            std::fs::create_dir_all(path.parent().unwrap_or(draft.path()))?;
            std::fs::write(&path, content)
        };
        write().map_err(Failed::to("write", &path))?;
    }
    // Over a folder only where that is empty.
    match std::fs::rename(draft.path(), folder) {
        Ok(()) => {
            let _gone = draft.keep();
            Ok(())
        }
        Err(e) if folder.symlink_metadata().is_ok() && is_taken(&e) => Err(ProjectError::Taken(folder.into())),
        Err(e) => Err(Failed::to("make", folder)(e).into()),
    }
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn files() -> [(&'static str, String); 2] {
        [("a", "1".into()), ("sub/b", "2".into())]
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_or_empty_folder_is_written_whole() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("new");
        write_project(&folder, &files()).unwrap();
        assert_eq!(names(&folder), ["a", "sub"]);
        assert_eq!(std::fs::read_to_string(folder.join("sub/b")).unwrap(), "2");
        let empty = temp.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        write_project(&empty, &files()).unwrap();
        assert_eq!(names(&empty), ["a", "sub"]);
        let ours = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        std::fs::create_dir(temp.path().join("any")).unwrap();
        assert_eq!(ours(&folder), ours(&temp.path().join("any")), "it is a folder as any");
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let full = temp.path().join("full");
        std::fs::create_dir(&full).unwrap();
        std::fs::write(full.join("mine"), "").unwrap();
        std::fs::write(temp.path().join("file"), "mine").unwrap();
        std::os::unix::fs::symlink("nowhere", temp.path().join("link")).unwrap();
        // A folder that a killed command left, and one of the user's own.
        std::fs::create_dir(temp.path().join(".mvm-init-left")).unwrap();
        std::fs::create_dir(temp.path().join(".new-mine")).unwrap();
        for name in ["full", "file", "link"] {
            let error = write_project(&temp.path().join(name), &files()).unwrap_err();
            assert!(matches!(error, ProjectError::Taken(_)), "{name}: {error}");
        }
        assert_eq!(names(temp.path()), [".new-mine", "file", "full", "link"]);
        assert_eq!(names(&full), ["mine"]);
        let error = write_project(&temp.path().join("no/such"), &files()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let here = std::env::current_dir().unwrap();
        assert!(matches!(write_project(&here, &files()), Err(ProjectError::Here(_))));
        assert!(matches!(write_project(here.parent().unwrap(), &files()), Err(ProjectError::Here(_))));
    }
}
