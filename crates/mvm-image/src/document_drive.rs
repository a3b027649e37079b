//! The drives that carry one document to the guest at a start: the configuration, and the secrets. Small ext4s.
//!
//! They are written afresh at each start, so they must cost next to nothing, and what they carry is secret, so it should
//! lie nowhere else on its way. Therefore mke2fs makes a template once, whose document has a fixed size and marks each of
//! its blocks; a start copies the template with the marked blocks replaced. No process is started, no file system structure
//! is touched, and what is left of the fixed size are line feeds, which JSON permits.

use crate::draft::{Draft, once};
use crate::error::ImageError;
use crate::ext4::MakeExt4;
use crate::stop::Stop;
use mvm_core::{Dirs, GuestConfig, Secrets, labels};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes of the drive.
const SIZE: u64 = 1 << 20;
/// Most bytes of the document.
const CAPACITY: usize = 256 << 10;
const BLOCK: usize = 4096;
/// Counts changes to the template.
const LAYOUT: u32 = 1;

/// A kind of drive.
struct Kind {
    label: &'static str,
    /// The document's file.
    file: &'static str,
    /// How the template's name begins.
    template: &'static str,
}

const CONFIG: Kind = Kind { label: labels::CONFIG, file: "config.json", template: "config" };
const SECRETS: Kind = Kind { label: labels::SECRETS, file: "secrets.json", template: "secrets" };

/// Writes the config drive of one start, readable by its owner only, whole or not at all.
pub fn write_config_drive(dirs: &Dirs, dest: &Path, config: &GuestConfig, stop: &Stop) -> Result<(), ImageError> {
    write_drive(&CONFIG, dirs, dest, config, stop)
}

/// Writes the drive with the secrets of one start, as [`write_config_drive`] does.
pub fn write_secrets_drive(dirs: &Dirs, dest: &Path, secrets: &Secrets, stop: &Stop) -> Result<(), ImageError> {
    write_drive(&SECRETS, dirs, dest, secrets, stop)
}

fn write_drive(
    kind: &Kind,
    dirs: &Dirs,
    dest: &Path,
    document: &impl Serialize,
    stop: &Stop,
) -> Result<(), ImageError> {
    let mut text = serde_json::to_vec(document).map_err(|e| ImageError::io("write", dest)(e.into()))?;
    if text.len() > CAPACITY {
        return Err(ImageError::ConfigTooLarge { bytes: text.len(), most: CAPACITY });
    }
    text.resize(CAPACITY, b'\n');
    let layers = dirs.layers();
    let path = layers.join(format!("{}-v{LAYOUT}.ext4", kind.template));
    let find = || {
        let drive = fs::read(&path).ok()?;
        let places = places(kind, &drive)?;
        Some((drive, places))
    };
    let (mut drive, places) = once(&layers, stop, find, || {
        make_template(kind, &layers, &path, stop)?;
        find().ok_or_else(|| ImageError::MakeFs {
            program: "mke2fs",
            path: path.clone(),
            detail: format!("{} is not all there", kind.file),
        })
    })?;
    for (part, at) in text.chunks(BLOCK).zip(places) {
        drive[at..at + BLOCK].copy_from_slice(part);
    }
    let mut draft = Draft::create(dest)?;
    draft.file.write_all(&drive).map_err(ImageError::io("write", dest))?;
    draft.finish()
}

fn make_template(kind: &Kind, layers: &Path, path: &Path, stop: &Stop) -> Result<(), ImageError> {
    let staging = tempfile::Builder::new()
        .prefix(crate::draft::PREFIX)
        .tempdir_in(layers)
        .map_err(ImageError::io("write to", layers))?;
    let mut text = Vec::with_capacity(CAPACITY);
    for block in 0..CAPACITY / BLOCK {
        text.extend_from_slice(&mark(kind, block));
        text.resize((block + 1) * BLOCK, b'\n');
    }
    let file = staging.path().join(kind.file);
    fs::write(&file, text)
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))
        .map_err(ImageError::io("write", &file))?;
    let make = MakeExt4 {
        label: kind.label,
        size: SIZE,
        from: Some(staging.path()),
        owners: &[],
        inodes: Some(16),
        journal: None,
    };
    make.write(path, stop)
}

/// What a block of the template's document begins with.
fn mark(kind: &Kind, block: usize) -> Vec<u8> {
    format!("mvm {}, block {block:04}\n", kind.file).into_bytes()
}

/// Where in a template each block of the document lies (mke2fs may put them in several runs); `None` where one is
/// missing.
fn places(kind: &Kind, drive: &[u8]) -> Option<Vec<usize>> {
    if drive.len() as u64 != SIZE {
        return None;
    }
    let find = |n| drive.chunks(BLOCK).position(|b| b.starts_with(&mark(kind, n))).map(|block| block * BLOCK);
    (0..CAPACITY / BLOCK).map(find).collect()
}
