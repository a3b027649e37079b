//! Files that are there, but that Nix does not see because Git does not know them.

use crate::flake_ref::FlakeRef;
use crate::sources::SourceTree;
use std::path::Path;

/// Advice where a message of Nix is about such a file of a local flake.
pub(crate) fn advice(message: &str, flake: &FlakeRef) -> Option<String> {
    let tree = SourceTree::of(flake).filter(SourceTree::is_git)?;
    let file = missing_in_store(message).or_else(|| named_by_nix(message))?;
    let is_there = |file: &&str| Path::new(file).is_relative() && tree.root().join(file).exists();
    let file = Some(file).filter(is_there)?;
    Some(format!(
        "Nix sees only files that Git knows: `git -C {} add {file}` (no commit is needed)",
        tree.root().display()
    ))
}

/// Up to Nix 2.26 a file is missing in the copy of the tree: `'/nix/store/…-source/FILE'`.
fn missing_in_store(message: &str) -> Option<&str> {
    // The error itself is the last that Nix says; what comes before tells how it got there.
    let (_, file) = message.rsplit_once("-source/")?;
    let (file, rest) = file.split_once('\'')?;
    ["does not exist", "No such file or directory"].iter().any(|words| rest.contains(words)).then_some(file)
}

/// Later ones say it: `Path 'FILE' in the repository "…" is not tracked by Git.`
fn named_by_nix(message: &str) -> Option<&str> {
    let (before, _) = message.split_once("is not tracked by Git")?;
    let (_, file) = before.rsplit_once("Path '")?;
    file.split_once('\'').map(|(file, _)| file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureLog;

    /// All recorded versions are understood, where it is so.
    #[test]
    fn the_file_is_found_in_what_each_version_says() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join(".git")).unwrap();
        std::fs::write(temp.path().join("flake.nix"), "").unwrap();
        let flake = FlakeRef::parse(temp.path().to_str().unwrap(), Path::new("/"), None).unwrap();
        let samples: Vec<_> =
            crate::build::tests::samples("events").filter(|s| s.file.starts_with("untracked")).collect();
        assert_eq!(samples.len(), 6);
        for sample in samples {
            let message = FailureLog::replay(&sample.bytes).message;
            let file = if sample.file == "untracked" { "flake.nix" } else { "outputs.nix" };
            if sample.file == "untracked-import" {
                assert_eq!(advice(&message, &flake), None, "{}: it is nowhere", sample.name);
            }
            std::fs::write(temp.path().join(file), "").unwrap();
            let advice = advice(&message, &flake).unwrap_or_else(|| panic!("{}: {message}", sample.name));
            assert!(advice.contains(&format!("add {file}`")), "{}: {advice}", sample.name);
            let _ = std::fs::remove_file(temp.path().join("outputs.nix"));
        }
        assert_eq!(advice("error: path '/nix/store/x-source/../flake.nix' is odd", &flake), None);
    }
}
