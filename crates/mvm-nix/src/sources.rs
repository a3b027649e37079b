//! The files that the evaluation of a local flake reads, and whether they are still what they were.
//!
//! Nix evaluates a copy of the flake's source tree: of a Git work tree the tracked files, of any other folder all files.
//! Symlinks are copied as such. So what an evaluation can read is known without asking Nix.

use crate::flake_ref::{FlakeRef, Place};
use crate::git::Repository;
use crate::stamp::{self, Stamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Trees with more files are not watched and not remembered.
const MAX_FILES: usize = 100_000;

/// The source tree of a local flake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceTree {
    root: PathBuf,
    /// The folder of `flake.nix`, below the root.
    flake: PathBuf,
    is_git: bool,
}

/// One file, folder or symlink, or the absence of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    stamp: Option<Stamp>,
    /// Whether a later change is bound to change the stamp.
    settled: bool,
    /// Of its content; empty before [`Snapshot::read`].
    digest: String,
}

/// The tree as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// By path: below the root, or absolute for what belongs to Git.
    entries: BTreeMap<String, Entry>,
    /// Git's index.
    index: Option<Index>,
}

/// Git's index: its digest is of what it says, since Git writes it anew when nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    stamp: Option<Stamp>,
    settled: bool,
    digest: String,
}

impl SourceTree {
    /// The tree of a flake that was located; `None` where it is not local, or where Nix reads something else than the
    /// files of a folder: a commit, submodules.
    pub fn of(flake: &FlakeRef) -> Option<Self> {
        let below = match flake.query.as_deref() {
            None => PathBuf::new(),
            Some(query) if query.starts_with("dir=") && !query.contains('&') => flake.parameter("dir")?.into(),
            Some(_) => return None,
        };
        match flake.place() {
            Place::Folder(folder) => {
                // `components` leaves no slash behind an empty name.
                let flake: PathBuf = folder.join(below).components().collect();
                let flake = flake.ancestors().find(|f| f.join("flake.nix").exists())?;
                let repository = flake.ancestors().find(|f| f.join(".git").exists());
                let root = repository.unwrap_or(flake).to_owned();
                let below = flake.strip_prefix(&root).ok()?.to_owned();
                Some(Self { root, flake: below, is_git: repository.is_some() })
            }
            Place::Url { url, folder: Some(folder) } => {
                let is_git = !url.starts_with("path:");
                let root = folder.canonicalize().ok()?;
                (!is_git || root.join(".git").exists()).then_some(Self { root, flake: below, is_git })
            }
            _ => None,
        }
    }

    /// The root of the tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it is a Git work tree: only tracked files count then.
    pub fn is_git(&self) -> bool {
        self.is_git
    }

    /// The folder of `flake.nix`, below the root.
    pub(crate) fn flake(&self) -> &Path {
        &self.flake
    }

    /// Looks at all files, but into none. What an earlier look knows of Git's index is not asked again. `None` where
    /// the tree is not all that counts.
    pub fn look(&self, earlier: Option<&Snapshot>) -> io::Result<Option<Snapshot>> {
        let now = SystemTime::now();
        let (names, index) = if self.is_git {
            let repository = Repository::at(&self.root)?;
            let Some(found) = tracked(&repository, earlier, now)? else { return Ok(None) };
            found
        } else {
            let mut names = BTreeSet::new();
            walk(&self.root, "", &mut names)?;
            (names, None)
        };
        if names.len() > MAX_FILES {
            return Ok(None);
        }
        let entry = |name: String| {
            let stamp = Stamp::of(&self.root.join(&name))?;
            // What is absent can only appear, and then there is a stamp.
            let settled = stamp.is_none_or(|s| s.is_settled(now));
            Ok((name, Entry { stamp, settled, digest: String::new() }))
        };
        let entries = names.into_iter().map(entry).collect::<io::Result<_>>()?;
        Ok(Some(Snapshot { entries, index }))
    }

    /// Reads the contents, but not of what is known from an earlier look and has not changed since.
    pub fn read(&self, now: &mut Snapshot, earlier: Option<&Snapshot>) -> io::Result<()> {
        for (name, entry) in &mut now.entries {
            let known = earlier.and_then(|e| e.entries.get(name)).filter(|e| e.settled && e.stamp == entry.stamp);
            entry.digest = match (known, entry.stamp) {
                (Some(known), _) => known.digest.clone(),
                (None, Some(stamp)) => stamp.digest(&self.root.join(name))?,
                (None, None) => String::new(),
            };
        }
        Ok(())
    }

    /// The folders in which a file of the tree can change, appear or vanish.
    pub(crate) fn folders(&self, now: &Snapshot) -> BTreeSet<PathBuf> {
        let of_entry = |(name, entry): (&String, &Entry)| {
            let path = self.root.join(name);
            match entry.stamp {
                Some(stamp) if stamp.is_folder() => Some(path),
                _ => path.parent().map(Path::to_owned),
            }
        };
        let git = Repository::at(&self.root).ok().filter(|_| self.is_git);
        let index = git.and_then(|git| git.index().parent().map(Path::to_owned));
        let all = now.entries.iter().filter_map(of_entry).chain(index).chain([self.root.clone()]);
        all.filter(|folder| folder.is_dir()).collect()
    }
}

impl Snapshot {
    /// Whether nothing has happened to any file between two looks. The files that have are told.
    pub(crate) fn touched_since<'s>(&'s self, earlier: &'s Self) -> BTreeSet<&'s str> {
        let mut touched = self.differing(earlier, |a, b| a.stamp == b.stamp);
        let stamp = |s: &Self| s.index.as_ref().map(|i| (i.stamp, i.digest.clone()));
        if stamp(self) != stamp(earlier) {
            touched.insert(GIT_INDEX);
        }
        touched
    }

    /// Whether two looks, both of which were read, saw the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let digest = |s: &Self| s.index.as_ref().map(|i| i.digest.clone());
        self.differing(other, Entry::is_same).is_empty() && digest(self) == digest(other)
    }

    /// As [`Self::is_same`], but for symlinks into the store: to them a build has its own results linked.
    pub(crate) fn is_same_but_results(&self, other: &Self, tree: &SourceTree) -> bool {
        let is_result = |name: &&str| {
            let link = tree.root.join(name);
            let was_link =
                [self, other].iter().all(|s| s.entries.get(*name).is_none_or(|e| e.stamp.is_none_or(|s| s.is_link())));
            was_link && (!link.exists() || link.read_link().is_ok_and(|to| to.starts_with("/nix/store")))
        };
        let digest = |s: &Self| s.index.as_ref().map(|i| i.digest.clone());
        self.differing(other, Entry::is_same).iter().all(is_result) && digest(self) == digest(other)
    }

    /// The files of either that are not there, or not alike, in the other.
    fn differing<'s>(&'s self, other: &'s Self, alike: impl Fn(&Entry, &Entry) -> bool) -> BTreeSet<&'s str> {
        let names = self.entries.keys().chain(other.entries.keys());
        names
            .filter(|name| match (self.entries.get(*name), other.entries.get(*name)) {
                (Some(a), Some(b)) => !alike(a, b),
                _ => true,
            })
            .map(String::as_str)
            .collect()
    }
}

/// What stands for Git's index among the names of files; no file is called so.
pub(crate) const GIT_INDEX: &str = "";

impl Entry {
    fn is_same(&self, other: &Self) -> bool {
        self.stamp.map(|s| s.nature()) == other.stamp.map(|s| s.nature()) && self.digest == other.digest
    }
}

type Tracked = (BTreeSet<String>, Option<Index>);

/// The tracked files, and what tells the commit. Git is asked only where its index has changed.
fn tracked(repository: &Repository, earlier: Option<&Snapshot>, now: SystemTime) -> io::Result<Option<Tracked>> {
    let witnesses = repository.witnesses()?.into_iter().map(|path| utf8(path.into_os_string()));
    let witnesses = witnesses.collect::<io::Result<Vec<_>>>()?;
    let stamp = Stamp::of(&repository.index())?;
    let settled = stamp.is_some_and(|s| s.is_settled(now));
    let known = earlier.and_then(|e| Some((e, e.index.as_ref().filter(|i| i.settled && i.stamp == stamp)?)));
    let (mut names, digest) = match known {
        Some((earlier, index)) => {
            let below = earlier.entries.keys().filter(|name| !name.starts_with('/')).cloned();
            (below.collect::<BTreeSet<_>>(), index.digest.clone())
        }
        None => {
            let Some(listing) = repository.list()? else { return Ok(None) };
            (listing.files.into_iter().collect(), stamp::digest(&listing.text))
        }
    };
    names.extend(witnesses);
    Ok(Some((names, Some(Index { stamp, settled, digest }))))
}

/// Everything below a folder.
fn walk(root: &Path, below: &str, names: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in root.join(below).read_dir()? {
        let entry = entry?;
        let name = utf8(entry.file_name())?;
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            walk(root, &name, names)?;
        }
        names.insert(name);
        if names.len() > MAX_FILES {
            break;
        }
    }
    Ok(())
}

fn utf8(name: std::ffi::OsString) -> io::Result<String> {
    name.into_string().map_err(|_| io::ErrorKind::InvalidData.into())
}
