//! Why an image cannot be opened or assembled.

use mvm_core::{Diagnostic, ErrorKind, ManifestError};
use std::io;
use std::path::PathBuf;

/// Why an image cannot be opened or assembled.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such folder.
    #[error("there is no image folder at {0:?}")]
    NoFolder(PathBuf),
    /// The folder holds no manifest.
    #[error("{0:?} has no image.json")]
    NoManifest(PathBuf),
    /// The manifest breaks its contract.
    #[error("{folder:?}: {source}")]
    Manifest {
        /// The image.
        folder: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// A file of the image cannot be used.
    #[error("image {folder:?}: {what} {path:?} {why}")]
    File {
        /// The image.
        folder: PathBuf,
        /// `kernel`, `initrd` or `rootfs`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A root file system that cannot be read to its end.
    #[error("the root file system {path:?} cannot be read: {why}")]
    Rootfs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        why: String,
    },
    /// An image for another CPU.
    #[error("image {folder:?} is for {system}; this machine runs {here}")]
    System {
        /// The image.
        folder: PathBuf,
        /// What it is for.
        system: String,
        /// What this machine is.
        here: String,
    },
    /// A file that a built-in image needs is nowhere.
    #[error("{what} was not found; looked at {}", .places.join(", "))]
    Missing {
        /// What it is.
        what: &'static str,
        /// Where it was looked for.
        places: Vec<String>,
        /// How to get it.
        hint: &'static str,
    },
    /// A file that a built-in image needs cannot be used.
    #[error("{path:?} cannot be used: {why}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// One of e2fsprogs' programs failed.
    #[error("{program} cannot make {path:?}: {detail}")]
    MakeFs {
        /// `mke2fs` or `debugfs`.
        program: &'static str,
        /// The file system.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
    /// A volume that cannot be given to a guest.
    #[error("the volume {path:?} cannot be used: {why}")]
    Volume {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// More configuration (environment, mostly) than a config drive holds.
    #[error("the VM's configuration has {bytes} bytes; a config drive holds {most}")]
    ConfigTooLarge {
        /// What it has.
        bytes: usize,
        /// What fits.
        most: usize,
    },
    /// A name or path of an image that leads nowhere.
    #[error("there is no image named {name:?}, and no folder of that name either")]
    NoImage {
        /// As given.
        name: String,
        /// The images that there are.
        known: Vec<String>,
        /// Those of the machine and of the catalog that may have been meant.
        near: Vec<String>,
    },
    /// A name that the catalog does not have.
    #[error("the catalog has no image named {name:?}")]
    NotInCatalog {
        /// As given.
        name: String,
        /// Those that may have been meant.
        near: Vec<String>,
    },
    /// An image that is not on this machine.
    #[error("the image {name:?} has not been fetched")]
    NotFetched {
        /// Its name in the catalog.
        name: String,
    },
    /// An image that was fetched, and was taken out of Nix's store all the same.
    #[error("the image {name:?} is gone from Nix's store: there is no {folder:?}")]
    Gone {
        /// Its name.
        name: String,
        /// Where it was.
        folder: PathBuf,
        /// The command that brings it back.
        again: String,
    },
    /// The name belongs to another image.
    #[error("there is an image named {name:?} already: {by}")]
    Taken {
        /// The name.
        name: String,
        /// Which image it is.
        by: String,
    },
    /// Nobody wants it any more.
    #[error("interrupted")]
    Stopped,
    /// The system refused.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    fn disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::MakeFs { detail, .. } => detail.contains("No space left"),
            _ => false,
        }
    }
}

impl Diagnostic for ImageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoFolder(_)
            | Self::NoImage { .. }
            | Self::NotInCatalog { .. }
            | Self::NotFetched { .. }
            | Self::Missing { .. } => ErrorKind::NotFound,
            Self::Taken { .. } => ErrorKind::Busy,
            Self::NoManifest(_)
            | Self::Manifest { .. }
            | Self::File { .. }
            | Self::Rootfs { .. }
            | Self::System { .. }
            | Self::Gone { .. } => ErrorKind::ImageInvalid,
            Self::ConfigTooLarge { .. } => ErrorKind::Usage,
            Self::Unusable { .. } | Self::MakeFs { .. } => ErrorKind::BuildFailed,
            Self::Io { source, .. } if is_denied(source) => ErrorKind::Denied,
            Self::Volume { .. } | Self::Stopped | Self::Io { .. } => ErrorKind::Unexpected,
        }
    }

    fn hint(&self) -> Option<String> {
        if self.disk_full() {
            return Some("the disk is full: free some space and try again".into());
        }
        match self {
            Self::NoFolder(_) => Some("give --image the folder that holds image.json".into()),
            Self::NoManifest(_) => {
                Some("an image is a folder with image.json: is this the flake's image output?".into())
            }
            Self::Manifest { source, .. } => source.hint(),
            Self::File { .. } | Self::Rootfs { .. } => {
                Some("the image is damaged or was built wrong: build it again".into())
            }
            Self::System { here, .. } => Some(format!("build the image for {here}")),
            Self::Missing { hint, .. } | Self::Unusable { hint, .. } => Some((*hint).into()),
            Self::Volume { .. } => {
                Some("it is user data, so nothing is done to it: e2fsck repairs it, tune2fs -L labels it".into())
            }
            Self::ConfigTooLarge { .. } => {
                Some("pass fewer or shorter variables (-e), or copy a file in with `cp`".into())
            }
            Self::NoImage { known, near, .. } => {
                let here = match known.as_slice() {
                    [] => String::new(),
                    known => format!("images here: {}; ", known.join(", ")),
                };
                let all = "`mvmctl image list` shows all; a folder that holds image.json is an image too";
                Some(format!("{}{here}{all}", meant(near)))
            }
            Self::NotInCatalog { near, .. } => Some(format!(
                "{}`mvmctl image list` shows all; REF#NAME names an image of another flake's catalog",
                meant(near)
            )),
            Self::NotFetched { name } => Some(format!("`mvmctl image fetch {name}` fetches it from the catalog")),
            Self::Gone { again, .. } => Some(format!("`{again}`")),
            Self::Taken { name, .. } => {
                Some(format!("choose another --name, or remove that one with `mvmctl image rm {name}`"))
            }
            Self::Io { source, .. } if is_denied(source) => {
                Some("check who owns it and its mode, and that its disk can be written to".into())
            }
            Self::Stopped | Self::MakeFs { .. } | Self::Io { .. } => None,
        }
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// What may have been meant by a name that leads nowhere.
fn meant(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("did you mean {}? ", near.join(" or ")),
    }
}
