//! Whether a `flake.lock` ties all inputs of its flake to contents.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// The format that Nix writes, since 2.4.
const VERSION: u64 = 7;

#[derive(Deserialize)]
struct LockFile {
    version: u64,
    /// The name of the node that is the flake itself.
    root: String,
    nodes: BTreeMap<String, Node>,
}

#[derive(Deserialize)]
struct Node {
    locked: Option<Locked>,
    /// The inputs that lead to the flake which a relative path begins at.
    parent: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Locked {
    r#type: String,
    nar_hash: Option<String>,
    rev: Option<String>,
    path: Option<String>,
}

/// Whether every input is one certain content: either locked by a digest, or a part of the flake's own source tree, in
/// which the flake lies in the folder `at`.
pub(crate) fn locks_everything(text: &[u8], at: &Path) -> bool {
    let Ok(lock) = serde_json::from_slice::<LockFile>(text) else { return false };
    lock.version == VERSION && lock.nodes.iter().all(|(name, node)| *name == lock.root || is_locked(node, at))
}

fn is_locked(node: &Node, at: &Path) -> bool {
    let Some(locked) = &node.locked else { return false };
    match locked.r#type.as_str() {
        // Nix uses the copy in its store that has the digest, whatever has become of the folder.
        "path" if locked.nar_hash.is_some() => true,
        "path" => {
            let relative = locked.path.as_deref().map(Path::new).filter(|p| p.is_relative());
            node.parent.as_ref().is_some_and(Vec::is_empty) && relative.is_some_and(|p| stays_inside(&at.join(p)))
        }
        "tarball" | "file" => locked.nar_hash.is_some(),
        // Of a work tree that was dirty Nix 2.8 locks a digest without a commit, and reads the work tree again.
        _ => locked.rev.is_some(),
    }
}

/// Whether a relative path leads nowhere above its beginning.
fn stays_inside(path: &Path) -> bool {
    let mut depth = 0_i32;
    path.components().all(|part| {
        depth += match part {
            Component::Normal(_) => 1,
            Component::ParentDir => -1,
            _ => 0,
        };
        depth >= 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks(node: &str, at: &str) -> bool {
        let text = format!(r#"{{"version":7,"root":"root","nodes":{{"root":{{"inputs":{{"x":"x"}}}},"x":{node}}}}}"#);
        locks_everything(text.as_bytes(), Path::new(at))
    }

    #[test]
    fn an_input_is_content_or_part_of_the_tree() {
        for node in [
            r#"{"locked":{"type":"github","owner":"o","repo":"r","rev":"0123","narHash":"sha256-x"}}"#,
            r#"{"locked":{"type":"path","path":"/x","narHash":"sha256-x"}}"#,
            r#"{"locked":{"type":"path","path":"./sub"},"parent":[]}"#,
            r#"{"locked":{"type":"path","path":"../sibling"},"parent":[]}"#,
            r#"{"locked":{"type":"tarball","url":"https://x","narHash":"sha256-x"}}"#,
        ] {
            assert!(locks(node, "sub"), "{node}");
        }
        for node in [
            r#"{"locked":{"type":"path","path":"/x"}}"#,
            r#"{"locked":{"type":"path","path":"../../outside"},"parent":[]}"#,
            r#"{"locked":{"type":"path","path":"./sub"},"parent":["other"]}"#,
            r#"{"locked":{"type":"git","url":"file:///dirty","narHash":"sha256-x"}}"#,
            r#"{"locked":{"type":"tarball","url":"https://x"}}"#,
            r#"{"locked":{"type":"github","owner":"o","repo":"r"}}"#,
            r#"{"inputs":{"a":"b"}}"#,
            r#"{"locked":7}"#,
        ] {
            assert!(!locks(node, "sub"), "{node}");
        }
        assert!(!locks(r#"{"locked":{"type":"path","path":"../sibling"},"parent":[]}"#, ""));
        for text in ["", "{", r#"{"version":8,"nodes":{}}"#, r#"{"nodes":{}}"#] {
            assert!(!locks_everything(text.as_bytes(), Path::new("")), "{text}");
        }
    }
}
