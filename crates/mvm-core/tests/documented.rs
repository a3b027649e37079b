//! The examples in docs/ are what this crate reads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvm_core::{GuestManifest, ImageManifest, Template};

/// Every field that an example names is one that is read: it comes back when written.
fn same<T: serde::de::DeserializeOwned + serde::Serialize>(example: &str) {
    let given: serde_json::Value = serde_json::from_str(example).unwrap();
    let read: T = serde_json::from_value(given.clone()).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(written, given, "a field of the example is not read, or has another name");
}

/// The examples of a page that are in this language.
fn examples(page: &str, language: &str) -> Vec<String> {
    let page = std::fs::read_to_string(format!("{}/../../docs/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned()).collect()
}

#[test]
fn the_examples_are_read_whole() {
    let examples = examples("image-format.md", "json");
    let [image, guest] = &examples[..] else { panic!("two examples") };
    same::<ImageManifest>(image);
    same::<GuestManifest>(guest);
}

#[test]
fn a_template_is_as_its_page_says() {
    let examples = examples("nix.md", "toml");
    let template = examples.iter().find(|example| example.starts_with("flake = ")).unwrap();
    let template = Template::parse(template.as_bytes()).unwrap();
    assert_eq!((template.profile.as_deref(), template.vcpus, template.ports.len()), (Some("web"), Some(2), 1));
    assert_eq!((template.memory.unwrap().mib(), template.env.len()), (1024, 1));
    assert!(template.hypervisor.is_some());
}
