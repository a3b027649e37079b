//! A template: an image by its flake, and what a VM of it gets. People write it, so what they wrote stays as it is, with
//! its comments, where a command changes one value.

use crate::config::line_at;
use crate::{Diagnostic, ErrorKind, Hypervisor, MemorySize, PortForward};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use toml_edit::{Array, DocumentMut, Item, Table, Value};

/// How each file begins that mvm writes.
const HEADER: &str = "\
# A template of mvm: an image by its flake, and what a VM of it gets.
# Keys: flake, profile, vcpus, memory, ports, hypervisor, and the table [env].

";

/// `template.toml`. What it does not say is as the image proposes. A key that is not known is an error: one that is misspelt
/// would else be one that has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The flake ref.
    pub flake: String,
    /// The output of the flake, where it is not the default one and the flake ref names none.
    #[serde(default)]
    pub profile: Option<String>,
    /// Number of virtual CPUs.
    #[serde(default, deserialize_with = "vcpus")]
    pub vcpus: Option<u32>,
    /// Memory: `"512M"`, or a number of MiB.
    #[serde(default, deserialize_with = "memory")]
    pub memory: Option<MemorySize>,
    /// Ports published on the host.
    #[serde(default)]
    pub ports: Vec<PortForward>,
    /// The hypervisor that is forced.
    #[serde(default)]
    pub hypervisor: Option<Hypervisor>,
    /// Environment of the guest's processes.
    #[serde(default, deserialize_with = "env")]
    pub env: BTreeMap<String, String>,
}

/// Values of a template that are to be others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateChange {
    /// Another flake.
    pub flake: Option<String>,
    /// Another output of it.
    pub profile: Option<String>,
    /// Another number of virtual CPUs.
    pub vcpus: Option<u32>,
    /// Other memory.
    pub memory: Option<MemorySize>,
    /// Ports to publish as well; each takes the place of one for the same port of the guest.
    pub ports: Vec<PortForward>,
    /// Another hypervisor.
    pub hypervisor: Option<Hypervisor>,
    /// Variables to set as well.
    pub env: BTreeMap<String, String>,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}, in {text:?}")]
pub struct TemplateTextError {
    line: usize,
    text: String,
    reason: String,
}

impl TemplateTextError {
    fn at(bytes: &[u8], at: usize, reason: &str) -> Self {
        let (line, text) = line_at(bytes, at);
        Self { line, text, reason: reason.trim().replace('\n', ", ") }
    }
}

impl Diagnostic for TemplateTextError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("it may have: flake, profile, vcpus, memory, ports, hypervisor, and the table [env]".into())
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is not UTF-8 or TOML, and a key or value that has no place in a template; the error names the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, TemplateTextError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| TemplateTextError::at(bytes, e.valid_up_to(), "this is not UTF-8"))?;
        toml::from_str(text)
            .map_err(|e| TemplateTextError::at(bytes, e.span().map_or(0, |span| span.start), e.message()))
    }
}

impl TemplateChange {
    /// The text of a new template.
    ///
    /// # Errors
    /// As [`Template::parse`]: a template without a flake is none.
    pub fn create(&self) -> Result<String, TemplateTextError> {
        Ok(HEADER.to_owned() + &self.apply("")?)
    }

    /// The text of a template with these values changed; all else stays as it is written.
    ///
    /// # Errors
    /// As [`Template::parse`], for what comes out.
    pub fn apply(&self, text: &str) -> Result<String, TemplateTextError> {
        let failed = |e: toml_edit::TomlError| {
            TemplateTextError::at(text.as_bytes(), e.span().map_or(0, |span| span.start), e.message())
        };
        let mut document: DocumentMut = text.parse().map_err(failed)?;
        for (key, value) in [
            ("flake", self.flake.as_deref().map(Value::from)),
            ("profile", self.profile.as_deref().map(Value::from)),
            ("vcpus", self.vcpus.map(|n| i64::from(n).into())),
            ("memory", self.memory.map(|m| m.to_string().into())),
            ("hypervisor", self.hypervisor.map(|h| h.as_str().into())),
        ] {
            if let Some(value) = value {
                set(&mut document, key, value);
            }
        }
        self.publish(&mut document);
        for (name, value) in &self.env {
            if let Some(table) = document.entry("env").or_insert_with(|| Table::new().into()).as_table_like_mut() {
                table.insert(name, value.into());
            }
        }
        let changed = document.to_string();
        Template::parse(changed.as_bytes()).map(|_| changed)
    }

    fn publish(&self, document: &mut DocumentMut) {
        for port in &self.ports {
            // Anything but a list is what the check of the whole complains of.
            let Some(ports) = document.entry("ports").or_insert_with(|| Array::new().into()).as_array_mut() else {
                return;
            };
            let guest = |value: &Value| Some(value.as_str()?.parse::<PortForward>().ok()?.guest);
            let same = ports.iter().position(|value| guest(value) == Some(port.guest));
            match same {
                Some(at) => {
                    ports.replace(at, port.to_string());
                }
                None => ports.push(port.to_string()),
            }
        }
    }
}

/// Sets a value, and keeps the comment behind it.
fn set(document: &mut DocumentMut, key: &str, mut value: Value) {
    match document.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            document.insert(key, value.into());
        }
    }
}

fn vcpus<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(from)? {
        number @ 1..=256 => Ok(Some(number)),
        number => Err(de::Error::custom(format!("{number} vCPUs cannot be: 1 to 256 can"))),
    }
}

fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<MemorySize>, D::Error> {
    struct Memory;
    impl Visitor<'_> for Memory {
        type Value = MemorySize;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size, as \"512M\", or a number of MiB")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<MemorySize, E> {
            text.parse().map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, mib: u64) -> Result<MemorySize, E> {
            MemorySize::from_mib(mib).map_err(E::custom)
        }
        fn visit_i64<E: de::Error>(self, mib: i64) -> Result<MemorySize, E> {
            self.visit_u64(mib.try_into().unwrap_or_default())
        }
    }
    from.deserialize_any(Memory).map(Some)
}

fn env<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let env = BTreeMap::<String, String>::deserialize(from)?;
    let is_fine = |name: &str, value: &str| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
    match env.iter().find(|(name, value)| !is_fine(name, value)) {
        Some((name, _)) => Err(de::Error::custom(format!("{name:?} cannot be set in an environment"))),
        None => Ok(env),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change() -> TemplateChange {
        TemplateChange {
            flake: Some("/home/me/site".into()),
            profile: Some("web".into()),
            vcpus: Some(2),
            memory: Some("1G".parse().unwrap()),
            ports: vec!["8080:80".parse().unwrap()],
            hypervisor: Some(Hypervisor::Qemu),
            env: [("COLOUR".to_owned(), "dark \"green\"".to_owned())].into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = change().create().unwrap();
        assert!(text.starts_with("# "), "{text}");
        let read = Template::parse(text.as_bytes()).unwrap();
        let all = change();
        assert_eq!((read.flake, read.profile), ("/home/me/site".into(), all.profile));
        assert_eq!((read.vcpus, read.memory, read.hypervisor), (all.vcpus, all.memory, all.hypervisor));
        assert_eq!((read.ports, read.env), (all.ports, all.env));
    }

    #[test]
    fn only_the_flake_is_needed() {
        let read = Template::parse(b"flake = \"nixpkgs\"\nmemory = 512\n").unwrap();
        assert_eq!((read.memory.unwrap().mib(), read.vcpus, read.ports.len()), (512, None, 0));
        let error = TemplateChange::default().create().unwrap_err();
        assert!(error.to_string().contains("flake"), "{error}");
    }

    #[test]
    fn what_a_person_wrote_stays() {
        let text = "# mine\nflake = \"a\" # of a friend\nvcpus=1\n# two\nports = [\n  \"1:80\", # web\n  \"2:81\",\n]\n\n[env] # all\nA = \"1\" # one\n";
        let change = TemplateChange {
            flake: Some("b".into()),
            memory: Some("1G".parse().unwrap()),
            ports: vec!["9:81".parse().unwrap(), "7:7".parse().unwrap()],
            env: [("B".to_owned(), "2".to_owned())].into(),
            ..TemplateChange::default()
        };
        let changed = change.apply(text).unwrap();
        for kept in ["# mine\n", "flake = \"b\" # of a friend\n", "vcpus=1\n", "\"1:80\", # web\n", "A = \"1\" # one\n"]
        {
            assert!(changed.contains(kept), "{kept:?} is gone: {changed}");
        }
        let read = Template::parse(changed.as_bytes()).unwrap();
        let ports: Vec<_> = read.ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["127.0.0.1:1:80", "127.0.0.1:9:81", "127.0.0.1:7:7"]);
        assert_eq!((read.env.len(), read.memory.unwrap().mib()), (2, 1024));
        assert_eq!(TemplateChange::default().apply(text).unwrap(), text);
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, word) in [
            (&b""[..], 1, "flake"),
            (b"flake = \"a\"\nmemry = 1\n", 2, "memry"),
            (b"flake = 7\n", 1, "string"),
            (b"flake = \"a\"\n\nvcpus = 0\n", 3, "1 to 256"),
            (b"flake = \"a\"\nvcpus = 257\n", 2, "1 to 256"),
            (b"flake = \"a\"\nmemory = \"3M\"\n", 2, "64M"),
            (b"flake = \"a\"\nmemory = -1\n", 2, "64M"),
            (b"flake = \"a\"\nmemory = true\n", 2, "MiB"),
            (b"flake = \"a\"\nports = [\"80\"]\n", 2, "80"),
            (b"flake = \"a\"\nhypervisor = \"vbox\"\n", 2, "vbox"),
            (b"flake = \"a\"\n[env]\n\"A=B\" = \"c\"\n", 2, "A=B"),
            (b"flake = \"a\"\nenv = 3\n", 2, "map"),
            (b"flake = \"a\n", 1, "flake"),
            (b"flake = \"a\"\nflake = \"b\"\n", 2, "duplicate"),
            (b"flake = \"a\"\n# \xff\n", 2, "UTF-8"),
        ] {
            let error = Template::parse(text).unwrap_err();
            let said = error.to_string();
            assert!(error.line == line && said.contains(word) && !said.contains('\n'), "{said}, and not {line} {word}");
            assert!(error.hint().is_some());
        }
    }

    proptest! {
        #[test]
        fn any_values_come_back(flake in "\\PC{1,40}", name in "[^=\\x00]{1,9}", value in "[^\\x00]{0,20}") {
            let env: BTreeMap<_, _> = [(name, value)].into();
            let change = TemplateChange { flake: Some(flake.clone()), env: env.clone(), ..TemplateChange::default() };
            let read = Template::parse(change.create().unwrap().as_bytes()).unwrap();
            prop_assert_eq!((read.flake, read.env), (flake, env));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}|[a-z=\\[\\]\" \n]{0,40}") {
            let _ = Template::parse(text.as_bytes());
            let _ = change().apply(&text);
        }
    }
}
