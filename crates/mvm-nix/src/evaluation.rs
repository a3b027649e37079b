//! Evaluations that are remembered: as long as nothing has changed that one has read, Nix need not be started for its
//! answer.
//!
//! ```text
//! flake ref, attribute, system ── name of the file ─┐
//! Nix program, NIX_*, nix.conf ── digest ───────────┤  the same as when it was remembered
//! source tree ── stamps, else digests ──────────────┤
//! output ── its stamp: neither collected nor remade ┘  ⇒ the answer
//! ```
//! What cannot be told for certain is not remembered: trees with submodules, inputs that are not locked, refs of branches.

use crate::build::BuildRequest;
use crate::cli::Nix;
use crate::flake_ref::{FlakeRef, Place};
use crate::lock_file;
use crate::output::Realised;
use crate::settings;
use crate::sources::{GIT_INDEX, Snapshot, SourceTree};
use crate::stamp::{self, Stamp};
use nix_derivation::StorePath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files of another format are passed over.
const SCHEMA: u32 = 1;
/// Evaluations that are kept, and bytes of one; the oldest go first.
const MAX_KEPT: usize = 128;
const MAX_BYTES: u64 = 16 << 20;
/// Characters of a revision: nothing else names one commit for all times.
const REVISION: usize = 40;

/// Where an answer may be found, and what it depends on.
#[derive(Debug, Clone)]
pub(crate) struct Evaluation {
    file: PathBuf,
    tree: Option<SourceTree>,
    settings: String,
}

/// What lies in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    schema: u32,
    settings: String,
    sources: Option<Snapshot>,
    derivation: Option<String>,
    output: String,
    path: String,
    /// Of the output as it was: one that was collected and made again, by halves perhaps, has another.
    stamp: Stamp,
}

/// The state of things before an evaluation.
#[derive(Debug)]
pub(crate) struct Before {
    evaluation: Evaluation,
    sources: Option<Snapshot>,
    /// What was known of the sources; `None` where they have been read.
    unread: Option<Option<Snapshot>>,
}

/// What memory says.
pub(crate) enum Recalled {
    /// The answer: nothing has changed.
    Answer(Realised),
    /// Nothing; and what there was before Nix looks, where its answer can be remembered.
    Nothing(Option<Box<Before>>),
}

impl Evaluation {
    /// What is asked of Nix by a request whose flake was located. `None` where its answer cannot be remembered.
    pub fn of(nix: &Nix, request: &BuildRequest, flake: &FlakeRef) -> Option<Self> {
        let folder = request.evaluations.as_ref().filter(|_| request.extra_args.is_empty())?;
        let tree = match SourceTree::of(flake) {
            None if !is_locked(flake) => return None,
            tree => tree,
        };
        let settings = settings::digest(nix).inspect_err(|error| tracing::debug!(%error, "unknown settings")).ok()?;
        let name = stamp::digest(format!("{flake}\0{}", request.system.as_deref().unwrap_or_default()).as_bytes());
        Some(Self { file: folder.join(format!("{name}.json")), tree, settings })
    }

    /// Looks at everything, and so finds out whether an answer that is remembered still holds. With `refresh` none does.
    pub fn recall(self, refresh: bool) -> Recalled {
        let mut kept = self.kept();
        let known = kept.as_mut().and_then(|kept| kept.sources.take());
        let mut sources = match &self.tree {
            Some(tree) => match tree.look(known.as_ref()) {
                Ok(Some(now)) => Some(now),
                _ => return Recalled::Nothing(None),
            },
            None => None,
        };
        let kept = kept.filter(|kept| !refresh && kept.settings == self.settings);
        let Some(kept) = kept.filter(|_| known.is_some() == sources.is_some()) else {
            return Recalled::Nothing(Some(Box::new(Before { evaluation: self, sources, unread: Some(known) })));
        };
        if let (Some(tree), Some(now)) = (&self.tree, &mut sources)
            && tree.read(now, known.as_ref()).is_err()
        {
            return Recalled::Nothing(None);
        }
        let is_same = match (&sources, &known) {
            (Some(now), Some(known)) => now.is_same(known),
            _ => true,
        };
        match kept.answer().filter(|_| is_same) {
            Some(answer) => {
                // Next time the stamps alone will do.
                if sources != known {
                    self.keep(&Kept { sources, ..kept });
                }
                Recalled::Answer(answer)
            }
            None => Recalled::Nothing(Some(Box::new(Before { evaluation: self, sources, unread: None }))),
        }
    }

    fn kept(&self) -> Option<Kept> {
        let open = std::fs::File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&self.file);
        let file = open.ok()?;
        let about = file.metadata().ok()?;
        // Only what we have written ourselves is believed.
        if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
            return None;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(about.len().min(MAX_BYTES)).ok()? + 1);
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.schema == SCHEMA).then_some(kept)
    }

    /// Writes an answer down. Not being able to costs time, nothing else.
    fn keep(&self, kept: &Kept) {
        let write = || -> io::Result<()> {
            let folder = self.file.parent().ok_or(io::ErrorKind::InvalidInput)?;
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let bytes = serde_json::to_vec(kept)?;
            if bytes.len() as u64 > MAX_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&bytes)?;
            file.persist(&self.file).map_err(|e| e.error)?;
            drop_oldest(folder)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, file = %self.file.display(), "the evaluation is not remembered");
        }
    }
}

impl Kept {
    /// The answer, if the output is still what it was.
    fn answer(&self) -> Option<Realised> {
        if Stamp::of(Path::new(&self.path)).ok()?? != self.stamp {
            return None;
        }
        let store_path = |path: &str| StorePath::from_absolute_path(path.as_bytes());
        let derivation = self.derivation.as_deref().map(store_path).transpose().ok()?;
        Some(Realised { derivation, outputs: BTreeMap::from([(self.output.clone(), store_path(&self.path).ok()?)]) })
    }
}

impl Before {
    /// Reads the contents that the evaluation will see; meant to be done while Nix runs, in which nothing may change.
    pub fn read(mut self) -> io::Result<Self> {
        if let (Some(known), Some(tree), Some(sources)) = (self.unread.take(), &self.evaluation.tree, &mut self.sources)
        {
            tree.read(sources, known.as_ref())?;
        }
        Ok(self)
    }

    /// Remembers an answer, if nothing has changed while Nix was looking for it. `lock_trouble` says that Nix has
    /// complained about a lock file, which it does where it cannot lock an input.
    pub fn remember(self, nix: &Nix, answer: &Realised, lock_trouble: bool) {
        let Self { evaluation, sources, .. } = self;
        let settings = evaluation.settings.clone();
        let [(output, path)] = answer.outputs.iter().collect::<Vec<_>>()[..] else { return };
        let path = path.to_absolute_path();
        let Ok(Some(stamp)) = Stamp::of(Path::new(&path)) else { return };
        let is_certain = settings::digest(nix).is_ok_and(|now| now == settings);
        let sources = match (&evaluation.tree, sources) {
            (Some(tree), Some(before)) => match settled(tree, before, lock_trouble) {
                Some(sources) => Some(sources),
                None => return,
            },
            _ if lock_trouble => return,
            _ => None,
        };
        if is_certain {
            let derivation = answer.derivation.as_ref().map(StorePath::to_absolute_path);
            evaluation.keep(&Kept {
                schema: SCHEMA,
                settings,
                sources,
                derivation,
                output: output.clone(),
                path,
                stamp,
            });
        }
    }
}

/// What the evaluation has seen, if that is certain: nothing has changed since `before`, other than that Nix has written
/// the lock file; and all inputs are locked.
fn settled(tree: &SourceTree, before: Snapshot, lock_trouble: bool) -> Option<Snapshot> {
    let mut after = tree.look(Some(&before)).ok()??;
    let lock = tree.flake().join("flake.lock");
    let lock_name = lock.to_str()?;
    let touched = after.touched_since(&before);
    // Nix writes a lock file only where it has locked everything, and makes Git know it.
    let is_locked_now = touched.contains(lock_name);
    if !touched.iter().all(|name| is_locked_now && [lock_name, GIT_INDEX].contains(name)) {
        return None;
    }
    if lock_trouble && !is_locked_now {
        return None;
    }
    match std::fs::read(tree.root().join(&lock)) {
        Ok(text) if lock_file::locks_everything(&text, tree.flake()) => {}
        // No input, then: else Nix would have written one, or complained.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        _ => return None,
    }
    if is_locked_now {
        tree.read(&mut after, Some(&before)).ok()?;
        return Some(after);
    }
    Some(before)
}

/// Whether a ref that is not local names one content for all times: a commit. (Of a `path:` or a tarball `rev` is only
/// what somebody says.)
fn is_locked(flake: &FlakeRef) -> bool {
    let is_revision = |text: &str| text.len() == REVISION && text.bytes().all(|b| b.is_ascii_hexdigit());
    let Place::Url { url, .. } = flake.place() else { return false };
    let forge = ["github:", "gitlab:", "sourcehut:"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let revision = match forge.and_then(|path| path.split('/').nth(2)) {
        Some(revision) => Some(revision.to_owned()),
        None if forge.is_some() || url.starts_with("git+") => flake.parameter("rev"),
        None => None,
    };
    revision.is_some_and(|revision| is_revision(&revision))
}

/// Removes all but the newest files.
fn drop_oldest(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let too_many = files.len().saturating_sub(MAX_KEPT);
    for (_, path) in files.drain(..too_many) {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_locked_ref(text: &str) -> bool {
        is_locked(&FlakeRef::parse(text, Path::new("/"), None).unwrap())
    }

    #[test]
    fn only_a_revision_stays_what_it_is() {
        let rev = "0123456789abcdef0123456789abcdef01234567";
        for text in ["github:o/r/REV#a", "github:o/r?rev=REV", "git+https://h/r?ref=x&rev=REV", "git+file:///r?rev=REV"]
        {
            assert!(is_locked_ref(&text.replace("REV", rev)), "{text}");
        }
        for text in [
            "github:o/r",
            "github:o/r/main",
            "github:o/r/main?rev=REV",
            "nixpkgs",
            "git+https://h/r?ref=x",
            "https://h/x.tar.gz?rev=REV",
            "path:/x?rev=REV",
            "/x?rev=REV",
        ] {
            assert!(!is_locked_ref(&text.replace("REV", rev)), "{text}");
        }
    }

    fn kept(path: &str) -> Kept {
        let stamp = Stamp::of(Path::new("/")).unwrap().unwrap();
        let text = |text: &str| text.to_owned();
        Kept {
            schema: SCHEMA,
            settings: text("s"),
            sources: None,
            derivation: None,
            output: text("out"),
            path: text(path),
            stamp,
        }
    }

    fn evaluation(folder: &Path, name: &str) -> Evaluation {
        Evaluation { file: folder.join(name), tree: None, settings: "s".into() }
    }

    #[test]
    fn what_is_not_ours_is_passed_over() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("made");
        let ours = evaluation(&folder, "x.json");
        assert!(ours.kept().is_none());
        ours.keep(&kept("/nix/store/x"));
        assert!(ours.kept().is_some());
        assert_eq!(ours.file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700);
        let good = std::fs::read_to_string(&ours.file).unwrap();
        for bad in ["", "{", "7", &good[..good.len() / 2], &good.replace("\"schema\":1", "\"schema\":2")] {
            std::fs::write(&ours.file, bad).unwrap();
            assert!(matches!(ours.clone().recall(false), Recalled::Nothing(_)), "{bad}");
        }
        std::fs::write(&ours.file, &good).unwrap();
        assert!(ours.kept().is_some());
        std::os::unix::fs::symlink(&ours.file, folder.join("link.json")).unwrap();
        assert!(evaluation(&folder, "link.json").kept().is_none());
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&ours.file, all).unwrap();
        assert!(ours.kept().is_none(), "anybody could have written it");
    }

    #[test]
    fn an_answer_that_is_no_store_path_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let one = evaluation(temp.path(), "x.json");
        one.keep(&kept("/"));
        assert!(one.kept().is_some());
        assert!(matches!(one.recall(false), Recalled::Nothing(_)));
    }

    #[test]
    fn an_output_that_was_made_again_is_no_answer() {
        let Some(path) = Path::new("/nix/store").read_dir().ok().and_then(|mut store| {
            store.find_map(|e| {
                let path = e.ok()?.path().to_str()?.to_owned();
                StorePath::from_absolute_path(path.as_bytes()).ok().map(|_| path)
            })
        }) else {
            println!("not run: /nix/store is empty");
            return;
        };
        let stamp = Stamp::of(Path::new(&path)).unwrap().unwrap();
        assert!(Kept { stamp, ..kept(&path) }.answer().is_some());
        assert!(kept(&path).answer().is_none(), "another inode");
        let gone = format!("{path}-gone");
        assert!(Kept { stamp, ..kept(&gone) }.answer().is_none());
    }

    #[test]
    fn the_oldest_are_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
        for at in 0..MAX_KEPT {
            let file = std::fs::File::create(temp.path().join(format!("{at}.json"))).unwrap();
            file.set_modified(earlier + std::time::Duration::from_secs(at as u64)).unwrap();
        }
        evaluation(temp.path(), "new.json").keep(&kept("/nix/store/x"));
        assert_eq!(temp.path().read_dir().unwrap().count(), MAX_KEPT);
        assert!(temp.path().join("new.json").exists() && !temp.path().join("0.json").exists());
    }
}
