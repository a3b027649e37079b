//! The images that are on this machine under a name, whoever put them there.

use crate::catalog::{catalog, catalog_entry, nearest};
use crate::error::ImageError;
use crate::fetched::{FetchedImage, FetchedImages, ImageOrigin};
use mvm_core::Dirs;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How the names of images begin that mvm has assembled.
pub(crate) const BUILT_IN: &str = "builtin-";

/// An image on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// Its name, or its path where that was what the user gave.
    pub name: String,
    /// Its folder; nobody has looked into it yet.
    pub folder: PathBuf,
    /// Who put it there.
    pub kind: LocalKind,
}

/// Who put an image where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalKind {
    /// `mvmctl image fetch`; with its origin where that can be read.
    Fetched(Option<ImageOrigin>),
    /// mvm has assembled it.
    BuiltIn,
    /// The user.
    Folder,
}

impl From<FetchedImage> for LocalImage {
    fn from(image: FetchedImage) -> Self {
        Self { name: image.name.into(), folder: image.folder, kind: LocalKind::Fetched(image.origin) }
    }
}

/// The images that have a name on this machine, sorted. Those that were fetched come before others of the same name.
pub fn local_images(dirs: &Dirs) -> Result<Vec<LocalImage>, ImageError> {
    let path = dirs.images();
    let entries = match fs::read_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        entries => Some(entries.map_err(ImageError::io("read", path))?),
    };
    let mut found: Vec<LocalImage> = FetchedImages::new(dirs).list()?.into_iter().map(LocalImage::from).collect();
    let folders = entries.into_iter().flatten().flatten();
    let folders = folders.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    // Drafts and locks begin with a dot; and names are shown.
    let is_name = |name: &str| !name.starts_with('.') && !name.contains(char::is_control);
    found.extend(folders.filter(|(name, path)| is_name(name) && path.join("image.json").is_file()).map(
        |(name, folder)| {
            let kind = if name.starts_with(BUILT_IN) { LocalKind::BuiltIn } else { LocalKind::Folder };
            LocalImage { name, folder, kind }
        },
    ));
    // Stable, so that those that were fetched stay before others.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The image given as a path (it has a slash, or is a folder with an image) or else as a name. A folder that has none, and
/// only happens to have the name of an image, does not hide that one.
pub fn resolve_image(dirs: &Dirs, given: &OsStr) -> Result<LocalImage, ImageError> {
    let path = Path::new(given);
    let name = given.to_string_lossy().into_owned();
    if !given.as_encoded_bytes().contains(&b'/') && !path.join("image.json").exists() {
        match local_image(dirs, &name) {
            // What it lacks is told when it is opened.
            Err(ImageError::NoImage { .. }) if path.is_dir() => {}
            done => return done,
        }
    }
    let folder = std::path::absolute(path).map_err(ImageError::io("find", path))?;
    Ok(LocalImage { name, folder, kind: LocalKind::Folder })
}

/// The image of a name.
pub fn local_image(dirs: &Dirs, name: &str) -> Result<LocalImage, ImageError> {
    let images = local_images(dirs)?;
    if let Some(found) = images.iter().find(|image| image.name == name) {
        return match &found.kind {
            LocalKind::Fetched(_) if !found.folder.exists() => {
                Err(ImageError::Gone { name: name.into(), folder: found.folder.clone(), again: found.fetch_again() })
            }
            _ => Ok(found.clone()),
        };
    }
    if catalog_entry(name).is_some() {
        return Err(ImageError::NotFetched { name: name.into() });
    }
    Err(no_image(name, &images))
}

/// That a name is neither one of these images' nor one of the catalog's, and what may have been meant.
pub fn no_image(name: &str, images: &[LocalImage]) -> ImageError {
    let known = || images.iter().map(|image| image.name.as_str());
    let near = nearest(name, known().chain(catalog().iter().map(|entry| entry.name.as_str())));
    ImageError::NoImage {
        name: name.into(),
        known: known().map(String::from).collect(),
        near: near.into_iter().map(String::from).collect(),
    }
}

impl LocalImage {
    /// The command that fetches it once more; of one that nobody knows the origin of, the one that removes it.
    pub fn fetch_again(&self) -> String {
        let name = &self.name;
        match &self.kind {
            LocalKind::Fetched(Some(ImageOrigin::Catalog { entry, .. })) if entry == name => {
                format!("mvmctl image fetch {name}")
            }
            LocalKind::Fetched(Some(ImageOrigin::Catalog { entry, .. })) => {
                format!("mvmctl image fetch {entry} --name {name}")
            }
            LocalKind::Fetched(Some(ImageOrigin::Flake { flake })) => {
                format!("mvmctl image fetch '{flake}' --name {name}")
            }
            LocalKind::Fetched(None) | LocalKind::BuiltIn | LocalKind::Folder => format!("mvmctl image rm {name}"),
        }
    }
}
