//! The machine to work in as a Lima instance.

use super::{DevUpArgs, Machine};
use crate::Context;
use crate::interrupt::Interrupts;
use crate::lima;
use mvm_core::{ErrorKind, Fault};
use mvm_runtime::lima::{Lima, Sizes, Status};

pub(super) async fn up(ctx: &Context, instance: &Lima, args: DevUpArgs) -> Result<u8, Fault> {
    if args.image.is_some() {
        let fault = Fault::new(ErrorKind::Usage, "--image is for a VM, and the machine here is a Lima instance");
        return Err(fault.with_hint("`mvmctl up dev --image …` makes a VM in it"));
    }
    let default = lima::default_sizes()?;
    let sizes = Sizes {
        cpus: args.cpus.unwrap_or(default.cpus),
        memory: args.memory.unwrap_or(default.memory),
        disk_gib: args.disk.unwrap_or(default.disk_gib),
    };
    let sized = args.cpus.is_some() || args.memory.is_some() || args.disk.is_some();
    if sized && instance.status().await? != Status::Absent {
        let message = format!("the Lima instance {} exists already: its sizes were decided then", instance.name());
        let hint = format!("`limactl edit {}` changes them", instance.name());
        return Err(Fault::new(ErrorKind::Usage, message).with_hint(hint));
    }
    let mut interrupts = Interrupts::hear()?;
    tokio::select! {
        ready = lima::ready(ctx, instance, &sizes) => ready?,
        fault = interrupts.fault() => return Err(fault),
    }
    ctx.ui.status(&format!("the Lima instance {} runs", instance.name()));
    Ok(0)
}

pub(super) async fn down(ctx: &Context, instance: &Lima) -> Result<u8, Fault> {
    if instance.status().await? == Status::Running {
        instance.stop().await?;
        ctx.ui.status(&format!("the Lima instance {} is stopped", instance.name()));
    } else {
        ctx.ui.status(&format!("the Lima instance {} does not run", instance.name()));
    }
    Ok(0)
}

/// A shell of its user in the current folder.
pub(super) async fn shell(instance: &Lima) -> Result<u8, Fault> {
    instance.running().await?;
    let mut interrupts = Interrupts::hear()?;
    tokio::select! {
        code = instance.open_shell() => Ok(code?),
        fault = interrupts.fault() => Err(fault),
    }
}

pub(super) async fn status(ctx: &Context, instance: &Lima, json: bool) -> Result<u8, Fault> {
    let status = instance.status().await?;
    let mvmctl = if status == Status::Running { instance.version().await? } else { None };
    let state = match status {
        Status::Absent => "absent".into(),
        Status::Running => "running".into(),
        Status::Other(word) => word.to_lowercase(),
    };
    Machine { kind: "lima", name: instance.name(), state, mvmctl }.tell(ctx, json)
}
