//! Drives found by the label of their ext4 file system, never by letter.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a drive that must be there may take to come.
const DEADLINE: Duration = Duration::from_secs(10);

/// The device whose file system has a label, if it is there now.
pub fn by_label(label: &str) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir("/sys/class/block")? {
        // The kernel writes a slash in a device's name as an exclamation mark.
        let name = entry?.file_name().to_string_lossy().replace('!', "/");
        // The kernel's eight loop devices are empty, and each would cost a guest as much as a drive.
        if name.starts_with("loop") {
            continue;
        }
        let device = Path::new("/dev").join(name);
        // Devices without a medium cannot be opened, and are not meant.
        if File::open(&device)
            .and_then(|file| label_of(&file))
            .is_ok_and(|found| found.as_deref() == Some(label.as_bytes()))
        {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// The device whose file system has a label. Mostly it is there, for drivers probe while they are loaded; where one does
/// so later, the kernel's `/dev` tells.
pub fn wait_for(label: &str) -> io::Result<PathBuf> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    // The device is there before it may be read by its owner: both are watched.
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE | inotify::WatchFlags::ATTRIB)?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(device) = by_label(label)? {
            return Ok(device);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                let seconds = DEADLINE.as_secs();
                return Err(io::Error::other(format!("no drive labelled {label} has come within {seconds} s")));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // What happened does not matter, only that something did.
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        while events.next().is_ok() {}
    }
}

/// The label in an ext4 superblock (Linux `Documentation/filesystems/ext4/super.rst`: at 1024; magic at 56, label at 120).
fn label_of(device: &impl FileExt) -> io::Result<Option<Vec<u8>>> {
    let mut block = [0; 136];
    device.read_exact_at(&mut block, 1024)?;
    if block[56..58] != [0x53, 0xef] {
        return Ok(None);
    }
    let label = &block[120..];
    Ok(Some(label[..label.iter().position(|b| *b == 0).unwrap_or(label.len())].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn label(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        label_of(&file)
    }

    #[test]
    fn labels_are_read_from_the_superblock() {
        let mut image = vec![0; 2048];
        assert_eq!(label(&image).unwrap(), None);
        image[1080..1082].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(label(&image).unwrap(), Some(Vec::new()));
        image[1144..1152].copy_from_slice(b"mvm-root");
        assert_eq!(label(&image).unwrap(), Some(b"mvm-root".to_vec()));
        // One that fills its field has no end mark; what follows is not the label's.
        image[1144..1164].copy_from_slice(b"0123456789abcdefXXXX");
        assert_eq!(label(&image).unwrap(), Some(b"0123456789abcdef".to_vec()));
        assert!(label(&image[..1100]).is_err());
    }
}
