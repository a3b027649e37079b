//! What the numbers were measured on.

use super::Failure;
use std::process::Command;

/// Facts by name.
pub(super) fn facts(accelerator: Option<String>) -> Result<Vec<(&'static str, String)>, Failure> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let cpu = field(&cpuinfo, "model name").unwrap_or("unknown");
    let memory_kib: u64 = field(&meminfo, "MemTotal").and_then(|m| m.split(' ').next()?.parse().ok()).unwrap_or(0);
    let system = rustix::system::uname();
    let accelerator = match accelerator.as_deref() {
        Some("tcg") => "tcg: vCPUs are emulated, KVM does not work here".into(),
        Some(other) => other.to_string(),
        None => "unknown".into(),
    };
    Ok(vec![
        ("date", said("date", &["-u", "+%F %H:%M UTC"])),
        ("mvm", said("git", &["describe", "--always", "--dirty", "--exclude=*"])),
        ("CPU", format!("{} × {cpu}", std::thread::available_parallelism()?)),
        ("memory", format!("{} MiB", memory_kib / 1024)),
        ("host kernel", system.release().to_string_lossy().into_owned()),
        ("QEMU", said("qemu-system-x86_64", &["--version"])),
        ("accelerator", accelerator),
        ("load at the end", std::fs::read_to_string("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" ")),
    ])
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim()))
}

/// The first line that a program says.
fn said(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().ok().filter(|out| out.status.success());
    let line = out.and_then(|out| Some(String::from_utf8_lossy(&out.stdout).lines().next()?.to_string()));
    line.unwrap_or_else(|| "unknown".into())
}
