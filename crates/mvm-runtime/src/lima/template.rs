//! The instance as Lima's template (its `LimaYAML`, as of Lima 1.0), written as JSON, which YAML contains.

use mvm_core::MemorySize;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The first Lima that knows nested virtualisation.
const MINIMUM_LIMA: &str = "1.0.0";
/// Debian with Nix in its packages.
const IMAGES: [(&str, &str); 2] = [("aarch64", "arm64"), ("x86_64", "amd64")];

/// What an instance is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory; its VMs' is taken of it.
    pub memory: MemorySize,
    /// The disk, in GiB. It takes up what is in it.
    pub disk_gib: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Template {
    minimum_lima_version: &'static str,
    vm_type: &'static str,
    cpus: u32,
    memory: String,
    disk: String,
    images: Vec<Image>,
    nested_virtualization: bool,
    mount_type: &'static str,
    mounts: Vec<Mount>,
    port_forwards: Vec<PortForward>,
    containerd: Containerd,
    provision: Vec<Provision>,
}

#[derive(Debug, Serialize)]
struct Image {
    location: String,
    arch: &'static str,
}

#[derive(Debug, Serialize)]
struct Mount {
    location: PathBuf,
    writable: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PortForward {
    #[serde(rename = "guestIP")]
    guest_ip: &'static str,
    #[serde(rename = "guestIPMustBeZero")]
    guest_ip_must_be_zero: bool,
    guest_port_range: [u16; 2],
    #[serde(rename = "hostIP")]
    host_ip: &'static str,
}

#[derive(Debug, Serialize)]
struct Containerd {
    system: bool,
    user: bool,
}

#[derive(Debug, Serialize)]
struct Provision {
    mode: &'static str,
    script: &'static str,
}

/// Nix for flakes, KVM and vsock for VMs, and a folder for mvmctl. Lima runs it at every start.
const PROVISION: &str = r#"#!/bin/sh
set -eu
command -v nix >/dev/null || {
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nix-setup-systemd git
}
usermod -aG nix-users,kvm "{{.User}}"
printf 'experimental-features = nix-command flakes\n' >/etc/nix/nix.conf
modprobe -a kvm vhost_vsock tun || true
printf 'kvm\nvhost_vsock\ntun\n' >/etc/modules-load.d/mvm.conf
printf 'KERNEL=="vhost-vsock", GROUP="kvm", MODE="0660"\n' >/etc/udev/rules.d/60-mvm.rules
udevadm control --reload
udevadm trigger --name-match=vhost-vsock || true
install -d -o "{{.User}}" /var/lib/mvm
ln -sfn /var/lib/mvm/mvmctl/bin/mvmctl /usr/local/bin/mvmctl
"#;

/// A Linux machine whose user has the Mac's home folder, whose ports are the Mac's, and whose VMs have KVM where the chip
/// lets them.
pub(super) fn template(sizes: &Sizes, home: &Path, nested_virtualization: bool) -> Template {
    let image = |(arch, debian)| Image {
        location: format!("https://cloud.debian.org/images/cloud/trixie/latest/debian-13-genericcloud-{debian}.qcow2"),
        arch,
    };
    // Lima forwards what listens on the loopback by itself; what a user publishes to all stays published to all.
    let published = PortForward {
        guest_ip: "0.0.0.0",
        guest_ip_must_be_zero: true,
        guest_port_range: [1, u16::MAX],
        host_ip: "0.0.0.0",
    };
    Template {
        minimum_lima_version: MINIMUM_LIMA,
        vm_type: "vz",
        cpus: sizes.cpus,
        memory: format!("{}MiB", sizes.memory.mib()),
        disk: format!("{}GiB", sizes.disk_gib),
        images: IMAGES.map(image).into(),
        nested_virtualization,
        mount_type: "virtiofs",
        // Writable, because `mvmctl cp VM:/x .` and `mvmctl build -o` write there.
        mounts: vec![Mount { location: home.into(), writable: true }],
        port_forwards: vec![published],
        containerd: Containerd { system: false, user: false },
        provision: vec![Provision { mode: "system", script: PROVISION }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What Lima's own structures (pkg/limayaml, Lima 1.0) take, of what is used here: field by field, as JSON types.
    fn known() -> Value {
        json!({
            "minimumLimaVersion": "string", "vmType": "string", "cpus": "number", "memory": "string", "disk": "string",
            "nestedVirtualization": "boolean", "mountType": "string",
            "images": [{ "location": "string", "arch": "string" }],
            "mounts": [{ "location": "string", "writable": "boolean" }],
            "portForwards": [{
                "guestIP": "string", "guestIPMustBeZero": "boolean", "guestPortRange": ["number"], "hostIP": "string"
            }],
            "containerd": { "system": "boolean", "user": "boolean" },
            "provision": [{ "mode": "string", "script": "string" }],
        })
    }

    fn check(value: &Value, known: &Value, at: &str) {
        match (value, known) {
            (Value::Object(fields), Value::Object(known)) => {
                for (name, value) in fields {
                    let known = known.get(name).unwrap_or_else(|| panic!("Lima knows no {at}.{name}"));
                    check(value, known, &format!("{at}.{name}"));
                }
            }
            (Value::Array(values), Value::Array(known)) => values.iter().for_each(|v| check(v, &known[0], at)),
            (Value::String(_), Value::String(kind)) if kind == "string" => {}
            (Value::Number(_), Value::String(kind)) if kind == "number" => {}
            (Value::Bool(_), Value::String(kind)) if kind == "boolean" => {}
            _ => panic!("{at} is {value}, not {known}"),
        }
    }

    #[test]
    fn lima_knows_every_field() {
        let sizes = Sizes { cpus: 2, memory: MemorySize::from_mib(4096).unwrap(), disk_gib: 60 };
        let made = serde_json::to_value(template(&sizes, Path::new("/Users/me"), true)).unwrap();
        check(&made, &known(), "");
        assert_eq!((&made["memory"], &made["disk"]), (&json!("4096MiB"), &json!("60GiB")));
        assert_eq!(made["mounts"][0], json!({ "location": "/Users/me", "writable": true }));
        assert_eq!(made["nestedVirtualization"], true);
        assert!(made["provision"][0]["script"].as_str().unwrap().starts_with("#!/bin/sh\nset -eu\n"));
    }
}
