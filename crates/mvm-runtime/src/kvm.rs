//! Whether KVM really runs guests here, found out by running one.
//!
//! A device file that opens proves nothing: on some hosts KVM creates VMs but executes guest kernel code in an
//! instruction emulator, a thousand times slower, and stops at the first instruction that it lacks. So a vCPU has
//! to get through a loop of [`ITERATIONS`] in [`DEADLINE`]. Hardware does it in about a millisecond.
//! The probe is a process of its own, because a vCPU that hangs can only be killed. Its answer holds for one boot
//! of the host and is kept.
#![allow(unsafe_code)]

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use mvm_core::{Dirs, Kvm as State};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const DEVICE: &str = "/dev/kvm";
/// Rounds of the guest's loop: two instructions each.
const ITERATIONS: u32 = 1_000_000;
/// How long the probe may take, process and all: long for hardware, short for whoever waits for `doctor`.
const DEADLINE: Duration = Duration::from_millis(250);
/// The hidden subcommand of `mvmctl` that runs the probe.
const SUBCOMMAND: &str = "__probe-kvm";

/// Whether guests run with KVM here: from memory for this boot of the host, else by trying.
pub(crate) async fn state(dirs: &Dirs) -> State {
    // A device that cannot be opened now may be opened after the next login: never remembered, and costs nothing.
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(DEVICE) {
        return match error.kind() {
            io::ErrorKind::NotFound => State::NoDevice,
            io::ErrorKind::PermissionDenied => denied(),
            _ => State::Broken { detail: error.to_string() },
        };
    }
    match crate::probes::once_a_boot(dirs, "kvm", async || try_in_child().await).await {
        true => State::Works,
        false => State::Stalls,
    }
}

/// Whose the device is, and whether the user is to be one of them from the next login on.
fn denied() -> State {
    let on_paper = || -> Option<(String, bool)> {
        let device = std::fs::metadata(DEVICE).ok()?;
        // Of a group that may not use it nobody has to be a member.
        let gid = Some(device.gid()).filter(|_| device.mode() & 0o060 == 0o060)?;
        let groups = std::fs::read_to_string("/etc/group").ok()?;
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        membership(&groups, &passwd, rustix::process::getuid().as_raw(), gid)
    };
    match on_paper() {
        Some((group, on_paper)) => State::Denied { group: Some(group), on_paper },
        None => State::Denied { group: None, on_paper: false },
    }
}

/// The name of a group, and whether a user is in it according to group(5) and passwd(5).
fn membership(groups: &str, passwd: &str, uid: u32, gid: u32) -> Option<(String, bool)> {
    let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let group = groups.lines().map(fields).find(|f| f.get(2).is_some_and(|g| *g == gid.to_string()))?;
    let user = passwd.lines().map(fields).find(|f| f.get(2).is_some_and(|u| *u == uid.to_string()));
    let is_in = user.is_some_and(|user| {
        let primary = user.get(3).is_some_and(|g| *g == gid.to_string());
        primary
            || group.get(3).is_some_and(|members| {
                members.split(',').any(|member| Some(member) == user.first().map(String::as_str))
            })
    });
    group.into_iter().next().map(|name| (name, is_in))
}

async fn try_in_child() -> bool {
    let Ok(program) = std::env::current_exe() else { return false };
    let mut command = Command::new(program);
    command.arg(SUBCOMMAND).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It hangs where KVM does: whoever kills us must not have to kill it too.
    crate::child::die_with_parent(&mut command);
    match tokio::time::timeout(DEADLINE, command.status()).await {
        Ok(Ok(status)) => status.success(),
        _ => false,
    }
}

/// Runs one vCPU to its `hlt`. May hang: run it in a process that can be killed.
pub fn run_probe() -> Result<(), String> {
    /// mov ecx, ITERATIONS · dec ecx · jnz -4 · hlt, in 16-bit real mode with 32-bit operands.
    const CODE: [u8; 11] = {
        let [a, b, c, d] = ITERATIONS.to_le_bytes();
        [0x66, 0xb9, a, b, c, d, 0x66, 0x49, 0x75, 0xfc, 0xf4]
    };
    const BASE: u64 = 0x1000;
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let text = |e: kvm_ioctls::Error| e.to_string();
    let vm = Kvm::new().map_err(text)?.create_vm().map_err(text)?;
    let mut page = Box::new(Page([0; 4096]));
    page.0[..CODE.len()].copy_from_slice(&CODE);
    let region = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: BASE,
        memory_size: page.0.len() as u64,
        userspace_addr: page.0.as_mut_ptr() as u64,
        flags: KVM_MEM_LOG_DIRTY_PAGES,
    };
    // SAFETY: the page is page-aligned, of the size given, and outlives `vm` and `vcpu`, which are dropped before it.
    unsafe { vm.set_user_memory_region(region) }.map_err(text)?;
    let mut vcpu = vm.create_vcpu(0).map_err(text)?;
    let mut sregs = vcpu.get_sregs().map_err(text)?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).map_err(text)?;
    let mut regs = vcpu.get_regs().map_err(text)?;
    (regs.rip, regs.rflags) = (BASE, 2);
    vcpu.set_regs(&regs).map_err(text)?;
    match vcpu.run().map_err(text)? {
        VcpuExit::Hlt => Ok(()),
        other => Err(format!("the vCPU stopped with {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_on_paper() {
        let groups = "root:x:0:\nkvm:x:104:ann,bob\nempty:x:105:\nbroken\n";
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\ncat:x:1002:104::/:/bin/sh\n";
        let of = |uid, gid| membership(groups, passwd, uid, gid);
        assert_eq!(of(1000, 104), Some(("kvm".into(), true)));
        assert_eq!(of(1002, 104), Some(("kvm".into(), true)), "it is her own group");
        assert_eq!(of(0, 104), Some(("kvm".into(), false)));
        assert_eq!(of(1000, 105), Some(("empty".into(), false)));
        assert_eq!(of(4242, 104), Some(("kvm".into(), false)), "a user that passwd does not know");
        assert_eq!(of(1000, 999), None);
    }
}
