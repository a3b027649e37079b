//! The image's root file system in Docker: imported once, and found again by its key.
//!
//! The key must cost nothing, for it is asked for at every start, and images may have gigabytes. A path in Nix's store
//! never changes what it holds, so its name is the key; any other file is known by what the system says of it: its
//! place, length and times. A copy is then imported again, which takes time but no disk: Docker itself keeps layers by
//! their content. What was imported of a file that has changed since, or is gone, is removed.

use super::error::{DockerError, is_missing, said};
use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder};
use futures_util::{StreamExt, stream};
use mvm_core::Dirs;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::bytes::Bytes;

/// The name under which imported images are kept; their tag is the key.
const REPOSITORY: &str = "mvm";
/// The label that holds the key.
const KEY_LABEL: &str = "org.mvm.image";
/// The label that holds the path of the root file system, percent-encoded.
const ROOTFS_LABEL: &str = "org.mvm.rootfs";
/// Docker answers when it has unpacked all.
const IMPORT_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Bytes that go to Docker at once, and how many such pieces may wait for it.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// Has the root file system in Docker; the image's id.
pub(super) async fn ensure(
    client: &Docker,
    dirs: &Dirs,
    rootfs: &Path,
    begins: &dyn Fn(),
) -> Result<String, DockerError> {
    let key = key(rootfs).map_err(DockerError::io("read the image's root file system"))?;
    if let Some(id) = find(client, &key).await? {
        return Ok(id);
    }
    begins();
    // Whoever else imports it now does it for us too.
    let _alone = lock(dirs).await.map_err(DockerError::io("lock the image store"))?;
    if let Some(id) = find(client, &key).await? {
        return Ok(id);
    }
    tracing::info!(rootfs = %rootfs.display(), key, "importing the root file system into Docker");
    import(client, rootfs, &key).await?;
    let id = find(client, &key).await?.ok_or_else(|| DockerError::Refused {
        action: "import the image",
        detail: "it does not find what it has imported".into(),
    })?;
    if let Err(error) = remove_stale(client).await {
        tracing::warn!(%error, "images that were imported before cannot be removed");
    }
    Ok(id)
}

/// 64 hex digits.
fn key(rootfs: &Path) -> io::Result<String> {
    let rootfs = rootfs.canonicalize()?;
    let mut hash = Sha256::new();
    hash.update(rootfs.as_os_str().as_bytes());
    if !rootfs.starts_with("/nix/store") {
        let of = rootfs.metadata()?;
        let times = [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()].map(i64::cast_unsigned);
        for number in [of.dev(), of.ino(), of.size()].into_iter().chain(times) {
            hash.update(number.to_le_bytes());
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The image with this key, unless somebody else has given its name to another.
async fn find(client: &Docker, key: &str) -> Result<Option<String>, DockerError> {
    match client.inspect_image(&format!("{REPOSITORY}:{key}")).await {
        Ok(image) => {
            let labels = image.config.and_then(|config| config.labels).unwrap_or_default();
            Ok(image.id.filter(|_| labels.get(KEY_LABEL).is_some_and(|label| label == key)))
        }
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(DockerError::refused("look for the image")(error)),
    }
}

async fn import(client: &Docker, rootfs: &Path, key: &str) -> Result<(), DockerError> {
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(REPOSITORY)
        .tag(key)
        .changes(vec![format!("LABEL {KEY_LABEL}={key}"), format!("LABEL {ROOTFS_LABEL}={}", encode(rootfs))])
        .build();
    let (stopper, stop) = mvm_image::stoppable().map_err(DockerError::io("import the image"))?;
    let (send, mut receive) = mpsc::channel(PIECES);
    let path = rootfs.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || {
        let pipe = Pieces(send.clone());
        let done = mvm_image::write_rootfs_tar(&path, BufWriter::with_capacity(PIECE, pipe), &stop);
        if done.is_err() {
            // An upload that just ended would be an image with the rest missing.
            let _ = send.blocking_send(Err(io::ErrorKind::InvalidData.into()));
        }
        done
    });
    let body = bollard::body_try_stream(stream::poll_fn(move |cx| receive.poll_recv(cx)));
    let slow = client.clone().with_timeout(IMPORT_DEADLINE);
    let mut answers = slow.create_image(Some(options), Some(body), None);
    let mut refused = None;
    while let Some(answer) = answers.next().await {
        refused = refused.or(answer.err());
    }
    drop(answers);
    drop(stopper);
    let read = reading.await.map_err(|e| DockerError::io("read the image's root file system")(e.into()))?;
    match (read, refused) {
        // Who reads for a Docker that takes no more is stopped, or finds nobody there.
        (Ok(()) | Err(mvm_image::ImageError::Stopped | mvm_image::ImageError::Io { .. }), Some(error)) => {
            Err(DockerError::Refused { action: "import the image", detail: said(&error) })
        }
        (read, _) => Ok(read?),
    }
}

/// The thread's end of the upload. It waits where Docker is slower.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes what was imported of files that have changed since, or are gone; a container that needs it keeps it.
async fn remove_stale(client: &Docker) -> Result<(), DockerError> {
    let filters = HashMap::from([("label", vec![KEY_LABEL, ROOTFS_LABEL])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    for image in client.list_images(Some(options)).await.map_err(DockerError::refused("list images"))? {
        let label = |name| image.labels.get(name).map_or("", String::as_str);
        let rootfs: Vec<u8> = percent_decode_str(label(ROOTFS_LABEL)).collect();
        if key(Path::new(OsStr::from_bytes(&rootfs))).is_ok_and(|key| key == label(KEY_LABEL)) {
            continue;
        }
        let options = RemoveImageOptionsBuilder::default().build();
        // One that is in use stays, and is looked at again next time.
        if let Err(error) = client.remove_image(&image.id, Some(options), None).await {
            tracing::debug!(%error, image.id, "an image stays");
        }
    }
    Ok(())
}

/// A path as a word that Docker's LABEL takes for nothing else.
fn encode(path: &Path) -> String {
    percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC).to_string()
}

/// Waits for the lock of imports, on a thread of its own: flock(2) cannot be told to give up.
async fn lock(dirs: &Dirs) -> io::Result<File> {
    std::fs::create_dir_all(dirs.images())?;
    let file = File::options().write(true).create(true).truncate(false).open(dirs.import_lock())?;
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let locked = rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive));
        // Where nobody waits any more, the lock goes with the file.
        let _ = tell.send(locked.map(|()| file));
    });
    Ok(told.await.map_err(io::Error::other)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rootfs.ext4");
        std::fs::write(&path, "one").unwrap();
        let first = key(&path).unwrap();
        assert_eq!((first.len(), key(&path).unwrap()), (64, first.clone()));
        std::fs::write(&path, "another").unwrap();
        let second = key(&path).unwrap();
        assert_ne!(first, second);
        // The same bytes in another file, as when an image is built again.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("new"), "another").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_ne!(second, key(&path).unwrap());
        assert!(key(&dir.path().join("gone")).is_err());
    }

    #[test]
    fn any_path_is_one_word() {
        let path = Path::new(OsStr::from_bytes(b"/a b/$HOME/\"'\\\n\xff"));
        let word = encode(path);
        assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'%'), "{word}");
        assert_eq!(percent_decode_str(&word).collect::<Vec<_>>(), path.as_os_str().as_bytes());
    }
}
