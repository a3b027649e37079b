//! The writable layer of one VM: an empty ext4, copied from one that was made before.

use crate::draft::{Draft, once};
use crate::error::ImageError;
use crate::ext4::MakeExt4;
use crate::stop::Stop;
use mvm_core::{Dirs, labels};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a writable layer, which is the most that a guest can keep beyond its image. Sparse: an empty one takes
/// about 130 KiB of the host's disk, and each grows with what its guest writes.
pub const LAYER_SIZE: u64 = 8 << 30;
/// MiB of its journal: enough for any burst of metadata, and the most that it ever takes of the host's disk.
const JOURNAL: u32 = 32;
/// Counts changes to how the template is made.
const LAYOUT: u32 = 2;

/// Makes a VM's writable layer at `dest`, whole or not at all, readable by its owner only.
pub fn writable_layer(dirs: &Dirs, dest: &Path, stop: &Stop) -> Result<(), ImageError> {
    let layers = dirs.layers();
    let path = layers.join(format!("{}G-v{LAYOUT}.ext4", LAYER_SIZE >> 30));
    let template = once(
        &layers,
        stop,
        || File::open(&path).ok(),
        || {
            let make = MakeExt4 {
                label: labels::WRITABLE,
                size: LAYER_SIZE,
                from: None,
                owners: &[],
                inodes: None,
                journal: Some(JOURNAL),
            };
            make.write(&path, stop)?;
            File::open(&path).map_err(ImageError::io("read", &path))
        },
    )?;
    let draft = Draft::create(dest)?;
    sparse_copy(&template, &draft.file).map_err(ImageError::io("write", dest))?;
    draft.finish()
}

/// Copies a sparse file with its holes; where the file system can, by sharing its blocks.
fn sparse_copy(from: &File, to: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole from here on.
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?;
        at = data;
        while at < hole {
            let want = (buffer.len() as u64).min(hole - at) as usize;
            let n = from.read_at(&mut buffer[..want], at)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all_at(&buffer[..n], at)?;
            at += n as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes_and_data_stays_data() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(64 << 20).unwrap();
        for (at, text) in [(0, "first"), (5 << 20, "second"), ((64 << 20) - 4, "last")] {
            from.write_all_at(text.as_bytes(), at).unwrap();
        }
        let to = tempfile::tempfile().unwrap();
        sparse_copy(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        let mut text = [0; 6];
        to.read_exact_at(&mut text, 5 << 20).unwrap();
        assert_eq!(&text, b"second");
        to.read_exact_at(&mut text[..4], (64 << 20) - 4).unwrap();
        assert_eq!(&text[..4], b"last");
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn an_empty_file_is_copied() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        sparse_copy(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 0);
    }
}
