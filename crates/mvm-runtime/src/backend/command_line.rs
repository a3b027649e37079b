//! Kernel command lines, chosen by measured facts, in one place. `mvmctl inspect` shows the result.

use mvm_core::LaunchSpec;

/// For every guest.
const COMMON: &[&str] = &[
    "panic=-1",
    // The log carries warnings and panics; every line of the serial port costs a guest exit a byte.
    "console=ttyS0",
    "quiet",
    "loglevel=4",
    "8250.nr_uarts=1",
    // Self-tests of crypto and probes of PC keyboards cost boot time and find nothing in a VM.
    "cryptomgr.notests",
    "i8042.noaux",
    "i8042.nomux",
    "i8042.dumbkbd",
    "random.trust_cpu=on",
    "rcupdate.rcu_expedited=1",
];

/// The whole command line: what the hypervisor adds, what every guest has, then the image's own words, which so have the
/// last say.
pub(super) fn kernel_command_line<'w>(
    spec: &LaunchSpec,
    hypervisors: &[&'w str],
    images: impl Iterator<Item = &'w str>,
) -> String {
    let mut words = [hypervisors, COMMON].concat();
    if spec.initrd.is_none() {
        // The root is the first drive that the machine is given; the guest checks its label before it trusts it.
        words.extend_from_slice(&["root=/dev/vda", "ro", "init=/sbin/mvm-guest"]);
    }
    words.extend(images);
    words.join(" ")
}
