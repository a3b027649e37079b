//! The image contract on disk: `image.json`, schema 1.
//!
//! An image is a folder that a build makes and nobody changes afterwards: a kernel, an optional initrd,
//! an ext4 rootfs and this manifest. Unknown *required* things are errors that name the field; unknown
//! optional fields are passed over, so that images of a newer mvm which need nothing new keep booting.

use crate::secret::check_names;
use crate::{AccessPolicy, Diagnostic, ErrorKind, MemorySize, PortForward, Volume};
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// The schema that this build reads.
pub const IMAGE_SCHEMA: u32 = 1;

/// `image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Version of this contract.
    pub schema: u32,
    /// The image's name, for display.
    pub name: String,
    /// The system it runs on, in Nix's words: `x86_64-linux`.
    pub system: String,
    /// The guest kernel.
    pub kernel: KernelFile,
    /// Stage 1, where the kernel cannot find its root alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<InitrdFile>,
    /// The root file system.
    pub rootfs: RootfsFile,
    /// Words for the kernel command line beyond those that the backend chooses.
    #[serde(default)]
    pub cmdline: String,
    /// The agent inside.
    pub agent: AgentInfo,
    /// What the guest lets its host do: a copy for display.
    #[serde(default)]
    pub policy: AccessPolicy,
    /// What a VM gets where the user says nothing.
    #[serde(default)]
    pub defaults: ImageDefaults,
    /// Names of the services inside, for display.
    #[serde(default)]
    pub services: Vec<String>,
    /// Names of the health checks inside, for display.
    #[serde(default)]
    pub health: Vec<String>,
    /// Volumes that each VM of the image has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Names of the secrets without which no VM of the image starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Features that the host must know to boot this image. One that it does not know is an error.
    #[serde(default)]
    pub requires: Vec<String>,
}

/// The kernel of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFile {
    /// Path inside the image folder.
    pub path: PathBuf,
    /// Its format.
    pub format: KernelFormat,
}

/// Formats of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelFormat {
    /// An uncompressed ELF `vmlinux`, entered by PVH or the 64-bit boot protocol.
    #[serde(rename = "elf")]
    Elf,
    /// x86's self-extracting image (Linux boot protocol).
    #[serde(rename = "bzImage")]
    BzImage,
    /// arm64's flat image (Linux `Documentation/arch/arm64/booting.rst`).
    #[serde(rename = "Image")]
    Image,
}

impl KernelFormat {
    /// Its word in image.json.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Elf => "elf",
            Self::BzImage => "bzImage",
            Self::Image => "Image",
        }
    }
}

/// The initrd of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitrdFile {
    /// Path inside the image folder.
    pub path: PathBuf,
}

/// The root file system of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootfsFile {
    /// Path inside the image folder.
    pub path: PathBuf,
    /// Its file system.
    pub fs: RootfsFs,
    /// Its size in bytes; checked against the file so that a truncated copy is found before it boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Whether nobody writes to it, so that a VM needs no layer of its own: a copy, the guest goes by its manifest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// File systems of root drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootfsFs {
    /// Linux ext4.
    Ext4,
}

/// The agent that an image carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Version of the host-guest protocol.
    pub protocol: u16,
    /// Version of `mvm-guest`.
    pub version: String,
    /// What it can do for its host beyond what every version can: words of [`features`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

/// What an image may require of its host, and what its agent may be able to do.
pub mod features {
    /// Volumes are made by the host and mounted by the guest.
    pub const VOLUMES: &str = "volumes";
    /// Secrets are given by the host and placed by the guest.
    pub const SECRETS: &str = "secrets";
    /// The agent can be PID 1 of a container.
    pub const CONTAINER: &str = "container";
    /// Every feature of this build.
    pub const ALL: [&str; 3] = [VOLUMES, SECRETS, CONTAINER];
}

impl AgentInfo {
    /// Whether it has this feature.
    pub fn can(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }
}

/// What a VM of the image gets where the user says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageDefaults {
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory: MemorySize,
    /// Ports to publish on the host.
    pub ports: Vec<PortForward>,
}

impl Default for ImageDefaults {
    fn default() -> Self {
        const { assert!(MemorySize::MIN.mib() <= 256) };
        Self { vcpus: 1, memory: MemorySize::from_mib(256).unwrap_or(MemorySize::MIN), ports: Vec::new() }
    }
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a required field is missing or of the wrong type. The message names the field.
    #[error("image.json cannot be read: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A schema of another mvm.
    #[error("image.json has schema {found}; this mvmctl reads schema {IMAGE_SCHEMA}")]
    Schema {
        /// What the file says.
        found: u64,
    },
    /// `requires` names what this build does not know.
    #[error("image.json: `requires` names the feature {0:?}, which this mvmctl does not know")]
    Feature(String),
    /// A path that leaves the folder.
    #[error("image.json: `{field}` is {path:?}, which leaves the image folder")]
    Escape {
        /// The field, as `rootfs.path`.
        field: &'static str,
        /// The path as given.
        path: PathBuf,
    },
    /// A value out of its range.
    #[error("image.json: `{field}` is {value:?}, but {rule}")]
    Value {
        /// The field.
        field: &'static str,
        /// The value as given.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}

impl Diagnostic for ManifestError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::ImageInvalid
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Schema { .. } | Self::Feature(_) => {
                "build the image with the mvm that this mvmctl belongs to, or update mvmctl".into()
            }
            _ => "rebuild the image; docs/image-format.md describes each field".into(),
        })
    }
}

impl ImageManifest {
    /// Reads and checks the bytes of an `image.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        // The schema first: a later schema may well break the rest, and then it is the schema that is to blame.
        #[derive(Deserialize)]
        struct Schema {
            schema: u64,
        }
        let Schema { schema } = serde_json::from_slice(bytes)?;
        if schema != u64::from(IMAGE_SCHEMA) {
            return Err(ManifestError::Schema { found: schema });
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if let Some(feature) = self.requires.iter().find(|feature| !features::ALL.contains(&feature.as_str())) {
            return Err(ManifestError::Feature(feature.clone()));
        }
        for (field, path) in [("kernel.path", &self.kernel.path), ("rootfs.path", &self.rootfs.path)]
            .into_iter()
            .chain(self.initrd.as_ref().map(|i| ("initrd.path", &i.path)))
        {
            if !stays_inside(path) {
                return Err(ManifestError::Escape { field, path: path.clone() });
            }
        }
        let bad = |field, value: String, rule| Err(ManifestError::Value { field, value, rule });
        if self.name.is_empty() || self.name.len() > 128 || self.name.chars().any(char::is_control) {
            return bad("name", self.name.clone(), "it must have 1 to 128 printable bytes");
        }
        if self.cmdline.len() > 1024 || self.cmdline.chars().any(|c| !(' '..='~').contains(&c)) {
            return bad("cmdline", self.cmdline.clone(), "it must be at most 1024 printable ASCII characters");
        }
        if !(1..=256).contains(&self.defaults.vcpus) {
            return bad("defaults.vcpus", self.defaults.vcpus.to_string(), "it must be 1 to 256");
        }
        check_names(&self.secrets).or_else(|error| bad("secrets", error.to_string(), "names of secrets are wanted"))?;
        Volume::check_all(&self.volumes).or_else(|error| bad("volumes", error.volume, error.why))
    }
}

/// Whether a path is relative, without `..`, and names something.
fn stays_inside(path: &Path) -> bool {
    path.components().count() > 0 && path.components().all(|c| matches!(c, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINIMAL: &str = r#"{"schema":1,"name":"m","system":"x86_64-linux",
        "kernel":{"path":"vmlinux","format":"elf"},"rootfs":{"path":"rootfs.ext4","fs":"ext4"},
        "agent":{"protocol":1,"version":"0.1.0"}}"#;

    fn with(from: &str, to: &str) -> Result<ImageManifest, ManifestError> {
        let text = MINIMAL.replace(from, to);
        assert_ne!(text, MINIMAL);
        ImageManifest::parse(text.as_bytes())
    }

    #[test]
    fn the_least_manifest_is_closed_and_small() {
        let m = ImageManifest::parse(MINIMAL.as_bytes()).unwrap();
        assert_eq!(m.policy, AccessPolicy::default());
        assert_eq!((m.defaults.vcpus, m.defaults.memory.mib()), (1, 256));
    }

    #[test]
    fn an_agent_says_what_it_can() {
        assert!(ImageManifest::parse(MINIMAL.as_bytes()).unwrap().agent.features.is_empty());
        let later = with(r#""version":"0.1.0""#, r#""version":"0.1.0","features":["container","later"]"#).unwrap();
        assert!(later.agent.can(features::CONTAINER) && !later.agent.can("fly"));
    }

    #[test]
    fn what_a_newer_mvm_adds_optionally_is_passed_over() {
        with(r#""name""#, r#""sparkle":{"new":true},"name""#).unwrap();
    }

    #[test]
    fn what_a_newer_mvm_requires_is_named() {
        let error = with(r#""name""#, r#""requires":["verity2"],"name""#).unwrap_err();
        assert!(error.to_string().contains("verity2"), "{error}");
        with(r#""name""#, r#""requires":["volumes"],"name""#).unwrap();
    }

    #[test]
    fn volumes_are_checked() {
        let m = with(r#""name""#, r#""volumes":[{"name":"data","mountPoint":"/data"}],"name""#).unwrap();
        assert_eq!((m.volumes[0].size_mib, &m.volumes[0].owner), (8192, &None));
        let error = with(r#""name""#, r#""volumes":[{"name":"../x","mountPoint":"/data"}],"name""#).unwrap_err();
        assert!(matches!(error, ManifestError::Value { field: "volumes", .. }), "{error}");
    }

    #[test]
    fn unknown_schema_wins_over_missing_fields() {
        let error = ImageManifest::parse(br#"{"schema":7}"#).unwrap_err();
        assert!(matches!(error, ManifestError::Schema { found: 7 }));
    }

    #[test]
    fn missing_and_mistyped_fields_are_named() {
        for (from, to, name) in [
            (r#""system":"x86_64-linux","#, "", "system"),
            (r#""format":"elf""#, r#""format":"zImage""#, "zImage"),
            (r#""fs":"ext4""#, r#""fs":"btrfs""#, "btrfs"),
            (r#""protocol":1,"#, "", "protocol"),
        ] {
            let error = with(from, to).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn paths_stay_in_the_folder() {
        for path in ["/etc/passwd", "../x", "a/../../x", "", ".", "./x/.."] {
            let error = with(r#""path":"rootfs.ext4""#, &format!(r#""path":"{path}""#)).unwrap_err();
            assert!(matches!(error, ManifestError::Escape { field: "rootfs.path", .. }), "{path}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = ImageManifest::parse(&bytes);
        }
    }
}
