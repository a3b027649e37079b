//! What the guest reads: its manifest in the rootfs and its configuration on the config drive.

use crate::AccessPolicy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where the guest manifest lies inside the rootfs.
pub const GUEST_MANIFEST_PATH: &str = "/etc/mvm/guest.json";

/// The schema of both files that this build reads.
pub const GUEST_SCHEMA: u32 = 1;

/// `/etc/mvm/guest.json`: what the image decided, and what no host can change afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestManifest {
    /// Version of this contract.
    pub schema: u32,
    /// The policy that the agent enforces.
    pub policy: AccessPolicy,
    /// Seconds without a byte in either direction after which a console session ends; 0 stands for 900.
    pub console_idle_seconds: u32,
    /// What a console runs where the host names no command; empty stands for `/bin/sh -l`.
    pub shell: Vec<String>,
    /// Whether nobody writes to the root: it has no layer over it.
    pub read_only_root: bool,
    /// The guest's host name; the VM's name where absent.
    pub host_name: Option<String>,
    /// Environment of services, exec and console.
    pub env: BTreeMap<String, String>,
    /// Program and arguments of the guest's own init, executed as PID 1 once the root is there. Where it is empty,
    /// `mvm-guest` itself is the init.
    pub init: Vec<String>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// Health checks by name.
    pub health_checks: BTreeMap<String, HealthCheck>,
    /// Whose the secrets are that the guest is given, by name; root's alone where one is not among these.
    pub secrets: BTreeMap<String, SecretFile>,
}

/// A secret as the guest's processes find it: `/run/secrets/NAME`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretFile {
    /// Whose it is: `USER` or `USER:GROUP`; root's where absent.
    pub owner: Option<String>,
    /// Its mode, in octal; 0400 where absent.
    pub mode: Option<String>,
    /// A link to it, beside `/run/secrets`.
    pub path: Option<String>,
}

/// A process that the guest's init keeps running.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Run to its end before each start; a failure counts as the service's.
    pub pre_start: Option<Vec<String>>,
    /// Added to the guest's environment.
    pub env: BTreeMap<String, String>,
    /// User name or id; root where absent.
    pub user: Option<String>,
    /// Working directory; `/` where absent.
    pub working_directory: Option<String>,
    /// When it is started again.
    pub restart: Restart,
    /// File for stdout and stderr; the console where absent.
    pub log_file: Option<String>,
    /// When it counts as ready; as soon as it has been started where absent.
    pub readiness: Option<Readiness>,
}

/// When a service that was started can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// What tells.
    #[serde(flatten)]
    pub check: ReadinessCheck,
    /// Seconds from the guest's start for which its readiness waits for that of this service.
    #[serde(default = "Readiness::default_timeout")]
    pub timeout_seconds: u32,
}

impl Readiness {
    const fn default_timeout() -> u32 {
        60
    }
}

/// What tells that a service can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ReadinessCheck {
    /// A command, run until it succeeds, as the service's user and in its environment.
    Command {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A TCP port of the loopback that takes connections.
    Port {
        /// The port.
        port: u16,
    },
    /// The service itself, by the datagram `READY=1` to `$NOTIFY_SOCKET` (sd_notify(3)).
    Notify,
}

/// When a service that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Always, with back-off.
    #[default]
    Always,
    /// After a failure, with back-off.
    OnFailure,
    /// Never.
    No,
}

/// A command whose exit code tells whether the guest is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthCheck {
    /// Program and arguments; exit code 0 is healthy.
    pub command: Vec<String>,
    /// Seconds between runs.
    pub interval_seconds: u32,
    /// Seconds that one run may take.
    pub timeout_seconds: u32,
    /// Seconds after the start during which a failure does not count.
    pub startup_grace_seconds: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { command: Vec::new(), interval_seconds: 10, timeout_seconds: 5, startup_grace_seconds: 30 }
    }
}

/// `config.json` on the config drive: what this one start decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestConfig {
    /// Version of this contract.
    pub schema: u32,
    /// The VM's name, and the guest's host name.
    pub name: String,
    /// The VM's identity over its life, 32 hex digits: the guest's machine-id.
    pub machine_id: String,
    /// Seconds since the epoch when the drive was written: the guest's clock where it has no other.
    #[serde(default)]
    pub now: u64,
    /// Environment of services, exec and console, over that of the image.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Volumes to mount before anything is started, in the order in which they are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<GuestVolume>,
    /// Whether there is a drive with secrets.
    #[serde(default)]
    pub secrets: bool,
    /// The interface to configure, where the VM has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// The host's Ed25519 public key, 64 hex digits: who may open the guest channel.
    pub host_public_key: String,
    /// The guest's Ed25519 secret key, 64 hex digits: how the guest proves which VM it is.
    pub guest_secret_key: String,
}

/// A volume that the guest mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestVolume {
    /// Its name, for messages.
    pub name: String,
    /// The label of its file system.
    pub label: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// `USER` or `USER:GROUP` of the image, who owns the mount point; as it is where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The mount point's mode, in octal; as it is where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Static addresses of the guest's first Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default gateways, at most one a family.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Resolvers, written to `/etc/resolv.conf`.
    #[serde(default)]
    pub resolvers: Vec<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_policy_is_closed() {
        let manifest: GuestManifest = serde_json::from_str(r#"{"schema":1}"#).unwrap();
        assert_eq!(manifest.policy, AccessPolicy { console: false, exec: false, files: false, forward: false });
    }

    #[test]
    fn an_init_is_the_images_to_choose() {
        let older: GuestManifest = serde_json::from_str(r#"{"schema":1,"services":{}}"#).unwrap();
        assert!(older.init.is_empty());
        let manifest = GuestManifest { init: vec!["/sbin/init".into(), "--quiet".into()], ..older };
        let text = serde_json::to_string(&manifest).unwrap();
        assert!(text.contains(r#""init":["/sbin/init","--quiet"]"#), "{text}");
        assert_eq!(serde_json::from_str::<GuestManifest>(&text).unwrap(), manifest);
    }

    #[test]
    fn a_service_of_an_older_image_is_ready_at_once() {
        let service: Service = serde_json::from_str(r#"{"command":["/bin/a"]}"#).unwrap();
        assert_eq!(service.readiness, None);
        let read = |text: &str| serde_json::from_str::<Readiness>(text).map_err(|error| error.to_string());
        let readiness = read(r#"{"kind":"port","port":80}"#).unwrap();
        assert_eq!(readiness, Readiness { check: ReadinessCheck::Port { port: 80 }, timeout_seconds: 60 });
        let readiness = read(r#"{"kind":"notify","timeoutSeconds":5}"#).unwrap();
        assert_eq!(readiness, Readiness { check: ReadinessCheck::Notify, timeout_seconds: 5 });
        assert!(read(r#"{"kind":"port"}"#).unwrap_err().contains("port"));
        assert!(read(r#"{"kind":"oracle"}"#).unwrap_err().contains("oracle"));
    }

    #[test]
    fn an_older_config_drive_is_read() {
        let config: GuestConfig =
            serde_json::from_str(r#"{"schema":1,"name":"a","machineId":"0","hostPublicKey":"k","guestSecretKey":"s"}"#)
                .unwrap();
        assert!(config.env.is_empty() && config.interface.is_none() && config.volumes.is_empty() && !config.secrets);
    }
}
