//! What Nix sees of a Git work tree: the files that Git tracks, as they are in the work tree, and the commit below them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A submodule's mode in the index; its content is in a repository of its own.
const SUBMODULE: &[u8] = b"160000";
/// Longer symbolic refs and `.git` files are not read.
const MAX_POINTER: usize = 4096;

/// A repository with its work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// The root of the work tree.
    root: PathBuf,
    /// HEAD and index of this work tree.
    own: PathBuf,
    /// Branches and settings, which linked work trees share.
    common: PathBuf,
}

/// What `git ls-files` says.
pub(crate) struct Listing {
    /// All of it: modes, digests of what is staged, and names.
    pub text: Vec<u8>,
    /// The names, below the root.
    pub files: Vec<String>,
}

impl Repository {
    /// The repository whose work tree begins at `root`. The layout is Git's (gitrepository-layout(5)).
    pub fn at(root: &Path) -> io::Result<Self> {
        let git = root.join(".git");
        let own = if git.is_dir() {
            git
        } else {
            let text = pointer(&git)?;
            root.join(text.strip_prefix("gitdir: ").ok_or(io::ErrorKind::InvalidData)?)
        };
        let common = match pointer(&own.join("commondir")) {
            Ok(text) => own.join(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => own.clone(),
            Err(e) => return Err(e),
        };
        Ok(Self { root: root.to_owned(), own, common })
    }

    /// The file that changes whenever a file is added, removed or staged, and at other times too.
    pub fn index(&self) -> PathBuf {
        self.own.join("index")
    }

    /// Files, some of which may not be there, that tell the commit and how Git compares it with the work tree.
    pub fn witnesses(&self) -> io::Result<Vec<PathBuf>> {
        let head = self.own.join("HEAD");
        let mut all = vec![
            self.common.join("packed-refs"),
            self.common.join("config"),
            self.common.join("reftable/tables.list"),
            self.own.join("config.worktree"),
            self.common.join("info/attributes"),
            self.common.join("shallow"),
        ];
        if let Some(branch) = pointer(&head)?.strip_prefix("ref: ") {
            all.push(self.common.join(branch));
        }
        all.push(head);
        Ok(all)
    }

    /// Asks Git for the tracked files. `None` where they are not all there is to it: with submodules.
    pub fn list(&self) -> io::Result<Option<Listing>> {
        let mut git = Command::new("git");
        // What Nix would ask for, but without the repository's own hooks.
        git.arg("-C").arg(&self.root).args(["-c", "core.fsmonitor=false", "ls-files", "--stage", "-z"]);
        git.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0").stdin(Stdio::null()).stderr(Stdio::null());
        let out = git.output()?;
        if !out.status.success() {
            return Err(io::Error::other(format!("git ls-files: {}", out.status)));
        }
        let mut files = Vec::new();
        // MODE DIGEST STAGE<TAB>NAME<NUL>
        for line in out.stdout.split(|b| *b == 0).filter(|l| !l.is_empty()) {
            let tab = line.iter().position(|b| *b == b'\t').ok_or(io::ErrorKind::InvalidData)?;
            let (about, name) = (line.get(..tab).unwrap_or_default(), line.get(tab + 1..).unwrap_or_default());
            if about.starts_with(SUBMODULE) || name == b".gitmodules" {
                return Ok(None);
            }
            let name = std::str::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
            // A name in conflict is there once for each side.
            if files.last().is_none_or(|last| last != name) {
                files.push(name.to_owned());
            }
        }
        Ok(Some(Listing { text: out.stdout, files }))
    }
}

/// The line in a file that names another.
fn pointer(path: &Path) -> io::Result<String> {
    let bytes = std::fs::read(path)?;
    if bytes.len() > MAX_POINTER {
        return Err(io::ErrorKind::InvalidData.into());
    }
    String::from_utf8(bytes).map(|text| text.trim_end().to_owned()).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(folder: &Path, args: &[&str]) {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).args([
            "-c",
            "user.name=me",
            "-c",
            "user.email=me@host",
            "-c",
            "protocol.file.allow=always",
        ]);
        let done = git.args(args).output().unwrap();
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    #[test]
    fn tracked_files_and_the_commit_are_found_in_linked_work_trees_too() {
        let temp = tempfile::tempdir().unwrap();
        let main = temp.path().join("main");
        std::fs::create_dir(&main).unwrap();
        git(&main, &["init", "-q", "-b", "trunk"]);
        std::fs::write(main.join("odd\nname"), "").unwrap();
        std::fs::write(main.join("untracked"), "").unwrap();
        git(&main, &["add", "odd\nname"]);
        git(&main, &["commit", "-q", "-m", "x"]);
        git(&main, &["worktree", "add", "-q", "../linked"]);
        for (name, branch) in [("main", "trunk"), ("linked", "linked")] {
            let repository = Repository::at(&temp.path().join(name)).unwrap();
            assert_eq!(repository.list().unwrap().unwrap().files, ["odd\nname"], "{name}");
            assert!(repository.index().is_file(), "{name}");
            let witnesses = repository.witnesses().unwrap();
            let branch = format!("refs/heads/{branch}");
            assert!(witnesses.iter().any(|w| w.ends_with(&branch) && w.is_file()), "{name}: {witnesses:?}");
        }
        assert!(Repository::at(temp.path()).is_err());
    }

    #[test]
    fn submodules_are_beyond_it() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["inner", "outer"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
            git(&temp.path().join(name), &["init", "-q"]);
            git(&temp.path().join(name), &["commit", "-q", "--allow-empty", "-m", "x"]);
        }
        let outer = temp.path().join("outer");
        git(&outer, &["submodule", "--quiet", "add", "../inner"]);
        assert!(Repository::at(&outer).unwrap().list().unwrap().is_none());
    }
}
