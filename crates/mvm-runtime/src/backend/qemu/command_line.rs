//! What a guest's kernel has to know of QEMU.

use super::super::command_line::kernel_command_line;
use super::Accelerator;
use mvm_core::LaunchSpec;

/// The microvm machine has no power switch: a guest ends by a reset, which QEMU (-no-reboot) takes as the end.
const POWER_OFF: &str = "reboot=t";

/// For guests whose vCPUs are emulated. No host data shares a physical core's caches with guest code that
/// speculates here, for TCG does not speculate: so mitigations only cost time. Never set with KVM.
const EMULATED: &[&str] = &[
    "tsc=reliable",
    "no_timer_check",
    // With one vCPU the kernel takes the lock prefixes out of its own code: thousands of writes to code that the emulator
    // has translated, 50 to 100 ms of them.
    "noreplace-smp",
    "mitigations=off",
    "init_on_alloc=0",
    "audit=0",
];

/// Devices that the microvm machine has room for without ACPI; with it there is room for 24 (QEMU `hw/i386/microvm.c`).
const ROOM_WITHOUT_ACPI: usize = 8;
/// Those that are no drives: vsock and entropy.
const OTHER_DEVICES: usize = 2;
/// An image's word for a kernel that needs no ACPI.
const NO_ACPI: &str = "acpi=off";

/// Whether the VM does without ACPI: its kernel can, finding its drives on the command line that QEMU adds to ours, and
/// they are few enough.
pub(super) fn without_acpi(spec: &LaunchSpec) -> bool {
    spec.drives.len() + OTHER_DEVICES <= ROOM_WITHOUT_ACPI
        && spec.cmdline.split_whitespace().any(|word| word == NO_ACPI)
}

/// The whole command line.
pub(super) fn command_line(accelerator: Accelerator, spec: &LaunchSpec) -> String {
    let mut words = vec![POWER_OFF];
    let tsc;
    if let Accelerator::Tcg { tsc_khz } = accelerator {
        words.extend_from_slice(EMULATED);
        if let Some(khz) = tsc_khz {
            // Without a known frequency 7 of 8 boots hang in early TSC calibration on the microvm machine; with a wrong
            // one the guest's clock runs at a wrong rate, for this is the host's counter.
            tsc = format!("tsc_early_khz={khz}");
            words.push(&tsc);
        }
        if without_acpi(spec) {
            // The PIT ticks instead of the local APIC's timer, which takes 0.2 s to calibrate. With ACPI there is no PIT:
            // the clock of an idle guest would never tick again.
            words.push("noapictimer");
        }
    }
    // Where it has more drives than fit without ACPI, the image's kernel cannot have its way.
    let with_acpi = !without_acpi(spec);
    let images = spec.cmdline.split_whitespace().filter(|word| !(with_acpi && *word == NO_ACPI));
    kernel_command_line(spec, &words, images)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_core::{Drive, DriveRole, KernelFormat, MemorySize, VmName};

    fn spec(drives: u8) -> LaunchSpec {
        let drive = |n| Drive { role: DriveRole::Data(n), path: "/d".into(), read_only: false };
        LaunchSpec {
            name: VmName::new("a").unwrap(),
            vcpus: 1,
            memory: MemorySize::MIN,
            kernel: "/k".into(),
            kernel_format: KernelFormat::Elf,
            initrd: None,
            cmdline: "acpi=off  a=b".into(),
            drives: (0..drives).map(drive).collect(),
            config: serde_json::from_str(
                r#"{"schema":1,"name":"a","machineId":"0","hostPublicKey":"k","guestSecretKey":"s"}"#,
            )
            .unwrap(),
            agent: serde_json::from_str(r#"{"protocol":1,"version":"0.1.0"}"#).unwrap(),
            runtime_dir: "/r".into(),
        }
    }

    #[test]
    fn a_vm_of_many_drives_has_acpi() {
        let line = |drives| command_line(Accelerator::Tcg { tsc_khz: None }, &spec(drives));
        assert!(without_acpi(&spec(6)) && line(6).contains(" noapictimer "));
        assert!(line(6).ends_with(" root=/dev/vda ro init=/sbin/mvm-guest acpi=off a=b"), "{}", line(6));
        assert!(!without_acpi(&spec(7)) && line(7).ends_with(" root=/dev/vda ro init=/sbin/mvm-guest a=b"));
        assert!(!line(7).contains("noapictimer"));
    }
}
