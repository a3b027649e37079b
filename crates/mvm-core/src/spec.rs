//! What a VM is asked to be: written once when it is made, read at each start.

use crate::{Diagnostic, ErrorKind, Hypervisor, MemorySize, TemplateName, VmName, Volume};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::{fmt, str::FromStr};

/// A VM as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmSpec {
    /// Version of this file.
    pub schema: u32,
    /// Its name.
    pub name: VmName,
    /// Its identity over its life: 32 hex digits.
    pub machine_id: String,
    /// Where the image came from.
    pub source: VmSource,
    /// The image folder; with `microvm-nix` the folder of the configuration's runner.
    pub image: PathBuf,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory: MemorySize,
    /// Environment of the guest's processes.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Ports published on the host.
    #[serde(default)]
    pub ports: Vec<PortForward>,
    /// Volumes, those of the image and those that the user added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Names of the secrets that it is given at each start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Whether its volumes go when it is removed: nobody has named the VM, so nobody could have them again.
    #[serde(default)]
    pub discard_volumes: bool,
    /// The hypervisor that was forced; chosen by detection where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<Hypervisor>,
    /// Removed with everything it owns when it stops.
    #[serde(default)]
    pub ephemeral: bool,
    /// Seconds since the epoch.
    #[serde(default)]
    pub created: u64,
}

/// Where an image came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum VmSource {
    /// Built by Nix from a flake.
    Flake {
        /// The flake ref, as resolved.
        flake: String,
        /// The template that it stands in, where the VM was made of one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<TemplateName>,
    },
    /// Fetched by name.
    Image {
        /// Its name.
        image: String,
    },
    /// A folder that the user named.
    Folder,
    /// Assembled on the spot by mvm.
    BuiltIn,
}

impl fmt::Display for VmSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flake { flake, template: None } => f.pad(flake),
            Self::Flake { flake, template: Some(template) } => f.pad(&format!("template {template}: {flake}")),
            Self::Image { image } => f.pad(image),
            Self::Folder => f.pad("folder"),
            Self::BuiltIn => f.pad("built-in"),
        }
    }
}

/// A TCP port of the host that leads to one of the guest: `[ADDR:]HOST:GUEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortForward {
    /// The host's address; loopback unless told otherwise.
    pub address: IpAddr,
    /// The host's port; 0 lets the host choose.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

/// Why a port forward was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port forward {given:?}: {why}")]
pub struct PortForwardError {
    given: String,
    why: &'static str,
}

impl Diagnostic for PortForwardError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("write it as HOST:GUEST or ADDR:HOST:GUEST, as in 8080:80 or 0.0.0.0:8080:80".into())
    }
}

impl PortForward {
    /// The address to listen on.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.host)
    }
}

impl FromStr for PortForward {
    type Err = PortForwardError;
    fn from_str(s: &str) -> Result<Self, PortForwardError> {
        let fail = |why| PortForwardError { given: s.into(), why };
        let (rest, guest) = s.rsplit_once(':').ok_or_else(|| fail("no colon between host and guest port"))?;
        let (address, host) = match rest.rsplit_once(':') {
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
                (bare.parse().map_err(|_| fail("the address is not an IP address"))?, host)
            }
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
        };
        let port = |text: &str, why| match text.parse::<u16>() {
            Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
            _ => Err(fail(why)),
        };
        let host = port(host, "the host port is not a number from 0 to 65535")?;
        let guest = port(guest, "the guest port is not a number from 1 to 65535")?;
        if guest == 0 {
            return Err(fail("the guest port is not a number from 1 to 65535"));
        }
        Ok(Self { address, host, guest })
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.listen(), self.guest))
    }
}

impl TryFrom<String> for PortForward {
    type Error = PortForwardError;
    fn try_from(s: String) -> Result<Self, PortForwardError> {
        s.parse()
    }
}

impl From<PortForward> for String {
    fn from(p: PortForward) -> Self {
        p.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A source as versions with and without templates write it, and read it.
    #[test]
    fn sources_are_read_by_older_and_newer_versions() {
        let old = r#"{"kind":"flake","flake":"github:me/site#vm"}"#;
        let read: VmSource = serde_json::from_str(old).unwrap();
        assert_eq!(read, VmSource::Flake { flake: "github:me/site#vm".into(), template: None });
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
        let template = Some(TemplateName::new("site").unwrap());
        let new = VmSource::Flake { flake: "github:me/site#vm".into(), template };
        let written = serde_json::to_string(&new).unwrap();
        assert_eq!(written, r#"{"kind":"flake","flake":"github:me/site#vm","template":"site"}"#);
        assert_eq!(serde_json::from_str::<VmSource>(&written).unwrap(), new);
        assert_eq!(new.to_string(), "template site: github:me/site#vm");
    }

    #[test]
    fn sources_are_read_as_every_version_wrote_them() {
        let read = |text: &str| serde_json::from_str::<VmSource>(text).unwrap().to_string();
        assert_eq!(read(r#"{"kind":"folder"}"#), "folder");
        assert_eq!(read(r#"{"kind":"built-in"}"#), "built-in");
        assert_eq!(read(r#"{"kind":"flake","flake":".#web"}"#), ".#web");
        assert_eq!(read(r#"{"kind":"image","image":"http"}"#), "http");
    }

    #[test]
    fn forwards_as_people_write_them() {
        for (text, shown) in [
            ("8080:80", "127.0.0.1:8080:80"),
            ("0:80", "127.0.0.1:0:80"),
            ("0.0.0.0:1:2", "0.0.0.0:1:2"),
            ("[::1]:8080:80", "[::1]:8080:80"),
        ] {
            assert_eq!(text.parse::<PortForward>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_spec_of_an_earlier_version_is_read() {
        let text = r#"{"schema":1,"name":"web","machineId":"0","source":{"kind":"folder"},"image":"/i","vcpus":1,
            "memoryMiB":256}"#;
        let spec: VmSpec = serde_json::from_str(text).unwrap();
        assert!(spec.volumes.is_empty() && spec.secrets.is_empty() && !spec.discard_volumes && !spec.ephemeral);
    }

    #[test]
    fn typos_are_refused() {
        for text in ["", "80", ":80", "80:", "80:0", "65536:1", "1:65536", "a:b", "+1:2", "x:1:2", "1:2/udp", "1 :2"] {
            assert!(text.parse::<PortForward>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn shown_forwards_read_back(address: IpAddr, host: u16, guest in 1u16..) {
            let forward = PortForward { address, host, guest };
            prop_assert_eq!(forward.to_string().parse(), Ok(forward));
        }
    }
}
