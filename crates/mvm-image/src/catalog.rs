//! The images that come with mvm, as they were when this mvmctl was built: to list and to search them needs neither Nix
//! nor a network.

use crate::error::ImageError;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// `scripts/check-nix.sh` writes it from `catalog/`, and fails where the two differ.
const INDEX: &str = include_str!("../../../catalog/index.json");
/// Names are near from here on: one typing error in three letters. The same names have 1.
const NEAR: f64 = 0.6;
/// Most names that are offered for one that does not exist.
const OFFERED: usize = 3;

/// What is told of an image before it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatalogEntry {
    /// Its name.
    pub name: String,
    /// What it is, in a line.
    pub description: String,
    /// What it is among the others, as in `database`.
    pub category: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The ports that its services listen at in the guest.
    pub ports: Vec<u16>,
    /// What it is written in: `guest` (mvm's modules) or `nixos`.
    pub kind: String,
}

/// Every image of the catalog, by name.
pub fn catalog() -> &'static [CatalogEntry] {
    #[expect(clippy::expect_used, reason = "a test reads the same bytes")]
    static ENTRIES: LazyLock<Vec<CatalogEntry>> =
        LazyLock::new(|| serde_json::from_str(INDEX).expect("catalog/index.json is what check-nix.sh wrote"));
    &ENTRIES
}

/// One image of the catalog.
pub fn catalog_entry(name: &str) -> Option<&'static CatalogEntry> {
    catalog().iter().find(|entry| entry.name == name)
}

/// One image of the catalog, or else those that may have been meant.
pub fn find_in_catalog(name: &str) -> Result<&'static CatalogEntry, ImageError> {
    catalog_entry(name).ok_or_else(|| ImageError::NotInCatalog {
        name: name.into(),
        near: nearest(name, catalog().iter().map(|entry| entry.name.as_str())).into_iter().map(String::from).collect(),
    })
}

impl CatalogEntry {
    /// Whether each of the words is somewhere in its name, tags, description or category. Case does not count.
    pub fn matches(&self, words: &[String]) -> bool {
        let Self { name, description, category, tags, .. } = self;
        let texts: Vec<String> =
            [name, description, category].into_iter().chain(tags).map(|text| text.to_lowercase()).collect();
        words.iter().all(|word| texts.iter().any(|text| text.contains(&word.to_lowercase())))
    }
}

/// Those of the known names that may have been meant, the nearest first.
pub fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    // What is too long for a name is near none, and would take long to compare.
    let name: String = name.chars().take(64).collect::<String>().to_lowercase();
    let mut near: Vec<(f64, &str)> = known
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .collect();
    near.sort_by(|(a, x), (b, y)| b.total_cmp(a).then(x.cmp(y)));
    near.dedup_by_key(|(_, candidate)| *candidate);
    near.into_iter().take(OFFERED).map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_core::ImageName;

    #[test]
    fn the_index_is_read_and_its_names_can_be_fetched() {
        let entries = catalog();
        assert!(entries.len() >= 8);
        assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        for CatalogEntry { name, description, category, .. } in entries {
            assert!(ImageName::new(name).is_ok(), "{name}");
            assert!(!description.is_empty() && !category.is_empty(), "{name}");
        }
        assert_eq!(catalog_entry("http").unwrap().ports, [8080]);
        assert_eq!(catalog_entry("HTTP"), None);
    }

    #[test]
    fn every_word_has_to_be_found() {
        let found = |words: &[&str]| -> Vec<&str> {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            catalog().iter().filter(|entry| entry.matches(&words)).map(|entry| entry.name.as_str()).collect()
        };
        // Its tag, a word of its description, its category, its name.
        assert_eq!(found(&["web"]), ["http"]);
        assert_eq!(found(&["compiler"]), ["dev"]);
        assert_eq!(found(&["DATABASE"]), ["postgres", "redis"]);
        assert_eq!(found(&["database", "sql"]), ["postgres"]);
        assert_eq!(found(&["postgr"]), ["postgres"]);
        assert_eq!(found(&["database", "web"]), [""; 0]);
    }

    #[test]
    fn typing_errors_are_near() {
        let names = || catalog().iter().map(|entry| entry.name.as_str());
        for (typed, meant) in [("htpp", "http"), ("postgresql", "postgres"), ("Redis", "redis"), ("pyhton", "python")] {
            assert_eq!(nearest(typed, names()).first(), Some(&meant), "{typed}");
        }
        assert_eq!(nearest("zzz", names()), [""; 0]);
        assert_eq!(nearest("", names()), [""; 0]);
        assert_eq!(nearest(&"http".repeat(100_000), names()), [""; 0]);
        assert_eq!(nearest("web", ["web", "web"]), ["web"]);
    }
}
