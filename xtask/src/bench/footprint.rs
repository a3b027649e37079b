//! What a running VM costs beside itself.

use super::Failure;
use super::row::{Against, Row};
use super::user::User;

const KIB_PER_MIB: f64 = 1024.0;

pub(super) fn measure(user: &User, vm: &str) -> Result<Vec<Row>, Failure> {
    let pid = user.snapshot(vm)?.record.supervisor_pid.ok_or("the VM has no supervisor")?;
    let supervisor = resident(&std::fs::read_to_string(format!("/proc/{pid}/status"))?)?;
    let agent = resident(&user.output(&["exec", vm, "--", "cat", "/proc/1/status"])?)?;
    let program = std::fs::metadata(&user.programs.guest)?.len() as f64 / KIB_PER_MIB / KIB_PER_MIB;
    let row = |what: &str, ours: f64, promised| Row {
        what: what.into(),
        ours: [ours].into_iter().collect(),
        unit: "MiB",
        against: Against::Nothing,
        promised: Some(promised),
    };
    Ok(vec![
        row("Supervisor, resident memory", supervisor, 12.0),
        row("Agent (PID 1 of the guest), resident memory", agent, 4.0),
        row("`mvm-guest`, size of the program", program, 3.0),
    ])
}

/// `VmRSS` of a `/proc/PID/status`, in MiB (proc_pid_status(5): it is told in kB, which are KiB).
fn resident(status: &str) -> Result<f64, Failure> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: f64 = line.trim().strip_suffix("kB").ok_or("VmRSS is not in kB")?.trim().parse()?;
    Ok(kib / KIB_PER_MIB)
}

#[cfg(test)]
mod tests {
    #[test]
    fn resident_memory_is_read() {
        assert_eq!(super::resident("Name:\tx\nVmRSS:\t    2048 kB\n").unwrap(), 2.0);
        assert!(super::resident("Name:\tkthreadd\n").is_err());
    }
}
