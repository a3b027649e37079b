//! The built-in image: `mvm-guest`, busybox and a kernel of this machine, put together on the spot, so that mvm does
//! its job where there is no Nix. Kept by content: the second time nothing is assembled, and nothing is even read.

mod index;
mod inputs;
mod rootfs;

pub use inputs::{find_busybox, find_guest_binary};

use crate::cpio::write_initrd;
use crate::draft::{self, once};
use crate::error::ImageError;
use crate::ext4::MakeExt4;
use crate::image::Image;
use crate::kernel::GuestKernel;
use crate::local::BUILT_IN;
use crate::stop::Stop;
use index::Index;
use inputs::Inputs;
use mvm_core::{
    AccessPolicy, AgentInfo, Dirs, IMAGE_SCHEMA, ImageDefaults, ImageManifest, InitrdFile, KernelFile, RootfsFile,
    RootfsFs, features, labels,
};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The folder of the built-in image, assembled where it is not there yet.
pub fn ensure_builtin(dirs: &Dirs, guest: &Path, kernel: &GuestKernel, stop: &Stop) -> Result<PathBuf, ImageError> {
    let busybox = inputs::find_busybox()?;
    let images = dirs.images();
    let sources = [guest, busybox.as_path(), kernel.file.as_path()];
    let find = || {
        let folder = images.join(Index::read(&images).find(&sources)?);
        Image::open(&folder).is_ok().then_some(folder)
    };
    once(&images, stop, find, || {
        let inputs = Inputs::read(guest, &busybox, kernel)?;
        stop.check()?;
        let name = format!("{BUILT_IN}{}", inputs.digest());
        let folder = images.join(&name);
        if let Err(error) = Image::open(&folder) {
            if folder.exists() {
                tracing::warn!(%error, "the built-in image is damaged and is assembled anew");
                set_aside(&images, &folder)?;
            }
            tracing::info!(folder = %folder.display(), kernel = %kernel.file.display(), "assembling the built-in image");
            assemble(&images, &folder, &inputs, stop)?;
        }
        Index::remember(&images, &name, &inputs.stamps);
        Ok(folder)
    })
}

/// Moves a damaged image out of the way; a VM that still runs from it keeps its open files.
fn set_aside(images: &Path, folder: &Path) -> Result<(), ImageError> {
    let aside = tempfile::Builder::new().prefix(draft::PREFIX).tempdir_in(images);
    let aside = aside.map_err(ImageError::io("write to", images))?;
    fs::rename(folder, aside.path().join("damaged")).map_err(ImageError::io("set aside", folder))
}

fn assemble(images: &Path, folder: &Path, inputs: &Inputs, stop: &Stop) -> Result<(), ImageError> {
    let draft = tempfile::Builder::new().prefix(draft::PREFIX).tempdir_in(images);
    let draft = draft.map_err(ImageError::io("write to", images))?;
    let at = |name: &str| draft.path().join(name);
    stop.check()?;
    let (kernel, format) = inputs.unpacked_kernel()?;
    stop.check()?;
    write(&at("kernel"), |out| out.write_all(&kernel))?;
    write(&at("initrd.cpio"), |out| write_initrd(out, &inputs.guest, &inputs.modules))?;
    let root = tempfile::Builder::new().prefix(draft::PREFIX).tempdir_in(images);
    let root = root.map_err(ImageError::io("write to", images))?;
    let furnished = rootfs::furnish(root.path(), inputs)?;
    let make = MakeExt4 {
        label: labels::ROOT,
        size: furnished.size,
        from: Some(root.path()),
        owners: &rootfs::OWNERS,
        inodes: Some(furnished.inodes),
        // Nobody writes to it.
        journal: None,
    };
    make.write(&at("rootfs.ext4"), stop)?;
    let manifest = ImageManifest {
        schema: IMAGE_SCHEMA,
        name: "built-in".into(),
        system: format!("{}-linux", std::env::consts::ARCH),
        kernel: KernelFile { path: "kernel".into(), format },
        initrd: Some(InitrdFile { path: "initrd.cpio".into() }),
        rootfs: RootfsFile {
            path: "rootfs.ext4".into(),
            fs: RootfsFs::Ext4,
            size_bytes: Some(furnished.size),
            read_only: false,
        },
        cmdline: inputs.cmdline.clone(),
        agent: AgentInfo {
            protocol: mvm_protocol::PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            features: features::ALL.map(Into::into).into(),
        },
        policy: AccessPolicy::OPEN,
        defaults: ImageDefaults::default(),
        services: Vec::new(),
        health: Vec::new(),
        volumes: Vec::new(),
        secrets: Vec::new(),
        requires: Vec::new(),
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| ImageError::io("write", folder)(e.into()))?;
    write(&at("image.json"), |out| out.write_all(&text))?;
    // All VMs of an image share its files: nobody is to write to them by mistake.
    for name in ["kernel", "initrd.cpio", "rootfs.ext4", "image.json"] {
        let path = at(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).map_err(ImageError::io("protect", path))?;
    }
    fs::set_permissions(draft.path(), fs::Permissions::from_mode(0o755)).map_err(ImageError::io("open up", folder))?;
    Image::open(draft.path())?;
    fs::rename(draft.path(), folder).map_err(ImageError::io("write", folder))?;
    let _moved = draft.keep();
    // So that after a power cut the folder is there with all its files or not at all.
    File::open(images).and_then(|dir| dir.sync_all()).map_err(ImageError::io("write to", images))
}

fn write(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), ImageError> {
    let written = || {
        let mut out = BufWriter::new(File::create_new(path)?);
        content(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    };
    written().map_err(ImageError::io("write", path))
}
