//! The flakes of `templates/`, embedded, so that a project is begun without Nix and without network.

use clap::builder::{PossibleValue, PossibleValuesParser};
use mvm_nix::FlakeRef;
use std::collections::BTreeMap;

/// Which of them are offered, each with its description: the Nix side says so.
const INDEX: &str = include_str!("../templates/index.json");
/// What their `flake.nix` says where mvm comes from.
const IN_REGISTRY: &str = "\"flake:mvm\"";
/// What their README says of it.
const ASKS_REGISTRY: &str =
    "`mvm` is looked up in Nix's registry: `nix registry add mvm REF` once, or write the ref into `flake.nix`.";

/// A flake to start from.
#[derive(Debug)]
pub(crate) struct Preset {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
}

macro_rules! preset {
    ($name:literal, $($file:literal),+) => {
        Preset { name: $name, files: &[$(($file, include_str!(concat!("../templates/", $name, "/", $file)))),+] }
    };
}

const PRESETS: [Preset; 7] = [
    preset!("http", "README.md", "flake.nix", "site/index.html"),
    preset!("minimal", "README.md", "flake.nix", "guest.nix"),
    preset!("nixos", "README.md", "configuration.nix", "flake.nix"),
    preset!("node", "README.md", "app/server.js", "flake.nix"),
    preset!("postgres", "README.md", "flake.nix", "guest.nix"),
    preset!("python", "README.md", "app/main.py", "flake.nix"),
    preset!("worker", "README.md", "flake.nix", "guest.nix", "job.sh"),
];

impl Preset {
    /// The one of this name; those that are not offered are not found.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name && offered().contains_key(name))
    }

    /// Its files, by path, with mvm from this flake.
    pub(crate) fn files(&self, mvm: &FlakeRef) -> Vec<(&'static str, String)> {
        let of_readme = format!("`mvm` is `{mvm}`, as `flake.nix` says; `nix flake update` looks for a newer one.");
        let written = |content: &str| content.replace(IN_REGISTRY, &quoted(mvm)).replace(ASKS_REGISTRY, &of_readme);
        self.files.iter().map(|(path, content)| (*path, written(content))).collect()
    }
}

/// The values of an option that chooses one.
pub(crate) fn parser() -> PossibleValuesParser {
    offered()
        .into_iter()
        .map(|(name, description)| PossibleValue::new(name).help(description))
        .collect::<Vec<_>>()
        .into()
}

/// Names and descriptions.
fn offered() -> BTreeMap<&'static str, &'static str> {
    // It is a part of the program, and a test reads it.
    serde_json::from_str(INDEX).unwrap_or_default()
}

/// A string of the Nix language (Nix manual, "String literals").
fn quoted(text: &FlakeRef) -> String {
    let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${");
    format!("\"{text}\"")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn mvm() -> FlakeRef {
        "github:me/mvm".parse().unwrap()
    }

    fn below(folder: &Path) -> Vec<PathBuf> {
        let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn all_that_lies_there_is_embedded() {
        let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let mut there: Vec<String> = below(&templates)
            .iter()
            .map(|path| path.strip_prefix(&templates).unwrap().to_str().unwrap().to_owned())
            .filter(|path| path.contains('/'))
            .collect();
        there.sort();
        let embedded: Vec<String> =
            PRESETS.iter().flat_map(|p| p.files.iter().map(|(file, _)| format!("{}/{file}", p.name))).collect();
        assert_eq!(embedded, there);
    }

    #[test]
    fn what_is_offered_is_there() {
        let offered: BTreeMap<String, String> = serde_json::from_str(INDEX).unwrap();
        assert!(offered.len() >= 6);
        assert!(offered.keys().all(|name| Preset::find(name).is_some()));
        for preset in &PRESETS {
            assert_eq!(Preset::find(preset.name).is_some(), offered.contains_key(preset.name));
        }
    }

    #[test]
    fn each_says_where_mvm_comes_from() {
        for preset in &PRESETS {
            let files: BTreeMap<_, _> = preset.files(&mvm()).into_iter().collect();
            let name = preset.name;
            assert!(files["flake.nix"].contains("inputs.mvm.url = \"github:me/mvm\";"), "{name}");
            assert!(files["README.md"].contains("`github:me/mvm`"), "{name}");
            for (file, content) in &files {
                assert!(!content.contains("flake:mvm") && !content.contains("registry"), "{name}/{file}: {content}");
            }
        }
    }

    #[test]
    fn a_ref_is_written_as_a_string_of_nix() {
        let flake = FlakeRef::parse("/a\\b/\"c\"/${d}", Path::new("/"), None).unwrap();
        assert_eq!(quoted(&flake), "\"/a\\\\b/\\\"c\\\"/\\${d}\"");
    }
}
