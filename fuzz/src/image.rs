//! `image.json` of an image that somebody else built.

use mvm_core::ImageManifest;
use std::path::{Component, Path};

/// A manifest that is accepted names files inside its folder only, and reads back as itself.
pub fn image_manifest(data: &[u8]) {
    let Ok(manifest) = ImageManifest::parse(data) else { return };
    let inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    assert!(inside(&manifest.kernel.path) && inside(&manifest.rootfs.path));
    assert!(manifest.initrd.as_ref().is_none_or(|initrd| inside(&initrd.path)));
    let written = serde_json::to_vec(&manifest).expect("plain data");
    assert_eq!(ImageManifest::parse(&written).expect("what was just written"), manifest);
}
