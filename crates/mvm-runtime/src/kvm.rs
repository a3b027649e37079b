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
use mvm_core::Dirs;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Rounds of the guest's loop: two instructions each.
const ITERATIONS: u32 = 1_000_000;
/// How long the probe may take, process and all.
const DEADLINE: Duration = Duration::from_millis(500);
/// The hidden subcommand of `mvmctl` that runs the probe.
const SUBCOMMAND: &str = "__probe-kvm";

/// Whether guests run with KVM here: from memory for this boot of the host, else by trying.
pub(crate) async fn runs(dirs: &Dirs) -> bool {
    // A device that cannot be opened now may be opened after the next login: never remembered, and costs nothing.
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    crate::probes::once_a_boot(dirs, "kvm", async || try_in_child().await).await
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
