//! Commands that start no VM.

use super::programs::Programs;
use super::row::{Against, Row};
use super::sample::{alone, timed};
use super::user::User;
use super::{Effort, Failure};
use mvm_core::{MemorySize, VmName, VmRecord, VmSource, VmSpec, VmState};

/// VMs that `ls` finds.
const VMS: usize = 200;
/// Most of what the public tool of the same name takes.
const PROMISED: f64 = 0.6;
/// What that tool, version 0.13.0, took for `--version` and for an empty list on such a machine, in milliseconds:
/// measured once, for it cannot be had everywhere.
const VERSION_MS: f64 = 5.0;
const LIST_MS: f64 = 22.0;

pub(super) fn measure(programs: &Programs, effort: Effort) -> Result<Vec<Row>, Failure> {
    let user = User::new(programs)?;
    for at in 0..VMS {
        stopped(&user, &format!("bench-{at}"))?;
    }
    let listed = user.output(&["ls", "-a"])?.lines().count();
    if listed != VMS + 1 {
        return Err(format!("ls -a shows {listed} lines for {VMS} VMs").into());
    }
    [(&["--version"] as &[_], "`mvmctl --version`".to_string(), "`--version`", VERSION_MS)]
        .into_iter()
        .chain([
            (&["ls"] as &[_], format!("`mvmctl ls`, {VMS} stopped VMs"), "`ps` without a VM", LIST_MS),
            (&["ls", "-a"], format!("`mvmctl ls -a`, {VMS} stopped VMs"), "`ps` without a VM", LIST_MS),
        ])
        .map(|(args, what, theirs, value)| {
            let ours = alone(effort.commands, || timed(|| user.mvmctl(args)))?;
            let against = Against::Earlier { what: format!("{theirs} of the namesake 0.13.0"), value };
            Ok(Row { what, ours, unit: "ms", against, promised: Some(PROMISED) })
        })
        .collect()
}

/// A VM that has run and was stopped.
fn stopped(user: &User, name: &str) -> Result<(), Failure> {
    let spec = VmSpec {
        schema: 1,
        name: VmName::new(name)?,
        machine_id: "0".repeat(32),
        source: VmSource::BuiltIn,
        image: user.home().join("image"),
        vcpus: 1,
        memory: MemorySize::from_mib(512)?,
        env: Default::default(),
        ports: Vec::new(),
        volumes: Vec::new(),
        discard_volumes: false,
        secrets: Vec::new(),
        hypervisor: None,
        ephemeral: false,
        created: 0,
    };
    let vm = user.registry.create(&spec, |_| Ok(()))?;
    std::fs::create_dir_all(vm.cache())?;
    Ok(std::fs::write(vm.state(), serde_json::to_vec(&VmRecord::new(VmState::Stopped))?)?)
}
