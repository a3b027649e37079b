//! `mvmctl inspect`.

use crate::Context;
use mvm_core::{ExitReason, Fault, VmDirs, VmName, VmRecord, VmSpec};

/// Show all that is known of a VM
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The VM
    name: VmName,
    /// As JSON: its spec and the record of its last start
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: InspectArgs, ctx: &Context) -> Result<u8, Fault> {
    let vm = ctx.registry.get(&args.name)?;
    if args.json {
        ctx.ui.json(&vm)?;
        return Ok(0);
    }
    let dirs = ctx.registry.vm(&args.name);
    let mut facts = asked(&vm.spec, &dirs);
    facts.extend(seen(&vm.record, &vm.spec));
    facts.push(("console log", dirs.console_log().display().to_string()));
    ctx.ui.facts(&facts);
    Ok(0)
}

type Facts = Vec<(&'static str, String)>;

/// What was asked for.
fn asked(spec: &VmSpec, dirs: &VmDirs) -> Facts {
    let mut facts = vec![
        ("name", spec.name.to_string()),
        ("machine id", spec.machine_id.clone()),
        ("source", spec.source.to_string()),
        ("image", spec.image.display().to_string()),
        ("vCPUs", spec.vcpus.to_string()),
        ("memory", spec.memory.to_string()),
    ];
    facts.extend(spec.env.iter().map(|(name, value)| ("environment", format!("{name}={value}"))));
    facts.extend(spec.volumes.iter().map(|volume| {
        ("volume", format!("{} on {}: {}", volume.name, volume.mount_point, dirs.volume(&volume.name).display()))
    }));
    facts.extend(spec.secrets.iter().map(|name| ("secret", format!("/run/secrets/{name}"))));
    if spec.ephemeral {
        facts.push(("when it stops", "it is removed".into()));
    }
    facts
}

/// What was seen of it since its last start.
fn seen(record: &VmRecord, spec: &VmSpec) -> Facts {
    let mut facts = vec![("state", record.state.to_string())];
    let ports = if record.state.is_live() { &record.ports } else { &spec.ports };
    facts.extend(ports.iter().map(|port| ("port", port.to_string())));
    if let Some(hypervisor) = record.hypervisor {
        let how = record.accelerator.as_deref().map_or(String::new(), |how| format!(", {how}"));
        facts.push(("hypervisor", format!("{hypervisor}{how}")));
    }
    for (what, pid) in [("supervisor", record.supervisor_pid), ("VMM", record.vmm_pid)] {
        facts.extend(pid.map(|pid| (what, format!("process {pid}"))));
    }
    facts.extend(record.boot_ms.map(|ms| ("ready after", format!("{ms} ms"))));
    facts.extend(record.phases.iter().map(|phase| {
        // The guest's clock starts with its kernel, later than the VMM.
        ("guest's clock", format!("{:>6.0} ms  {}", phase.at_us as f64 / 1000.0, phase.name))
    }));
    facts.extend(record.cmdline.clone().map(|cmdline| ("kernel", cmdline)));
    facts.extend(record.exit.as_ref().map(|exit| ("ended", ended(exit))));
    facts.extend(record.fault.as_ref().map(|fault| ("fault", fault.message.clone())));
    facts
}

fn ended(exit: &ExitReason) -> String {
    match exit {
        ExitReason::Requested => "as asked".into(),
        ExitReason::Killed => "as asked, without the guest's consent".into(),
        ExitReason::GuestPoweredOff => "by itself, in order".into(),
        ExitReason::Crashed { detail } => detail.clone(),
        ExitReason::BootFailed => "before it was ready".into(),
        ExitReason::SupervisorDied => "when its supervisor died".into(),
    }
}
