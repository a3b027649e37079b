//! What the fuzz targets do with their bytes. Each body panics where a promise is broken.

pub mod image;
pub mod nix;
pub mod protocol;
pub mod transfer;
