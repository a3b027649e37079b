//! What a VM of Virtualization.framework is made of, as plain data.

use crate::backend::BackendError;
use mvm_core::{Hypervisor, LaunchSpec};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The framework attaches raw images of whole sectors only.
const SECTOR: u64 = 512;

/// For every guest. The console is a virtio device; power is switched off by PSCI, which arm64 always has.
const COMMON: &[&str] = &[
    "console=hvc0",
    "quiet",
    "loglevel=4",
    // A reset starts the guest afresh here, with nobody told: its agent then announces itself again.
    "panic=-1",
    "cryptomgr.notests",
    "random.trust_cpu=on",
    "rcupdate.rcu_expedited=1",
];

/// What the framework allows on this Mac.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    /// Virtual CPUs.
    pub(super) vcpus: RangeInclusive<u64>,
    /// Bytes of memory.
    pub(super) memory: RangeInclusive<u64>,
}

/// A VM: boot loader, sizes and disks. Each has beside them a virtio console, a socket device, an entropy device and a
/// memory balloon, and no network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Configuration {
    /// An arm64 `Image`.
    pub(super) kernel: String,
    pub(super) initrd: Option<String>,
    pub(super) command_line: String,
    pub(super) vcpus: u64,
    /// In bytes.
    pub(super) memory: u64,
    /// In the order of the spec. Guests find them by label.
    pub(super) disks: Vec<Disk>,
}

/// A raw disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) path: String,
    pub(super) read_only: bool,
}

/// The whole command line: ours, then the image's own words, which so have the last say.
pub(super) fn command_line(spec: &LaunchSpec) -> String {
    COMMON.iter().copied().chain(spec.cmdline.split_whitespace()).collect::<Vec<_>>().join(" ")
}

impl Configuration {
    /// Checks what the framework would refuse with less to say. Too little is raised to its least, too much is an error.
    pub(super) fn of(spec: &LaunchSpec, limits: &Limits) -> Result<Self, BackendError> {
        let vcpus = u64::from(spec.vcpus).max(*limits.vcpus.start());
        if vcpus > *limits.vcpus.end() {
            let max = u32::try_from(*limits.vcpus.end()).unwrap_or(u32::MAX);
            return Err(BackendError::Vcpus { hypervisor: Hypervisor::Apple, max, asked: spec.vcpus });
        }
        let memory = (spec.memory.mib() << 20).max(*limits.memory.start());
        if memory > *limits.memory.end() {
            let most = *limits.memory.end() >> 20;
            return Err(cannot(format!("it gives a VM at most {most} MiB of memory here, not {}", spec.memory)));
        }
        let disks = spec.drives.iter().map(|drive| {
            whole_sectors(&drive.path)?;
            Ok(Disk { path: text(&drive.path)?, read_only: drive.read_only })
        });
        Ok(Self {
            kernel: text(&spec.kernel)?,
            initrd: spec.initrd.as_deref().map(text).transpose()?,
            command_line: command_line(spec),
            vcpus,
            memory,
            disks: disks.collect::<Result<_, BackendError>>()?,
        })
    }
}

fn whole_sectors(path: &Path) -> Result<(), BackendError> {
    let length = path.metadata().map_err(|e| cannot(format!("{}: {e}", path.display())))?.len();
    if length > 0 && length.is_multiple_of(SECTOR) {
        return Ok(());
    }
    Err(cannot(format!("{} has {length} bytes, and a raw disk has whole sectors of {SECTOR}", path.display())))
}

/// A path as the framework takes it.
fn text(path: &Path) -> Result<String, BackendError> {
    PathBuf::from(path).into_os_string().into_string().map_err(|path| cannot(format!("{path:?} is not UTF-8")))
}

/// A machine that cannot be started.
pub(super) fn cannot(detail: String) -> BackendError {
    BackendError::Start { program: "Virtualization.framework".into(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_core::{Drive, DriveRole, KernelFormat, MemorySize};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    const LIMITS: Limits = Limits { vcpus: 1..=8, memory: (128 << 20)..=(4 << 30) };

    fn spec(folder: &Path) -> LaunchSpec {
        let drive = |role: DriveRole, read_only| {
            let path = folder.join(role.id());
            std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
            Drive { role, path, read_only }
        };
        LaunchSpec {
            name: "web".parse().unwrap(),
            vcpus: 2,
            memory: MemorySize::from_mib(512).unwrap(),
            kernel: "/k/Image".into(),
            kernel_format: KernelFormat::Image,
            initrd: Some("/k/initrd".into()),
            cmdline: " acpi=off  loglevel=7 ".into(),
            drives: vec![
                drive(DriveRole::Root, true),
                drive(DriveRole::Writable, false),
                drive(DriveRole::Config, true),
            ],
            config: serde_json::from_str(
                r#"{"schema":1,"name":"a","machineId":"0","hostPublicKey":"k","guestSecretKey":"s"}"#,
            )
            .unwrap(),
            agent: serde_json::from_str(r#"{"protocol":1,"version":"0.1.0"}"#).unwrap(),
            runtime_dir: folder.into(),
        }
    }

    #[test]
    fn a_spec_becomes_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let made = Configuration::of(&spec(dir.path()), &LIMITS).unwrap();
        assert_eq!((made.kernel.as_str(), made.initrd.as_deref()), ("/k/Image", Some("/k/initrd")));
        assert_eq!((made.vcpus, made.memory), (2, 512 << 20));
        let disks: Vec<_> = made.disks.iter().map(|d| (d.path.rsplit('/').next().unwrap(), d.read_only)).collect();
        assert_eq!(disks, [("root", true), ("rw", false), ("config", true)]);
        assert!(made.command_line.starts_with("console=hvc0 ") && made.command_line.ends_with(" acpi=off loglevel=7"));
    }

    #[test]
    fn too_little_is_raised_and_too_much_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut asked = spec(dir.path());
        asked.memory = MemorySize::from_mib(64).unwrap();
        assert_eq!(Configuration::of(&asked, &LIMITS).unwrap().memory, 128 << 20);
        asked.memory = MemorySize::from_mib(4097).unwrap();
        let said = Configuration::of(&asked, &LIMITS).unwrap_err().to_string();
        assert!(said.contains("at most 4096 MiB"), "{said}");
        asked.vcpus = 9;
        let said = Configuration::of(&asked, &LIMITS).unwrap_err().to_string();
        assert_eq!(said, "apple gives a VM at most 8 vCPUs, not 9");
    }

    #[test]
    fn a_disk_has_whole_sectors_and_a_path_of_text() {
        let dir = tempfile::tempdir().unwrap();
        let mut odd = spec(dir.path());
        for length in [0, 513] {
            std::fs::File::create(&odd.drives[1].path).unwrap().set_len(length).unwrap();
            let said = Configuration::of(&odd, &LIMITS).unwrap_err().to_string();
            assert!(said.contains(&format!("{length} bytes")), "{said}");
        }
        std::fs::remove_file(&odd.drives[1].path).unwrap();
        assert!(Configuration::of(&odd, &LIMITS).is_err());
        odd = spec(dir.path());
        odd.kernel = OsStr::from_bytes(b"/k\xff").into();
        let said = Configuration::of(&odd, &LIMITS).unwrap_err().to_string();
        assert!(said.contains("not UTF-8"), "{said}");
    }
}
