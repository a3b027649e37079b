//! `mvmctl ls`.

use crate::Context;
use mvm_core::Fault;

/// List the VMs that run
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Those that do not run as well
    #[arg(short, long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: LsArgs, ctx: &Context) -> Result<u8, Fault> {
    let mut vms = ctx.registry.list()?;
    ctx.registry.settle_backends(&vms).await;
    vms.retain(|vm| args.all || vm.record.state.is_live());
    if args.json {
        ctx.ui.json(&vms)?;
        return Ok(0);
    }
    let rows: Vec<[String; 6]> = vms
        .iter()
        .map(|vm| {
            let live = vm.record.state.is_live();
            let ports = if live { &vm.record.ports } else { &vm.spec.ports };
            [
                vm.spec.name.to_string(),
                vm.record.state.to_string(),
                vm.spec.vcpus.to_string(),
                vm.spec.memory.to_string(),
                ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                vm.spec.source.to_string(),
            ]
        })
        .collect();
    ctx.ui.table(["NAME", "STATE", "CPUS", "MEMORY", "PORTS", "SOURCE"], &rows);
    Ok(0)
}
