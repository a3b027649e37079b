//! The programs beside mvm: where they are, which version, and how to get those that are missing.

use mvm_core::Lack;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// How long a program may take to tell its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes read of what it says.
const VERSION_BYTES: u64 = 4096;

/// A program that mvm, or a VM of it, runs.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its name on PATH.
    pub(crate) name: &'static str,
    /// The variable that names another one.
    variable: Option<&'static str>,
    /// The argument that makes it tell its version.
    version: &'static str,
    /// What needs it.
    pub(crate) needed_for: &'static str,
    /// How to get it.
    pub(crate) hint: &'static str,
}

/// The emulator of this machine's own CPU: guests are of the host's architecture.
pub(crate) const QEMU: Program = Program {
    name: if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" },
    variable: Some("MVM_QEMU"),
    version: "--version",
    needed_for: "qemu",
    hint: "install it: `apt-get install qemu-system-x86` (Debian, Ubuntu), `dnf install qemu-system-x86-core` \
           (Fedora), `pacman -S qemu-system-x86` (Arch)",
};

pub(crate) const VHOST_DEVICE_VSOCK: Program = Program {
    name: "vhost-device-vsock",
    variable: Some("MVM_VHOST_DEVICE_VSOCK"),
    version: "--version",
    needed_for: "qemu, where there is no /dev/vhost-vsock",
    hint: "load the kernel's own device (`modprobe vhost_vsock`, and let your user open /dev/vhost-vsock), \
           or `cargo install --locked vhost-device-vsock`",
};

pub(crate) const FIRECRACKER: Program = Program {
    name: "firecracker",
    variable: Some("MVM_FIRECRACKER"),
    version: "--version",
    needed_for: "firecracker",
    hint: "unpack a release of https://github.com/firecracker-microvm/firecracker/releases and put it on PATH, or set \
           MVM_FIRECRACKER",
};

pub(crate) const NIX: Program = Program {
    name: "nix",
    variable: Some("MVM_NIX"),
    version: "--version",
    needed_for: "flakes",
    hint: "install Nix: https://nixos.org/download, or `apt install nix-bin` on Debian",
};

pub(crate) const LIMACTL: Program = Program {
    name: "limactl",
    variable: Some("MVM_LIMACTL"),
    version: "--version",
    needed_for: "Macs before macOS 26",
    hint: "install Lima, 1.0 or later: `brew install lima`, or the package `lima` of nixpkgs",
};

pub(crate) const BUSYBOX: Program = Program {
    name: "busybox",
    variable: Some("MVM_BUSYBOX"),
    version: "--help",
    needed_for: "the built-in image",
    hint: "install a static busybox (Debian: `apt-get install busybox-static`), or set MVM_BUSYBOX",
};

/// What is only looked at, never started by this crate.
pub(crate) const OTHERS: &[Program] = &[
    Program {
        name: "mke2fs",
        variable: Some("MVM_MKE2FS"),
        version: "-V",
        needed_for: "drives",
        hint: "install e2fsprogs (Debian: `apt-get install e2fsprogs`)",
    },
    Program {
        name: "passt",
        variable: None,
        version: "--version",
        needed_for: "named networks, which are to come",
        hint: "install it (Debian: `apt-get install passt`)",
    },
    Program {
        name: "nft",
        variable: None,
        version: "--version",
        needed_for: "egress rules, which are to come",
        hint: "install it (Debian: `apt-get install nftables`)",
    },
];

/// A variable names a program that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotThere {
    pub(crate) variable: &'static str,
    pub(crate) path: PathBuf,
}

impl Program {
    /// The one that the variable names, else the first of PATH and of where system programs are.
    pub(crate) fn find(&self) -> Result<Option<PathBuf>, NotThere> {
        let chosen = |variable| Some((variable, std::env::var_os(variable).filter(|v| !v.is_empty())?));
        if let Some((variable, path)) = self.variable.and_then(chosen) {
            let path = PathBuf::from(path);
            return if path.is_file() { Ok(Some(path)) } else { Err(NotThere { variable, path }) };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sbin = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
        Ok(std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(self.name)).find(|p| p.is_file()))
    }

    /// Whether it is there, without running it.
    pub(crate) fn present(&self) -> mvm_core::Part {
        match self.find() {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Lack::new(format!("{} is not on PATH", self.name), self.hint)),
            Err(NotThere { variable, path }) => Err(Lack::new(
                format!("{variable} is {path:?}, which is not a file"),
                format!("point {variable} at {}, or unset it to use the one on PATH", self.name),
            )),
        }
    }

    /// Runs it for its version; its own words where it has none to tell.
    pub(crate) async fn version(&self, path: &PathBuf) -> Result<String, Lack> {
        let broken = |why: String| Lack::hopeless(format!("{} {why}", self.name));
        let run = async {
            let mut command = Command::new(path);
            command.arg(self.version).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            crate::child::die_with_parent(&mut command);
            let mut child = command.spawn()?;
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let (out, err, status) = tokio::join!(begin_of(out), begin_of(err), child.wait());
            Ok::<_, std::io::Error>((out + &err, status?))
        };
        match tokio::time::timeout(VERSION_DEADLINE, run).await {
            Err(_) => Err(broken(format!("does not tell its version within {} s", VERSION_DEADLINE.as_secs()))),
            Ok(Err(error)) => Err(broken(format!("cannot be started: {error}"))),
            Ok(Ok((text, status))) => match version_in(&text) {
                // Some tell their version and fail all the same.
                Some(version) => Ok(version.to_owned()),
                None => Err(broken(format!("tells no version ({status}): {:?}", first_line(&text)))),
            },
        }
    }
}

async fn begin_of(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // What it could say of an error is in the text as far as it came.
        let _ = (&mut stream).take(VERSION_BYTES).read_to_end(&mut bytes).await;
        // The rest is read, so that it does not wait for a reader.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The first word of a line that begins as a version does: `7.2.22`, `v1.17.0-dev`, `0.0~git20230309`.
fn version_in(text: &str) -> Option<&str> {
    let numbered = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains(['.', '_']);
    first_line(text).split_whitespace().map(|w| w.strip_prefix('v').unwrap_or(w)).find(numbered)
}

/// Major and minor number of a version.
pub(crate) fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_programs_tell_them() {
        for (text, version) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright", Some("7.2.22")),
            ("Firecracker v1.17.0-dev\n\n", Some("1.17.0-dev")),
            ("mke2fs 1.47.0 (5-Feb-2023)", Some("1.47.0")),
            ("BusyBox v1.35.0 (Debian 1:1.35.0-4) multi-call binary.", Some("1.35.0")),
            ("nix (Nix) 2.8.0", Some("2.8.0")),
            ("passt 2024_02_20.1e6f92b", Some("2024_02_20.1e6f92b")),
            ("nftables v1.0.6 (Lester Gooch #5)", Some("1.0.6")),
            ("no such option\nversion 1.0", None),
            ("", None),
        ] {
            assert_eq!(version_in(text), version, "{text:?}");
        }
        assert_eq!(numbers("7.2.22"), Some((7, 2)));
        assert_eq!(numbers("10.0"), Some((10, 0)));
        assert_eq!(numbers("seven"), None);
    }
}
