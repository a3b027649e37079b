//! Compressed kernels and modules, unpacked. Everything is bounded: these files come from packages, but also from users.

use crate::elf;
use std::io::{self, Read};

/// Most bytes that a kernel or module may unpack to.
const LIMIT: usize = 512 << 20;
/// KiB that an xz dictionary may take; the kernel's own build uses 128 MiB at most.
const XZ_MEMORY: u32 = 256 << 10;

/// Why a file cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Not a bzImage of boot protocol 2.08 or later.
    #[error("not a bzImage of Linux boot protocol 2.08 or later")]
    NotBzImage,
    /// A compression that this build does not know.
    #[error("compressed in a way that this mvmctl does not know (it knows gzip, xz, zstd and LZ4)")]
    Unknown,
    /// Damaged.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Larger than any kernel.
    #[error("larger than {} MiB when unpacked", LIMIT >> 20)]
    TooLarge,
}

impl From<io::Error> for UnpackError {
    fn from(e: io::Error) -> Self {
        Self::Damaged(e.to_string())
    }
}

/// The ELF `vmlinux` inside a bzImage (Linux `Documentation/arch/x86/boot.rst`: `payload_offset`, `payload_length`).
pub fn vmlinux_from_bzimage(image: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let payload = || {
        if image.get(0x202..0x206)? != b"HdrS" || u16_at(0x206)? < 0x208 {
            return None;
        }
        // 0 stands for 4, for the oldest of images.
        let setup = match *image.get(0x1f1)? as usize {
            0 => 4,
            n => n,
        };
        let start = ((setup + 1) * 512).checked_add(u32_at(0x248)?)?;
        image.get(start..start.checked_add(u32_at(0x24c)?)?)
    };
    let payload = payload().ok_or(UnpackError::NotBzImage)?;
    let vmlinux = decompress(payload)?;
    if elf::cpu(&vmlinux).is_none() {
        return Err(UnpackError::Damaged("what is inside is no 64-bit ELF file".into()));
    }
    // Whatever the compression, the build puts the unpacked size at the end (for gzip it is there anyway).
    let size = payload.last_chunk::<4>().map(|size| u32::from_le_bytes(*size));
    if size != Some(vmlinux.len() as u32) {
        return Err(UnpackError::Damaged(format!("it unpacks to {} bytes, not to what it promises", vmlinux.len())));
    }
    Ok(vmlinux)
}

/// Unpacks gzip, xz, zstd or LZ4 (legacy) by its magic, whatever follows it; ELF files are given back as they are.
pub fn decompress(bytes: &[u8]) -> Result<Vec<u8>, UnpackError> {
    match bytes {
        [0x7f, b'E', b'L', b'F', ..] => Ok(bytes.to_vec()),
        [0x1f, 0x8b, ..] => bounded(flate2::read::GzDecoder::new(bytes)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            bounded(ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|e| UnpackError::Damaged(e.to_string()))?)
        }
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => lz4_legacy(rest),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => bounded(lzma_rust2::XzReader::new_mem_limit(bytes, false, XZ_MEMORY)),
        _ => Err(UnpackError::Unknown),
    }
}

fn bounded(reader: impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    reader.take(LIMIT as u64 + 1).read_to_end(&mut out)?;
    if out.len() > LIMIT { Err(UnpackError::TooLarge) } else { Ok(out) }
}

/// LZ4's legacy frame, as `lz4 -l` writes it for kernels: blocks that unpack to 8 MiB each, the last one to less, each
/// behind its length. A length with nothing behind it is what the kernel's build puts at the end: the unpacked size.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, UnpackError> {
    const BLOCK: usize = 8 << 20;
    let mut block = vec![0; BLOCK];
    let mut out = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        if after.is_empty() {
            break;
        }
        let length = u32::from_le_bytes(*length) as usize;
        let packed = after.get(..length).ok_or_else(|| UnpackError::Damaged("an LZ4 block is cut off".into()))?;
        let n =
            lz4_flex::block::decompress_into(packed, &mut block).map_err(|e| UnpackError::Damaged(e.to_string()))?;
        if out.len() + n > LIMIT {
            return Err(UnpackError::TooLarge);
        }
        out.extend_from_slice(&block[..n]);
        rest = &after[length..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// What a kernel's build packs: an ELF file that does not pack to nothing.
    fn vmlinux(length: usize) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        let mut state = 1u32;
        while bytes.len() < length {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Calls, which the x86 filter of xz rewrites.
            bytes.extend_from_slice(&[0xe8, (state >> 24) as u8, 0, 0, 0, 0x90, 0x90, 0x90]);
        }
        bytes
    }

    /// A bzImage with the least that boot protocol 2.08 asks for, the size at its end as the kernel's build puts it.
    fn bzimage(packed: &[u8], size: usize, append: bool) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        image.extend_from_slice(packed);
        if append {
            image.extend_from_slice(&(size as u32).to_le_bytes());
        }
        let length = (image.len() - 1024) as u32;
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image
    }

    fn piped(argv: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let mut child =
            Command::new(argv[0]).args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(out.status.success());
        Some(out.stdout)
    }

    #[test]
    fn kernels_are_unpacked_as_their_build_packs_them() {
        // The commands of Linux's scripts/Makefile.lib.
        let commands: [&[&str]; 5] = [
            &["gzip", "-n", "-c", "-9"],
            &["xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB", "-T1", "-2"],
            &["zstd", "-6", "-c"],
            &["zstd", "-1", "--zstd=wlog=27", "-c"],
            &["lz4", "-l", "-9", "-", "-"],
        ];
        let mut tried = 0;
        for argv in commands {
            // LZ4's must be larger than one of its blocks; the others only cost time.
            let vmlinux = vmlinux(if argv[0] == "lz4" { 9 << 20 } else { 1 << 20 });
            // gzip is everywhere; the others are tried where they are installed.
            let Some(packed) = piped(argv, &vmlinux) else { continue };
            let image = bzimage(&packed, vmlinux.len(), argv[0] != "gzip");
            assert!(vmlinux_from_bzimage(&image).unwrap() == vmlinux, "{argv:?}");
            assert!(vmlinux_from_bzimage(&image[..image.len() - 100]).is_err(), "{argv:?}, cut off");
            let mut damaged = image.clone();
            let end = damaged.len() - 4;
            damaged[end] ^= 1;
            assert!(vmlinux_from_bzimage(&damaged).is_err(), "{argv:?}, another size");
            tried += 1;
        }
        assert!(tried >= 1);
    }

    #[test]
    fn a_header_that_points_outside_is_no_kernel() {
        let mut image = vec![0xff; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(matches!(vmlinux_from_bzimage(&image), Err(UnpackError::NotBzImage)));
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        struct Endless;
        impl Read for Endless {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                Ok(buf.len())
            }
        }
        assert!(matches!(bounded(Endless), Err(UnpackError::TooLarge)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(magic in 0usize..6, mut bytes: Vec<u8>) {
            let magics: [&[u8]; 6] =
                [b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b"\xfd7zXZ\0", b"\x7fELF"];
            let mut all = magics[magic].to_vec();
            all.append(&mut bytes);
            let _ = decompress(&all);
            let _ = vmlinux_from_bzimage(&bzimage(&all, 0, true));
            let _ = vmlinux_from_bzimage(&all);
        }
    }
}
