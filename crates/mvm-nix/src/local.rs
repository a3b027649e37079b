//! Local flake refs checked against the disk before `nix` is started.

use crate::flake_ref::{FlakeRef, FlakeRefError, Place, speakable};
use nix_derivation::StorePath;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

impl FlakeRef {
    /// Resolves the symlinks of a local ref (not every Nix takes a linked folder for a flake) and makes sure
    /// that a `flake.nix` is where Nix will look for it. Refs that are not local stay as they are.
    ///
    /// A folder path that leads into the store, like a `result` link, becomes a store path if no attribute
    /// is asked of it: as Nix does.
    pub fn locate(self) -> Result<Self, FlakeRefError> {
        match &self.place {
            Place::Folder(path) => {
                let mut real = canonical(path)?;
                if self.attribute().is_none()
                    && let Ok(store) = StorePath::from_absolute_path(real.as_os_str().as_encoded_bytes())
                {
                    return Ok(Self { place: Place::Store(store), query: None, ..self });
                }
                if real.file_name().is_some_and(|n| n == "flake.nix") && real.is_file() {
                    real.pop();
                }
                is_folder(&real)?;
                let below = self.parameter("dir").map_or_else(|| real.clone(), |dir| real.join(dir));
                look_upwards(&below)?;
                Ok(Self { place: Place::Folder(speakable(real)?), ..self })
            }
            Place::Url { folder: Some(folder), url } => {
                let real = canonical(folder)?;
                is_folder(&real)?;
                // Another revision may well have the flake.nix that the work tree lacks.
                if url.starts_with("path:") || (self.parameter("ref").or(self.parameter("rev"))).is_none() {
                    let below = self.parameter("dir").map_or_else(|| real.clone(), |dir| real.join(dir));
                    if !has_flake(&below)? {
                        return Err(FlakeRefError::NoFlake { folder: below });
                    }
                }
                Ok(self)
            }
            Place::Store(path) => {
                let absolute = PathBuf::from(path.to_absolute_path());
                // A derivation's output that is not there yet may still come from a binary cache.
                tracing::debug!(path = %absolute.display(), exists = absolute.exists(), "store path");
                Ok(self)
            }
            Place::Url { .. } | Place::Registry(_) => Ok(self),
        }
    }
}

fn canonical(path: &Path) -> Result<PathBuf, FlakeRefError> {
    path.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => FlakeRefError::NoFolder(path.to_owned()),
        ErrorKind::NotADirectory => FlakeRefError::NotAFolder(path.to_owned()),
        _ => FlakeRefError::Unreadable { folder: path.to_owned(), reason: error.to_string() },
    })
}

fn is_folder(path: &Path) -> Result<(), FlakeRefError> {
    if path.is_dir() { Ok(()) } else { Err(FlakeRefError::NotAFolder(path.to_owned())) }
}

fn has_flake(folder: &Path) -> Result<bool, FlakeRefError> {
    folder
        .join("flake.nix")
        .try_exists()
        .map_err(|error| FlakeRefError::Unreadable { folder: folder.to_owned(), reason: error.to_string() })
}

/// Nix looks for `flake.nix` in the folder and above it, up to the root of the Git work tree.
fn look_upwards(folder: &Path) -> Result<(), FlakeRefError> {
    for above in folder.ancestors() {
        if has_flake(above)? {
            return Ok(());
        }
        if above.join(".git").exists() {
            break;
        }
    }
    Err(FlakeRefError::NoFlake { folder: folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_core::{Diagnostic, ErrorKind};
    use std::fs;

    fn locate(text: &str, cwd: &Path) -> Result<FlakeRef, FlakeRefError> {
        FlakeRef::parse(text, cwd, None)?.locate()
    }

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for folder in ["flake/sub/deep", "repo/.git", "repo/sub", "bare/.git", "empty"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["flake/flake.nix", "repo/flake.nix", "flake/sub/file"] {
            fs::write(root.join(file), "{ }").unwrap();
        }
        std::os::unix::fs::symlink("flake", root.join("link")).unwrap();
        (temp, root)
    }

    #[test]
    fn what_is_there_is_found() {
        let (_temp, root) = tree();
        for (text, place) in [
            ("flake", "flake"),
            ("link", "flake"),
            ("flake/flake.nix", "flake"),
            ("repo/sub", "repo/sub"),
            ("flake/sub/..", "flake"),
        ] {
            let found = locate(&format!("./{text}#a"), &root).unwrap();
            assert_eq!(found.place(), &Place::Folder(root.join(place)), "{text}");
        }
        locate("path:./flake", &root).unwrap();
        locate("git+file:./bare?ref=main", &root).unwrap();
        locate("github:o/r", &root).unwrap();
        locate("nixpkgs", &root).unwrap();
    }

    #[test]
    fn what_is_not_there_is_said_before_nix_runs() {
        let (_temp, root) = tree();
        for text in [
            "./absent",
            "./flake/sub/file",
            "./flake/sub/file/x",
            "./empty",
            "./bare",
            "path:./empty",
            "path:./flake?dir=sub",
            "path:./absent",
            "git+file:./bare",
            "./flake/flake.nix/x",
        ] {
            let error = locate(text, &root).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::NotFound, "{text}");
            assert!(error.hint().is_some(), "{text}");
        }
    }

    #[test]
    fn a_link_into_the_store_is_a_store_path() {
        let Some(entry) = fs::read_dir("/nix/store").ok().and_then(|mut d| {
            d.find_map(|e| {
                let path = e.ok()?.path();
                StorePath::from_absolute_path(path.to_str()?.as_bytes()).ok().map(|_| path)
            })
        }) else {
            println!("not run: /nix/store is empty");
            return;
        };
        let (_temp, root) = tree();
        std::os::unix::fs::symlink(&entry, root.join("result")).unwrap();
        assert!(matches!(locate("./result", &root).unwrap().place(), Place::Store(_)));
    }
}
