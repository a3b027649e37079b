//! What the tests of images share: folders of their own, file systems and kernels to judge.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may panic, and not every test file uses all"
)]

use mvm_core::{Dirs, GUEST_SCHEMA, GuestConfig};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that no user and no other test has.
pub struct Home {
    pub root: tempfile::TempDir,
    pub dirs: Dirs,
}

impl Home {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dirs = dirs_in(root.path());
        Self { root, dirs }
    }
}

pub fn dirs_in(home: &Path) -> Dirs {
    Dirs::from_vars(|name| (name == "HOME").then(|| home.into())).unwrap()
}

/// Runs one of e2fsprogs' programs, which are not on everybody's PATH.
pub fn e2fs(program: &str, args: &[&OsStr]) -> (bool, String) {
    let path = ["/usr/sbin", "/sbin", "/usr/bin"].map(|d| Path::new(d).join(program)).into_iter().find(|p| p.is_file());
    let out = Command::new(path.unwrap_or(program.into())).args(args).output().expect("e2fsprogs is installed");
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

/// The content of a file inside an ext4 image.
pub fn cat(image: &Path, path: &str) -> Vec<u8> {
    let program = ["/usr/sbin/debugfs", "/sbin/debugfs"].into_iter().find(|p| Path::new(p).is_file());
    let out =
        Command::new(program.unwrap_or("debugfs")).args(["-R", &format!("cat {path}")]).arg(image).output().unwrap();
    out.stdout
}

/// What debugfs says of a file inside an ext4 image.
pub fn stat(image: &Path, path: &str) -> String {
    e2fs("debugfs", &[OsStr::new("-R"), OsStr::new(&format!("stat {path}")), image.as_os_str()]).1
}

/// Asserts that a file system is sound.
pub fn check_fs(image: &Path) {
    let (ok, said) = e2fs("e2fsck", &["-fn".as_ref(), image.as_os_str()]);
    assert!(ok, "{said}");
}

/// Debian's cloud kernel, unpacked; `scripts/dev-setup.sh` puts it there.
pub fn stock_kernel() -> PathBuf {
    if let Some(given) = std::env::var_os("MVM_TEST_KERNEL_STOCK") {
        return given.into();
    }
    let kernels = Dirs::from_env().unwrap().kernels();
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    fs::read_dir(&kernels)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().and_then(OsStr::to_str).is_some_and(|n| n.starts_with("debian-") && n.ends_with(arch)))
        .unwrap_or_else(|| {
            panic!("no stock kernel in {}: run scripts/dev-setup.sh or set MVM_TEST_KERNEL_STOCK", kernels.display())
        })
}

/// An ELF header of this machine's CPU, or of the other one.
pub fn elf(here: bool) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[18] = if here == (std::env::consts::ARCH == "x86_64") { 62 } else { 183 };
    bytes
}

/// A configuration with everything in it.
pub fn config(secret: &str) -> GuestConfig {
    GuestConfig {
        schema: GUEST_SCHEMA,
        name: "a-vm".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        now: 1,
        env: [("KEY".to_string(), "value".to_string())].into(),
        volumes: Vec::new(),
        secrets: false,
        interface: None,
        host_public_key: "aa".repeat(32),
        guest_secret_key: secret.into(),
    }
}

/// Names of what a folder holds, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
