//! What `nix build --json` prints on stdout, as Nix 2.8, 2.26 and 2.34 print it.
//!
//! ```text
//! 2.8    [{"drvPath":"…","outputs":{"out":"…"}}]   store path: [{"path":"…"}]
//! 2.26   the same, with times when it built        store path: ["…"]
//! 2.34   the same                                  store path: ["…"]
//! ```

use crate::error::NixError;
use nix_derivation::StorePath;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Bare(String),
    Built(Built),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Built {
    drv_path: Option<String>,
    path: Option<String>,
    /// An output that content addressing has not resolved is null.
    #[serde(default)]
    outputs: BTreeMap<String, Option<String>>,
}

/// One built installable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Realised {
    pub derivation: Option<StorePath>,
    pub outputs: BTreeMap<String, StorePath>,
}

/// Reads the whole of stdout.
pub(crate) fn parse(stdout: &[u8]) -> Result<Vec<Realised>, NixError> {
    let entries: Vec<Entry> = serde_json::from_slice(stdout).map_err(|error| NixError::Output {
        reason: error.to_string(),
        text: String::from_utf8_lossy(stdout.get(..200).unwrap_or(stdout)).into_owned(),
    })?;
    entries.into_iter().map(realised).collect()
}

fn realised(entry: Entry) -> Result<Realised, NixError> {
    let built = match entry {
        Entry::Bare(path) => Built { drv_path: None, path: Some(path), outputs: BTreeMap::new() },
        Entry::Built(built) => built,
    };
    let mut outputs = BTreeMap::new();
    for (name, path) in built.outputs {
        let path = path.ok_or_else(|| NixError::NoOutput(format!("output {name} has no path")))?;
        outputs.insert(name, store_path(&path)?);
    }
    if let Some(path) = built.path {
        outputs.insert("out".to_owned(), store_path(&path)?);
    }
    Ok(Realised { derivation: built.drv_path.as_deref().map(store_path).transpose()?, outputs })
}

fn store_path(text: &str) -> Result<StorePath, NixError> {
    StorePath::from_absolute_path(text.as_bytes())
        .map_err(|error| NixError::Output { reason: error.to_string(), text: text.chars().take(200).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_recorded_versions_agree() {
        let mut versions = 0;
        for sample in crate::build::tests::samples("json") {
            let Some(found) =
                (!sample.bytes.is_empty() && sample.file != "attrs").then(|| parse(&sample.bytes).unwrap())
            else {
                continue;
            };
            match sample.file.as_str() {
                "ok" | "cached" | "substitute" => {
                    let [one] = found.as_slice() else { panic!("{found:?}") };
                    assert_eq!(one.derivation.as_ref().unwrap().name(), "mvm-sample-ok.drv");
                    assert_eq!(one.outputs["out"].name(), "mvm-sample-ok");
                    versions += 1;
                }
                "store-path" => {
                    assert!(found[0].derivation.is_none() && found[0].outputs["out"].name() == "mvm-sample-ok")
                }
                "multi" => assert_eq!((found.len(), found[0].outputs["out"].name()), (2, "mvm-sample-multi")),
                other => panic!("{other} has output"),
            }
        }
        assert_eq!(versions, 9);
    }

    #[test]
    fn what_is_no_store_path_is_refused() {
        for text in [r#"["/etc/passwd"]"#, r#"["/nix/store/../../etc"]"#, r#"[{"outputs":{"out":null}}]"#, "{", "", "7"]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(parse(b"[]").unwrap(), []);
        assert_eq!(parse(br#"[{"later":1}]"#).unwrap()[0].outputs.len(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
