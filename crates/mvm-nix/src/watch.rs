//! Waiting until the files of a local flake change: woken by the system (inotify, FSEvents), decided by their contents.
//!
//! What the system tells is only the occasion to look: Git writes its index when nothing has changed, editors write beside
//! a file and rename, a build replaces its own result link. A change is what Nix would see as one.

use crate::error::NixError;
use crate::flake_ref::FlakeRef;
use crate::sources::{Snapshot, SourceTree};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A burst of changes is over when nothing has happened for so long…
const QUIET: Duration = Duration::from_millis(50);
/// …and is taken for over after so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// The files of one flake, watched.
pub struct SourceWatch {
    tree: SourceTree,
    watcher: RecommendedWatcher,
    told: mpsc::Receiver<()>,
    folders: BTreeSet<PathBuf>,
    seen: Option<Snapshot>,
}

impl SourceWatch {
    /// Begins to watch: whatever changes from now on is told by [`Self::changed`].
    ///
    /// # Errors
    /// A flake that is not there, or that is not local; more folders than the system watches.
    pub async fn new(flake: &FlakeRef) -> Result<Self, NixError> {
        let located = flake.clone().locate()?;
        let tree = SourceTree::of(&located).ok_or_else(|| NixError::NotLocal(flake.to_string()))?;
        // One that waits is enough: it says that it is time to look.
        let (tell, told) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change; an error may hide one.
            if !event.is_ok_and(|e| matches!(e.kind, EventKind::Access(_))) {
                let _ = tell.try_send(());
            }
        });
        let root = tree.root().to_owned();
        let watcher = watcher.map_err(|e| cannot(&root, e))?;
        let mut watch = Self { tree, watcher, told, folders: BTreeSet::new(), seen: None };
        watch.look().await?;
        Ok(watch)
    }

    /// The root of what is watched.
    pub fn root(&self) -> &Path {
        self.tree.root()
    }

    /// Returns when files are not what they were when this last returned, or when the watch began. Cancel-safe.
    pub async fn changed(&mut self) -> Result<(), NixError> {
        loop {
            if self.look().await? {
                return Ok(());
            }
            // The watcher, which holds the other end, lives as long as we do.
            let _ = self.told.recv().await;
            let patience = Instant::now() + PATIENCE;
            while let Ok(Some(())) = timeout_at(patience.min(Instant::now() + QUIET), self.told.recv()).await {}
        }
    }

    /// Looks at all files; whether they are not what they were. The first look is never news.
    async fn look(&mut self) -> Result<bool, NixError> {
        let (tree, before) = (self.tree.clone(), self.seen.clone());
        let looked = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let Some(mut now) = tree.look(before.as_ref())? else { return Ok(None) };
            tree.read(&mut now, before.as_ref())?;
            let is_news = before.is_some_and(|before| !now.is_same_but_results(&before, &tree));
            Ok(Some((tree.folders(&now), now, is_news)))
        });
        let looked = looked.await.map_err(io::Error::other).and_then(|done| done);
        let (folders, now, is_news) = match looked {
            Ok(Some(looked)) => looked,
            Ok(None) => return Err(NixError::NotLocal(self.tree.root().display().to_string())),
            // In the midst of changes a file may vanish under one's eyes: there will be an event.
            Err(error) if self.seen.is_some() => {
                tracing::debug!(%error, "not looked at");
                return Ok(false);
            }
            Err(error) => return Err(cannot(self.tree.root(), notify::Error::io(error))),
        };
        let is_wider = self.follow(folders)?;
        self.seen = Some(now);
        // What came into a new folder before it was watched has not been told.
        if is_wider { Ok(is_news | Box::pin(self.look()).await?) } else { Ok(is_news) }
    }

    /// Watches these folders and no others; whether one is new.
    fn follow(&mut self, folders: BTreeSet<PathBuf>) -> Result<bool, NixError> {
        let mut is_wider = false;
        for gone in self.folders.difference(&folders) {
            // A folder that is no more is not watched either.
            let _ = self.watcher.unwatch(gone);
        }
        for folder in folders.difference(&self.folders) {
            match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
                Err(error) if folder.is_dir() => return Err(cannot(folder, error)),
                _ => is_wider = true,
            }
        }
        self.folders = folders;
        Ok(is_wider)
    }
}

fn cannot(path: &Path, error: notify::Error) -> NixError {
    let source = match error.kind {
        notify::ErrorKind::Io(error) => error,
        _ => io::Error::other(error),
    };
    NixError::Watch { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const DEADLINE: Duration = Duration::from_secs(30);

    async fn watch(folder: &Path) -> SourceWatch {
        let flake = FlakeRef::parse(&format!("path:{}", folder.display()), Path::new("/"), None).unwrap();
        SourceWatch::new(&flake).await.unwrap()
    }

    /// The system wakes us, and there is news.
    async fn changes(watch: &mut SourceWatch) {
        tokio::time::timeout(DEADLINE, watch.told.recv()).await.expect("the system tells").unwrap();
        tokio::time::timeout(DEADLINE, watch.changed()).await.expect("it is told").unwrap();
    }

    #[tokio::test]
    async fn what_happens_is_told_and_what_does_not_matter_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        fs::write(root.join("flake.nix"), "{ }").unwrap();
        let mut watch = watch(root).await;
        fs::write(root.join("flake.nix"), "{ a = 1; }").unwrap();
        changes(&mut watch).await;
        // As editors save: beside it, and then over it.
        fs::write(root.join(".flake.nix.swp"), "{ a = 2; }").unwrap();
        fs::rename(root.join(".flake.nix.swp"), root.join("flake.nix")).unwrap();
        changes(&mut watch).await;
        fs::create_dir_all(root.join("new/deep")).unwrap();
        fs::write(root.join("new/deep/file"), "").unwrap();
        changes(&mut watch).await;
        fs::write(root.join("new/deep/file"), "x").unwrap();
        changes(&mut watch).await;
        fs::remove_dir_all(root.join("new")).unwrap();
        changes(&mut watch).await;
        // The same content anew, and a result: then a change, which is the first to be told.
        fs::write(root.join("flake.nix"), "{ a = 2; }").unwrap();
        std::os::unix::fs::symlink("/nix/store/00000000000000000000000000000000-x", root.join("result")).unwrap();
        assert!(!watch.look().await.unwrap());
        fs::write(root.join("flake.nix"), "{ a = 3; }").unwrap();
        changes(&mut watch).await;
        // A flake.nix that is away for a moment is news twice.
        fs::remove_file(root.join("flake.nix")).unwrap();
        changes(&mut watch).await;
        fs::write(root.join("flake.nix"), "{ a = 3; }").unwrap();
        changes(&mut watch).await;
    }

    #[tokio::test]
    async fn of_a_git_work_tree_only_what_git_tracks_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let git = |args: &[&str]| {
            let done = std::process::Command::new("git").arg("-C").arg(root).args(args).output().unwrap();
            assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        git(&["init", "-q"]);
        for file in ["flake.nix", "other"] {
            fs::write(root.join(file), "{ }").unwrap();
        }
        git(&["add", "flake.nix"]);
        let flake = FlakeRef::parse(root.to_str().unwrap(), Path::new("/"), None).unwrap();
        let mut watch = SourceWatch::new(&flake).await.unwrap();
        fs::write(root.join("other"), "{ a = 1; }").unwrap();
        fs::File::open(root.join("flake.nix")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        git(&["status"]);
        assert!(!watch.look().await.unwrap());
        git(&["add", "other"]);
        changes(&mut watch).await;
        fs::write(root.join("other"), "{ a = 2; }").unwrap();
        changes(&mut watch).await;
        git(&["-c", "user.name=me", "-c", "user.email=me@host", "commit", "-q", "-m", "x"]);
        changes(&mut watch).await;
    }

    #[tokio::test]
    async fn what_is_not_local_cannot_be_watched() {
        let flake = FlakeRef::parse("github:o/r", Path::new("/"), None).unwrap();
        assert!(matches!(SourceWatch::new(&flake).await, Err(NixError::NotLocal(_))));
    }
}
