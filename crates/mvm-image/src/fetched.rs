//! Images that Nix has built and that were given a name. The link in an image's folder is its registration and its GC root
//! at once, and Nix makes it last: what a killed `fetch` leaves has no link, so it is no image, and the next one sweeps it.

use crate::draft::Draft;
use crate::error::ImageError;
use mvm_core::{Dirs, FetchedDirs, ImageName};
use rustix::fs::{Access, FlockOperation};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Most bytes that an origin.json may have: a flake ref has at most 4096.
const LIMIT: u64 = 64 << 10;

/// Where an image came from: what fetches it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ImageOrigin {
    /// The catalog of mvm. Another mvm brings a newer image of the same entry.
    Catalog {
        /// The entry.
        entry: String,
        /// The flake ref that was built.
        flake: String,
    },
    /// Another flake.
    Flake {
        /// The flake ref that was built.
        flake: String,
    },
}

impl ImageOrigin {
    /// The flake ref that was built.
    pub fn flake(&self) -> &str {
        match self {
            Self::Catalog { flake, .. } | Self::Flake { flake } => flake,
        }
    }

    /// Whether a fetch from here brings the image of there up to date.
    fn renews(&self, old: &Self) -> bool {
        match (self, old) {
            (Self::Catalog { entry, .. }, Self::Catalog { entry: old, .. }) => entry == old,
            _ => self == old,
        }
    }
}

impl fmt::Display for ImageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog { entry, .. } => write!(f, "{entry} of the catalog"),
            Self::Flake { flake } => f.pad(flake),
        }
    }
}

/// An image that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedImage {
    /// Its name.
    pub name: ImageName,
    /// The folder in Nix's store.
    pub folder: PathBuf,
    /// Where it came from; `None` where that cannot be read.
    pub origin: Option<ImageOrigin>,
}

/// All images of one user that were fetched.
#[derive(Debug, Clone)]
pub struct FetchedImages {
    dirs: Dirs,
}

/// The right to change which images there are, for as long as it is kept.
#[derive(Debug)]
pub struct FetchedLock {
    images: FetchedImages,
    _folder: File,
}

impl FetchedImages {
    /// Those in these folders.
    pub fn new(dirs: &Dirs) -> Self {
        Self { dirs: dirs.clone() }
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<FetchedImage>, ImageError> {
        let path = self.dirs.fetched_images();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(ImageError::io("read", path)(e)),
        };
        let mut found: Vec<FetchedImage> = entries
            .filter_map(|entry| ImageName::new(entry.ok()?.file_name().into_string().ok()?).ok())
            .filter_map(|name| self.get(&name))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The one of this name.
    pub fn get(&self, name: &ImageName) -> Option<FetchedImage> {
        let files = self.dirs.fetched_image(name);
        let folder = fs::read_link(files.gc_root()).ok()?;
        Some(FetchedImage { name: name.clone(), folder, origin: read_origin(&files) })
    }

    /// Whether an image from here may have this name, and can be kept: to be asked before a build that may take long.
    pub fn may_add(&self, name: &ImageName, origin: &ImageOrigin) -> Result<(), ImageError> {
        let taken = |by| Err(ImageError::Taken { name: name.to_string(), by });
        let own = self.dirs.images().join(name.as_str());
        if own.exists() {
            return taken(format!("the folder {}", own.display()));
        }
        match self.get(name).map(|image| image.origin) {
            Some(Some(old)) if !origin.renews(&old) => return taken(old.to_string()),
            Some(None) => return taken("an image of unknown origin".into()),
            _ => {}
        }
        let folder = self.dirs.fetched_images();
        fs::create_dir_all(&folder).map_err(ImageError::io("make", &folder))?;
        rustix::fs::access(&folder, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|e| ImageError::io("write to", folder)(e.into()))
    }

    /// No image is removed for as long as the file is kept: until whoever uses one has a GC root of his own.
    pub fn hold(&self) -> Result<File, ImageError> {
        self.locked(FlockOperation::LockShared)
    }

    fn locked(&self, how: FlockOperation) -> Result<File, ImageError> {
        let path = self.dirs.fetched_images();
        fs::create_dir_all(&path).map_err(ImageError::io("make", &path))?;
        let folder = File::open(&path).map_err(ImageError::io("open", &path))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&folder, how))
            .map_err(|e| ImageError::io("lock", path)(e.into()))?;
        Ok(folder)
    }

    /// Waits until nobody else uses or changes anything, and sweeps what killed commands left.
    pub fn lock(&self) -> Result<FetchedLock, ImageError> {
        let folder = self.locked(FlockOperation::LockExclusive)?;
        let lock = FetchedLock { images: self.clone(), _folder: folder };
        lock.sweep()?;
        Ok(lock)
    }
}

impl FetchedLock {
    /// Removes what was claimed and has not become an image.
    pub fn sweep(&self) -> Result<(), ImageError> {
        let path = self.images.dirs.fetched_images();
        let entries = fs::read_dir(&path).map_err(ImageError::io("read", &path))?;
        for name in entries.filter_map(|entry| ImageName::new(entry.ok()?.file_name().into_string().ok()?).ok()) {
            let files = self.images.dirs.fetched_image(&name);
            if fs::symlink_metadata(files.gc_root()).is_err() {
                fs::remove_dir_all(files.folder()).map_err(ImageError::io("remove", files.folder()))?;
            }
        }
        Ok(())
    }

    /// Prepares the place of an image, which is one from the moment in which Nix makes the link that this returns.
    pub fn claim(&self, name: &ImageName, origin: &ImageOrigin) -> Result<PathBuf, ImageError> {
        self.images.may_add(name, origin)?;
        let files = self.images.dirs.fetched_image(name);
        let path = files.origin();
        fs::create_dir_all(files.folder()).map_err(ImageError::io("make", files.folder()))?;
        let mut draft = Draft::create(&path)?;
        serde_json::to_vec_pretty(origin)
            .map_err(io::Error::from)
            .and_then(|bytes| draft.file.write_all(&bytes))
            .and_then(|()| draft.file.sync_all())
            .map_err(ImageError::io("write", &path))?;
        draft.finish()?;
        Ok(files.gc_root())
    }

    /// Removes an image: Nix may take what nothing else keeps.
    pub fn remove(&self, name: &ImageName) -> Result<(), ImageError> {
        let files = self.images.dirs.fetched_image(name);
        // First the link: the rest is swept where this process is killed now.
        fs::remove_file(files.gc_root()).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ImageError::NotFetched { name: name.to_string() },
            _ => ImageError::io("remove", files.gc_root())(e),
        })?;
        fs::remove_dir_all(files.folder()).map_err(ImageError::io("remove", files.folder()))
    }
}

fn read_origin(files: &FetchedDirs) -> Option<ImageOrigin> {
    let mut bytes = Vec::new();
    File::open(files.origin()).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}
