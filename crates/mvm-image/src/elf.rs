//! What the first bytes of a program or kernel say: its CPU, and whether it brings everything along.

use crate::error::ImageError;
use object::Endianness;
use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_INTERP};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use std::fs::File;
use std::path::Path;

/// The CPU of a 64-bit little-endian ELF file, in the words of [`std::env::consts::ARCH`]; `None` where it is no such file.
pub(crate) fn cpu(head: &[u8]) -> Option<&'static str> {
    // ELF-64 specification: identification (class 2 is 64-bit, data 1 is little-endian), then e_type, then e_machine.
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let machine = u16::from_le_bytes([*head.get(18)?, *head.get(19)?]);
    Some(match machine {
        m if m == EM_X86_64.0 => "x86_64",
        m if m == EM_AARCH64.0 => "aarch64",
        _ => "another CPU",
    })
}

/// Checks that a program runs in a guest of this machine: same CPU, and no interpreter (PT_INTERP), because a guest has
/// no libraries. Reads the headers only.
pub(crate) fn check_static(path: &Path, hint: &'static str) -> Result<(), ImageError> {
    let fail = |why: String| Err(ImageError::Unusable { path: path.into(), why, hint });
    let data = ReadCache::new(File::open(path).map_err(ImageError::io("read", path))?);
    let Ok(header) = FileHeader64::<Endianness>::parse(&data) else {
        return fail("it is not a 64-bit ELF program".into());
    };
    let Ok(endian) = header.endian() else { return fail("it is not a 64-bit ELF program".into()) };
    let machine = match header.e_machine(endian) {
        EM_X86_64 => "x86_64",
        EM_AARCH64 => "aarch64",
        _ => "another CPU",
    };
    if machine != std::env::consts::ARCH {
        return fail(format!("it is for {machine}, and this machine is {}", std::env::consts::ARCH));
    }
    let Ok(segments) = header.program_headers(endian, &data) else { return fail("its ELF header is damaged".into()) };
    if segments.iter().any(|s| s.p_type(endian) == PT_INTERP) {
        return fail("it is dynamically linked, and a guest has no libraries".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(machine: u16) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[20] = 1;
        bytes[52] = 64;
        bytes
    }

    #[test]
    fn cpus_are_told_apart() {
        assert_eq!(cpu(&header(62)), Some("x86_64"));
        assert_eq!(cpu(&header(183)), Some("aarch64"));
        assert_eq!(cpu(&header(243)), Some("another CPU"));
        for not in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01", b"#!/bin/sh\nexit 0 and then some"] {
            assert_eq!(cpu(not), None);
        }
    }

    #[test]
    fn what_cannot_run_in_a_guest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let other = if std::env::consts::ARCH == "x86_64" { 183 } else { 62 };
        for (bytes, why) in [(b"#!/bin/sh".to_vec(), "not a 64-bit ELF"), (header(other), "is for ")] {
            std::fs::write(&path, bytes).unwrap();
            let error = check_static(&path, "h").unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        // This very test is linked dynamically, as tests are unless somebody builds them otherwise.
        let exe = std::env::current_exe().unwrap();
        let error = check_static(&exe, "h").unwrap_err().to_string();
        assert!(error.contains("dynamically linked"), "{error}");
    }
}
