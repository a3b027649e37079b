//! The initrd: a cpio archive (newc), uncompressed, because unpacking costs a guest more than reading.

use crate::modules::Module;
use cpio::newc::{Builder, trailer};
use std::io::{self, Write};

/// Writes an archive with `/init` and the modules, the same bytes for the same input.
pub(crate) fn write_initrd(out: impl Write, init: &[u8], modules: &[Module]) -> io::Result<()> {
    const FOLDER: u32 = 0o040_755;
    const FILE: u32 = 0o100_755;
    let mut entries: Vec<(String, u32, &[u8])> = Vec::new();
    for dir in ["dev", "mnt", "modules", "proc", "sys"] {
        entries.push((dir.into(), FOLDER, &[]));
    }
    entries.push(("init".into(), FILE, init));
    for (at, module) in modules.iter().enumerate() {
        entries.push((format!("modules/{at:02}-{}.ko", module.name), FILE, &module.bytes));
    }
    let mut out = out;
    for (ino, (name, mode, bytes)) in entries.into_iter().enumerate() {
        let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let links = if mode == FOLDER { 2 } else { 1 };
        let mut writer = Builder::new(&name).ino(ino as u32 + 1).mode(mode).nlink(links).write(out, size);
        writer.write_all(bytes)?;
        out = writer.finish()?;
    }
    trailer(out)?;
    Ok(())
}
