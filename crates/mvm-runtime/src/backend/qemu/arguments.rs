//! QEMU's argument vector.

use super::command_line::without_acpi;
use super::{Accelerator, Qemu, vsock::Attachment};
use mvm_core::{Drive, LaunchSpec};
use serde_json::json;
use std::ffi::OsString;

/// Descriptors that QEMU inherits.
pub(super) mod fds {
    /// QMP: one end of a socket pair, so that no socket lies on disk and nobody has to wait for one to appear.
    pub(crate) const QMP: i32 = 10;
    /// The serial console.
    pub(crate) const CONSOLE: i32 = 11;
    /// The vhost-user connection of the vsock device.
    pub(crate) const VSOCK: i32 = 12;
}

/// The arguments for one machine. `Err` names a path that QEMU's JSON cannot carry.
pub(super) fn arguments(qemu: &Qemu, spec: &LaunchSpec, vsock: &Attachment) -> Result<Vec<OsString>, String> {
    let mut args: Vec<OsString> = Vec::new();
    let mut arg = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    let memory = spec.memory.mib();
    match qemu.accelerator {
        Accelerator::Kvm => arg(&["-accel", "kvm", "-cpu", "host"]),
        // Emulated string moves are slower than the plain ones that they replace.
        Accelerator::Tcg { .. } => arg(&["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm"]),
    }
    let acpi = if without_acpi(spec) { "off" } else { "on" };
    let machine = if cfg!(target_arch = "aarch64") {
        "virt,memory-backend=ram".to_string()
    } else {
        format!("microvm,memory-backend=ram,acpi={acpi}")
    };
    arg(&["-machine", &machine, "-m", &format!("{memory}M"), "-smp", &spec.vcpus.to_string()]);
    // Shared, because a vhost-user device is another process.
    arg(&["-object", &format!("memory-backend-memfd,id=ram,size={memory}M,share=on")]);
    arg(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // QEMU's own seccomp filter: no new programs, no changed privileges.
    arg(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    arg(&["-name", &format!("mvm-{}", spec.name)]);
    arg(&["-chardev", &format!("socket,id=qmp,fd={}", fds::QMP), "-mon", "chardev=qmp,mode=control"]);
    arg(&["-chardev", &format!("socket,id=console,fd={}", fds::CONSOLE), "-serial", "chardev:console"]);
    for drive in &spec.drives {
        let device = format!("virtio-blk-device,drive={}", drive.role.id());
        args.extend(["-blockdev".into(), block_device(drive)?.into(), "-device".into(), device.into()]);
    }
    let mut arg = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    arg(&["-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-device,rng=entropy"]);
    match vsock {
        Attachment::VhostUser { .. } => arg(&[
            "-chardev",
            &format!("socket,id=vsock,fd={}", fds::VSOCK),
            "-device",
            "vhost-user-vsock-device,chardev=vsock",
        ]),
        #[cfg(target_os = "linux")]
        Attachment::Kernel { cid } => arg(&["-device", &format!("vhost-vsock-device,guest-cid={cid}")]),
    }
    args.extend(["-kernel".into(), spec.kernel.clone().into()]);
    if let Some(initrd) = &spec.initrd {
        args.extend(["-initrd".into(), initrd.clone().into()]);
    }
    args.extend(["-append".into(), qemu.command_line(spec).into()]);
    Ok(args)
}

/// JSON, because QEMU's own option syntax has no clean way to quote a comma in a path.
fn block_device(drive: &Drive) -> Result<String, String> {
    let path = drive.path.to_str().ok_or_else(|| format!("{:?} is not UTF-8", drive.path))?;
    Ok(json!({
        "driver": "raw",
        "node-name": drive.role.id(),
        "read-only": drive.read_only,
        "discard": "unmap",
        "file": { "driver": "file", "filename": path, "read-only": drive.read_only, "discard": "unmap" },
    })
    .to_string())
}
