//! The config drive of one start: a small ext4 that holds `config.json`.
//!
//! It is written afresh at each start, so it must cost next to nothing, and it carries the guest's secret key, so it
//! should lie nowhere else on its way. Therefore mke2fs makes a template once, whose `config.json` has a fixed size
//! and marks each of its blocks; a start copies the template with the marked blocks replaced. No process is started,
//! no file system structure is touched, and what is left of the fixed size are line feeds, which JSON permits.

use crate::draft::{Draft, once};
use crate::error::ImageError;
use crate::ext4::MakeExt4;
use crate::stop::Stop;
use mvm_core::{Dirs, GuestConfig, labels};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes of the drive.
const SIZE: u64 = 1 << 20;
/// Most bytes of `config.json`.
const CAPACITY: usize = 256 << 10;
const BLOCK: usize = 4096;
/// Counts changes to the template.
const LAYOUT: u32 = 1;

/// Writes the config drive of one start, readable by its owner only, whole or not at all.
pub fn write_config_drive(dirs: &Dirs, dest: &Path, config: &GuestConfig, stop: &Stop) -> Result<(), ImageError> {
    let mut text = serde_json::to_vec(config).map_err(|e| ImageError::io("write", dest)(e.into()))?;
    if text.len() > CAPACITY {
        return Err(ImageError::ConfigTooLarge { bytes: text.len(), most: CAPACITY });
    }
    text.resize(CAPACITY, b'\n');
    let layers = dirs.layers();
    let path = layers.join(format!("config-v{LAYOUT}.ext4"));
    let find = || {
        let drive = fs::read(&path).ok()?;
        let places = places(&drive)?;
        Some((drive, places))
    };
    let (mut drive, places) = once(&layers, stop, find, || {
        make_template(&layers, &path, stop)?;
        find().ok_or_else(|| ImageError::MakeFs {
            program: "mke2fs",
            path: path.clone(),
            detail: "config.json is not all there".into(),
        })
    })?;
    for (part, at) in text.chunks(BLOCK).zip(places) {
        drive[at..at + BLOCK].copy_from_slice(part);
    }
    let mut draft = Draft::create(dest)?;
    draft.file.write_all(&drive).map_err(ImageError::io("write", dest))?;
    draft.finish()
}

fn make_template(layers: &Path, path: &Path, stop: &Stop) -> Result<(), ImageError> {
    let staging = tempfile::Builder::new()
        .prefix(crate::draft::PREFIX)
        .tempdir_in(layers)
        .map_err(ImageError::io("write to", layers))?;
    let mut text = Vec::with_capacity(CAPACITY);
    for block in 0..CAPACITY / BLOCK {
        text.extend_from_slice(&mark(block));
        text.resize((block + 1) * BLOCK, b'\n');
    }
    let file = staging.path().join("config.json");
    fs::write(&file, text)
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))
        .map_err(ImageError::io("write", &file))?;
    let make = MakeExt4 {
        label: labels::CONFIG,
        size: SIZE,
        from: Some(staging.path()),
        owners: &[],
        inodes: Some(16),
        journal: None,
    };
    make.write(path, stop)
}

/// What a block of the template's `config.json` begins with.
fn mark(block: usize) -> Vec<u8> {
    format!("mvm config.json, block {block:04}\n").into_bytes()
}

/// Where in a template each block of `config.json` lies (mke2fs may put them in several runs); `None` where one is
/// missing.
fn places(drive: &[u8]) -> Option<Vec<usize>> {
    if drive.len() as u64 != SIZE {
        return None;
    }
    let find = |n| drive.chunks(BLOCK).position(|b| b.starts_with(&mark(n))).map(|block| block * BLOCK);
    (0..CAPACITY / BLOCK).map(find).collect()
}
