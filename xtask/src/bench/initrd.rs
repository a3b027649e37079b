//! mvm's initrd with another `/init`.

use super::Failure;
use cpio::newc::{Builder, Reader, trailer};
use std::io::{Read, Write};

/// Copies an archive (newc), but for the content of `init`.
pub(super) fn with_init(initrd: &[u8], init: &[u8], mut out: impl Write) -> Result<(), Failure> {
    let mut rest = initrd;
    let mut swapped = false;
    loop {
        let mut reader = Reader::new(rest)?;
        let entry = reader.entry().clone();
        if entry.is_trailer() {
            break;
        }
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        rest = reader.finish()?;
        if entry.name() == "init" {
            content = init.to_vec();
            swapped = true;
        }
        let builder = Builder::new(entry.name()).ino(entry.ino()).mode(entry.mode()).nlink(entry.nlink());
        let mut writer = builder.write(out, u32::try_from(content.len())?);
        writer.write_all(&content)?;
        out = writer.finish()?;
    }
    trailer(out)?;
    if swapped { Ok(()) } else { Err("the initrd has no /init".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, bytes) in entries {
            let mut writer = Builder::new(name).ino(1).mode(0o100_755).nlink(1).write(out, bytes.len() as u32);
            writer.write_all(bytes).unwrap();
            out = writer.finish().unwrap();
        }
        trailer(out).unwrap()
    }

    #[test]
    fn only_init_is_another() {
        let mut out = Vec::new();
        let before = archive(&[("modules/00.ko", b"module"), ("init", b"mvm's"), ("last", b"x")]);
        with_init(&before, b"another one", &mut out).unwrap();
        assert_eq!(out, archive(&[("modules/00.ko", b"module"), ("init", b"another one"), ("last", b"x")]));
    }

    #[test]
    fn an_archive_without_init_is_no_initrd() {
        assert!(with_init(&archive(&[("x", b"y")]), b"z", Vec::new()).is_err());
    }
}
