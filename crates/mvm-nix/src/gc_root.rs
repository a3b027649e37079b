//! GC roots: links that keep store paths from Nix's garbage collector.
//!
//! `nix build --out-link LINK` makes LINK and registers it as an indirect root. As long as LINK is there and
//! points into the store, the path and all it needs stay; once LINK is gone the registration is void.

use crate::error::NixError;
use nix_derivation::{HashAlgorithm, StorePath, nixbase32};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A link that keeps one build's outputs. Dropping it keeps the link: a VM outlives the command that built it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct GcRoot {
    link: PathBuf,
}

impl GcRoot {
    /// The root that a build at `link` has made, now or in an earlier life of this process.
    pub fn at(link: impl Into<PathBuf>) -> Self {
        Self { link: link.into() }
    }

    /// The link itself.
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// The store path that it keeps; `None` where the link is gone or leads elsewhere.
    pub fn target(&self) -> Option<StorePath> {
        store_target(&self.link)
    }

    /// Whether the link leads to this path and Nix knows it: so the path is kept without asking Nix. `state` is Nix's
    /// state folder, usually `/nix/var/nix`. Where this cannot be told, the answer is no.
    pub(crate) fn keeps(&self, path: &StorePath, state: &Path) -> bool {
        // Nix names its link to ours by the digest of our link's place.
        let digest = nix_derivation::hash_bytes(HashAlgorithm::Sha1, self.link.as_os_str().as_encoded_bytes());
        let known = state.join("gcroots/auto").join(nixbase32::encode(digest.digest_as_bytes()));
        self.target().as_ref() == Some(path) && std::fs::read_link(known).is_ok_and(|to| to == self.link)
    }

    /// Removes the link, and the links of further outputs beside it (`LINK-dev`). What is not a link into the
    /// store is not ours and stays. No link is no error.
    pub fn release(self) -> Result<(), NixError> {
        let failed = |path: &Path, source| NixError::GcRoot { what: "release", path: path.to_owned(), source };
        let (Some(folder), Some(name)) = (self.link.parent(), self.link.file_name().and_then(|n| n.to_str())) else {
            return Ok(());
        };
        let main = self.target();
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(folder, error)),
        };
        for entry in entries {
            let path = entry.map_err(|e| failed(folder, e))?.path();
            let is_ours = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(name));
            let Some(output) = is_ours else { continue };
            // LINK, or LINK-OUTPUT, which leads to NAME-OUTPUT where LINK leads to NAME: `web` must not release `web-2`.
            let is_output_of_it = |target: &StorePath| match &main {
                Some(main) => target.name().strip_prefix(main.name()) == Some(output),
                None => target.name().ends_with(output),
            };
            let belongs = match store_target(&path) {
                Some(target) => output.is_empty() || (output.starts_with('-') && is_output_of_it(&target)),
                None => false,
            };
            if !belongs {
                continue;
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&path, error)),
                _ => tracing::debug!(link = %path.display(), "GC root released"),
            }
        }
        Ok(())
    }
}

fn store_target(link: &Path) -> Option<StorePath> {
    let target = std::fs::read_link(link).ok()?;
    StorePath::from_absolute_path(target.as_os_str().as_encoded_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const STORE: &str = "/nix/store/s2kz6w3dx6xmxwccr55yf4lj2x1chxfh-web";

    #[test]
    fn only_its_own_links_are_released() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let another = STORE.replace("-web", "-mvm-minimal");
        for (name, target) in [
            ("web", STORE.to_owned()),
            ("web-dev", format!("{STORE}-dev")),
            ("web-2", STORE.to_owned()),
            ("web-minimal", another),
        ] {
            symlink(target, at(name)).unwrap();
        }
        symlink("/etc/passwd", at("web-passwd")).unwrap();
        std::fs::write(at("web-file"), "mine").unwrap();
        let root = GcRoot::at(at("web"));
        assert_eq!(root.target().unwrap().name(), "web");
        root.release().unwrap();
        let left: std::collections::BTreeSet<_> =
            folder.path().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(left, ["web-2", "web-file", "web-minimal", "web-passwd"].map(String::from).into());
        GcRoot::at(at("web")).release().unwrap();
        GcRoot::at(at("no/such/folder/web")).release().unwrap();
        let file = GcRoot::at(at("web-file"));
        assert_eq!(file.target(), None);
        file.release().unwrap();
        assert!(at("web-file").exists());
    }
}
