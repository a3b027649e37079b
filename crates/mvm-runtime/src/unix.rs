//! Unix sockets whose paths are longer than `sun_path` (108 bytes on Linux, 104 on macOS).
//!
//! Linux reaches them through `/proc/self/fd/N/NAME`, with N an open descriptor of the folder.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::{UnixListener, UnixStream};

/// Bytes that fit everywhere, with the closing NUL.
const SUN_PATH: usize = 100;

/// Runs `use_path` with a path that fits into a socket address.
fn with_short_path<T>(path: &Path, use_path: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() < SUN_PATH { use_path(path) } else { through_folder(path, use_path) }
}

#[cfg(target_os = "linux")]
fn through_folder<T>(path: &Path, use_path: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = std::fs::File::open(folder)?;
    use_path(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

/// macOS has no such way.
#[cfg(not(target_os = "linux"))]
fn through_folder<T>(path: &Path, _: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let why = format!("{} is too long for a socket here; set MVM_RUNTIME_DIR to a shorter folder", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidFilename, why))
}

/// Connects to a socket at a path of any length.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    // A Unix socket connects or fails at once, so nothing blocks here beyond a full backlog.
    let stream = with_short_path(path, |p| std::os::unix::net::UnixStream::connect(p))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Listens at a path of any length; whatever socket a crashed run left there is removed first.
/// Only its owner may connect. The folder is ours and locked.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    crate::files::remove_file(path)?;
    let listener = with_short_path(path, |p| std::os::unix::net::UnixListener::bind(p))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_of_300_bytes_works_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(150)).join("e".repeat(150));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("s.sock");
        let listener = listen(&path).unwrap();
        let _client = connect(&path).unwrap();
        listener.accept().await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        listen(&path).unwrap();
    }
}
