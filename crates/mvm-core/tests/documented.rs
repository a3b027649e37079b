//! The examples in docs/image-format.md are what this crate reads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvm_core::{GuestManifest, ImageManifest};

/// Every field that an example names is one that is read: it comes back when written.
fn same<T: serde::de::DeserializeOwned + serde::Serialize>(example: &str) {
    let given: serde_json::Value = serde_json::from_str(example).unwrap();
    let read: T = serde_json::from_value(given.clone()).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(written, given, "a field of the example is not read, or has another name");
}

#[test]
fn the_examples_are_read_whole() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/image-format.md");
    let page = std::fs::read_to_string(path).unwrap();
    let examples: Vec<&str> = page.split("```json\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    let [image, guest] = examples[..] else { panic!("two examples") };
    same::<ImageManifest>(image);
    same::<GuestManifest>(guest);
}
