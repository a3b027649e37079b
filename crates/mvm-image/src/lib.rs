//! Images on disk: the contract checked, names and the catalog, a kernel found, the built-in image assembled, drives made.
//!
//! Everything here is synchronous and knows no VM. Whatever is written appears whole or not at all; what a killed
//! process left is overwritten or removed by the next one.

mod builtin;
mod catalog;
mod cpio;
mod document_drive;
mod draft;
mod elf;
mod error;
mod ext4;
mod fetched;
mod image;
mod kernel;
mod layer;
mod local;
mod modules;
mod rootfs_tar;
mod stop;
mod strip;
mod superblock;
mod unpack;
mod volume;

pub use builtin::{ensure_builtin, find_busybox, find_guest_binary};
pub use catalog::{CatalogEntry, catalog, catalog_entry, find_in_catalog};
pub use document_drive::{write_config_drive, write_secrets_drive};
pub use draft::draft_of;
pub use error::ImageError;
pub use fetched::{FetchedImage, FetchedImages, FetchedLock, ImageOrigin};
pub use image::Image;
pub use kernel::GuestKernel;
pub use layer::{LAYER_SIZE, writable_layer};
pub use local::{LocalImage, LocalKind, local_image, local_images, no_image, resolve_image};
pub use rootfs_tar::write_rootfs_tar;
pub use stop::{Stop, Stopper, stoppable};
pub use unpack::{UnpackError, decompress, vmlinux_from_bzimage};
pub use volume::{make_volume, remove_volume_drafts, volume_label};
