//! What `list`, `search` and `info` know of an image: what the catalog says, and what lies on this machine.

use crate::Context;
use mvm_core::{Fault, ImageManifest};
use mvm_image::{CatalogEntry, Image, ImageOrigin, LocalImage, LocalKind, catalog, catalog_entry, local_images};
use serde::Serialize;
use std::path::PathBuf;

/// An image of the catalog, of this machine, or of both.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Known {
    pub name: String,
    /// The entry that it is, or was fetched from.
    pub catalog: Option<&'static CatalogEntry>,
    pub local: Option<Local>,
}

/// What lies on this machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Local {
    pub kind: Kind,
    pub path: PathBuf,
    /// Where it was fetched from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<ImageOrigin>,
    /// Kernel, initrd and root file system together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    #[serde(skip)]
    pub image: Option<Image>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Fetched,
    BuiltIn,
    Folder,
}

/// All images that have a name, sorted by it.
pub(super) fn all(ctx: &Context) -> Result<Vec<Known>, Fault> {
    let mut all: Vec<Known> = local_images(ctx.dirs())?.into_iter().map(Known::from).collect();
    // An image that was fetched under its own name is that entry; under another name it is one more.
    let is_here = |entry: &CatalogEntry, all: &[Known]| {
        all.iter().any(|known| known.name == entry.name && known.catalog == Some(entry))
    };
    let missing: Vec<_> = catalog().iter().filter(|entry| !is_here(entry, &all)).collect();
    all.extend(missing.into_iter().map(|entry| Known { name: entry.name.clone(), catalog: Some(entry), local: None }));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

impl From<LocalImage> for Known {
    fn from(image: LocalImage) -> Self {
        let (kind, origin) = match image.kind {
            LocalKind::Fetched(origin) => (Kind::Fetched, origin),
            LocalKind::BuiltIn => (Kind::BuiltIn, None),
            LocalKind::Folder => (Kind::Folder, None),
        };
        let catalog = match &origin {
            Some(ImageOrigin::Catalog { entry, .. }) => catalog_entry(entry),
            _ => None,
        };
        let (opened, fault) = match Image::open(&image.folder) {
            Ok(image) => (Some(image), None),
            Err(error) => (None, Some(Fault::from(error).message)),
        };
        let size_bytes = opened.as_ref().map(Image::size);
        let local = Local { kind, path: image.folder, origin, size_bytes, fault, image: opened };
        Self { name: image.name, catalog, local: Some(local) }
    }
}

impl Known {
    /// Whether all words are found.
    pub fn matches(&self, words: &[String]) -> bool {
        let named = words.iter().all(|word| self.name.to_lowercase().contains(&word.to_lowercase()));
        named || self.catalog.is_some_and(|entry| entry.matches(words))
    }

    /// Its manifest, where it is here and whole.
    pub fn manifest(&self) -> Option<&ImageManifest> {
        Some(self.local.as_ref()?.image.as_ref()?.manifest())
    }

    /// The ports of its services.
    pub fn ports(&self) -> Vec<u16> {
        match (self.catalog, self.manifest()) {
            (Some(entry), _) => entry.ports.clone(),
            (None, Some(manifest)) => manifest.defaults.ports.iter().map(|port| port.guest).collect(),
            (None, None) => Vec::new(),
        }
    }

    /// Where it is, in a word.
    pub fn status(&self) -> &'static str {
        match &self.local {
            None => "-",
            Some(Local { fault: Some(_), .. }) => "damaged",
            Some(Local { kind: Kind::Fetched, .. }) => "fetched",
            Some(Local { kind: Kind::BuiltIn, .. }) => "built-in",
            Some(Local { kind: Kind::Folder, .. }) => "folder",
        }
    }

    pub fn size(&self) -> Option<String> {
        let bytes = self.local.as_ref()?.size_bytes?;
        Some(indicatif::HumanBytes(bytes).to_string())
    }

    /// What it is, in a line.
    fn description(&self) -> String {
        let local = self.local.as_ref();
        match (self.catalog, local.and_then(|local| local.origin.as_ref()), local) {
            (Some(entry), ..) => entry.description.clone(),
            (None, Some(origin), _) => origin.to_string(),
            (None, None, local) => local.map_or(String::new(), |local| local.path.display().to_string()),
        }
    }
}

/// The table of `list` and `search`, or JSON.
pub(super) fn show(ctx: &Context, images: &[Known], json: bool) -> Result<u8, Fault> {
    if json {
        ctx.ui.json(&images)?;
        return Ok(0);
    }
    let rows: Vec<[String; 6]> = images
        .iter()
        .map(|image| {
            [
                image.name.clone(),
                image.catalog.map_or("-".into(), |entry| entry.category.clone()),
                image.status().into(),
                image.size().unwrap_or_else(|| "-".into()),
                numbers(&image.ports()).unwrap_or_else(|| "-".into()),
                image.description(),
            ]
        })
        .collect();
    ctx.ui.table(["NAME", "CATEGORY", "STATUS", "SIZE", "PORTS", "DESCRIPTION"], &rows);
    Ok(0)
}

/// Ports as a list; `None` where there are none.
pub(super) fn numbers(ports: &[u16]) -> Option<String> {
    let text = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Some(text).filter(|text| !text.is_empty())
}
