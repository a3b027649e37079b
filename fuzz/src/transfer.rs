//! Archives from a hostile sender.

use mvm_protocol::transfer::{SpecialBits, receive};
use mvm_protocol::{FrameType, TransferSummary, encode};
use std::path::Path;
use tar::{EntryType, Header};

/// Unpacks the bytes, as frames or as the script of an archive: nothing outside of the destination may change.
pub fn transfer(data: &[u8]) {
    let outer = tempfile::tempdir().expect("a temporary folder");
    let dest = outer.path().join("dest");
    std::fs::create_dir(&dest).expect("a folder");
    std::fs::write(outer.path().join("outside"), "precious").expect("a file");
    let (&mode, rest) = data.split_first().unwrap_or((&0, &[]));
    let frames = if mode & 1 == 0 { rest.to_vec() } else { archive(rest, outer.path()) };
    let _ = receive(&dest, &frames[..], SpecialBits::Drop, &mut |_| {});
    assert_eq!(std::fs::read(outer.path().join("outside")).expect("still there"), b"precious");
    assert_eq!(std::fs::read_dir(outer.path()).expect("still there").count(), 2, "something was made outside");
}

/// Entries of four bytes: kind, two numbers that choose names, size of contents. Random bytes would hardly ever have a
/// right checksum.
fn archive(script: &[u8], outer: &Path) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut summary = TransferSummary::default();
    for step in script.chunks_exact(4).take(64) {
        let kind = match step[0] % 16 {
            0..4 => EntryType::Regular,
            4..8 => EntryType::Directory,
            8..11 => EntryType::Symlink,
            11 => EntryType::GNULongName,
            12 => EntryType::GNULongLink,
            13 => EntryType::Link,
            14 => EntryType::XHeader,
            _ => EntryType::new(step[3]),
        };
        let (name, other) = (path(step[1], outer), path(step[2], outer));
        let contents = match kind {
            EntryType::Regular => vec![b'x'; usize::from(step[3]) * 9],
            EntryType::GNULongName | EntryType::GNULongLink => [other.as_bytes(), b"\0"].concat(),
            EntryType::XHeader => format!("{} path={other}\n", other.len() + 9).into_bytes(),
            _ => Vec::new(),
        };
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        let n = name.len().min(old.name.len());
        old.name[..n].copy_from_slice(&name.as_bytes()[..n]);
        let n = other.len().min(old.linkname.len());
        old.linkname[..n].copy_from_slice(&other.as_bytes()[..n]);
        header.set_entry_type(kind);
        header.set_mode(0o6700 | u32::from(step[3]));
        header.set_mtime(u64::from(step[2]));
        header.set_size(contents.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&contents);
        tar.resize(tar.len().next_multiple_of(512), 0);
        if matches!(kind, EntryType::Regular | EntryType::Directory | EntryType::Symlink) {
            summary.entries += 1;
            summary.bytes += contents.len() as u64;
        }
    }
    tar.extend_from_slice(&[0; 1024]);
    let mut frames = Vec::new();
    for chunk in tar.chunks(700) {
        encode(FrameType::Data, chunk, &mut frames).expect("a short frame");
    }
    let end = serde_json::to_vec(&summary).expect("plain data");
    encode(FrameType::End, &end, &mut frames).expect("a short frame");
    frames
}

/// A path of up to three components out of those that matter.
fn path(choice: u8, outer: &Path) -> String {
    let outer = outer.to_string_lossy();
    match choice {
        255 => format!("{outer}/outside"),
        254 => outer.into_owned(),
        253 => "../outside".into(),
        252 => "n".repeat(200),
        _ => {
            let part = |n: u8| ["d", "e", "..", ".", "", "outside"][usize::from(n) % 6];
            match choice / 36 {
                0 => format!("d/{}/{}", part(choice % 6), part(choice / 6)),
                1 => format!("d/{}", part(choice)),
                2 => format!("{}/{}", part(choice % 6), part(choice / 6)),
                3 => format!("{}/{}/outside", part(choice % 6), part(choice / 6)),
                _ => part(choice).into(),
            }
        }
    }
}
