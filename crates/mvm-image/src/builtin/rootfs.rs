//! The root file system of the built-in image, laid out in a folder: mvm-guest, busybox and a handful of files.

use super::inputs::Inputs;
use crate::error::ImageError;
use mvm_core::{AccessPolicy, GUEST_MANIFEST_PATH, GUEST_SCHEMA, GuestManifest};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// What does not belong to root: path, user id, group id.
pub(super) const OWNERS: [(&str, u32, u32); 1] = [("home/user", 1000, 1000)];

const FOLDERS: [(&str, u32); 20] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/mvm", 0o755),
    ("home", 0o755),
    ("home/user", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

const LINKS: [(&str, &str); 4] =
    [("usr/bin", "../bin"), ("usr/sbin", "../sbin"), ("var/run", "../run"), ("etc/mtab", "../proc/self/mounts")];

const FILES: [(&str, u32, &str); 9] = [
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\n\
         user:x:1000:1000:user:/home/user:/bin/sh\n\
         nobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    // No password opens anything: who comes in comes through the agent.
    ("etc/shadow", 0o600, "root:*:::::::\nuser:*:::::::\nnobody:*:::::::\n"),
    ("etc/group", 0o644, "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
    // Written by mvm-guest where the VM has a network.
    ("etc/resolv.conf", 0o644, ""),
    ("etc/shells", 0o644, "/bin/sh\n/bin/ash\n"),
    ("etc/profile", 0o644, "export PS1='\\u@\\h:\\w\\$ '\n"),
    ("etc/os-release", 0o644, "NAME=mvm\nID=mvm\nPRETTY_NAME=\"mvm built-in image\"\n"),
    ("etc/issue", 0o644, "mvm built-in image\n"),
];

/// How large a file system the folder needs.
pub(super) struct Furnished {
    /// Bytes.
    pub size: u64,
    pub inodes: u32,
}

/// Lays out the root file system in an empty folder. Modes are set one by one: the umask has no say in them.
pub(super) fn furnish(root: &Path, inputs: &Inputs) -> Result<Furnished, ImageError> {
    let applets = applets(&inputs.busybox_path)?;
    let manifest = GuestManifest { schema: GUEST_SCHEMA, policy: AccessPolicy::OPEN, ..GuestManifest::default() };
    let write = || -> io::Result<Furnished> {
        let manifest = serde_json::to_string_pretty(&manifest)?;
        let mut bytes = 0;
        for (path, mode) in FOLDERS {
            fs::create_dir(root.join(path))?;
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode))?;
        }
        let programs = [("sbin/mvm-guest", &inputs.guest), ("bin/busybox", &inputs.busybox)];
        let files = programs
            .map(|(path, content)| (path, 0o755, content.as_slice()))
            .into_iter()
            .chain(FILES.map(|(path, mode, content)| (path, mode, content.as_bytes())))
            .chain([(GUEST_MANIFEST_PATH.trim_start_matches('/'), 0o644, manifest.as_bytes())]);
        let mut inodes = FOLDERS.len() + LINKS.len() + applets.len();
        for (path, mode, content) in files {
            fs::write(root.join(path), content)?;
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode))?;
            bytes += content.len().next_multiple_of(4096) as u64;
            inodes += 1;
        }
        for (path, target) in LINKS {
            symlink(target, root.join(path))?;
        }
        for applet in &applets {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        // Folders, tables and bitmaps take little; holes cost nothing.
        let inodes = inodes as u32 + 64;
        let size = (bytes + u64::from(inodes) * 256 + (2 << 20)).next_multiple_of(1 << 20);
        Ok(Furnished { size, inodes })
    };
    write().map_err(ImageError::io("write", root))
}

/// The names under which busybox does something.
fn applets(busybox: &Path) -> Result<Vec<String>, ImageError> {
    let fail =
        |why: String| ImageError::Unusable { path: busybox.into(), why, hint: "set MVM_BUSYBOX to another busybox" };
    let listed = Command::new(busybox)
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fail(format!("it cannot be run: {e}")))?;
    let names: std::collections::BTreeSet<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(str::trim)
        .filter(|name| !name.is_empty() && *name != "busybox" && !name.contains('/') && !name.starts_with('.'))
        .map(String::from)
        .collect();
    if !listed.status.success() || !names.contains("sh") {
        return Err(fail("it does not list a shell among its applets".into()));
    }
    Ok(names.into_iter().collect())
}
