//! `mvmctl logs`.

use crate::Context;
use crate::follow::{LogFollower, Tail};
use mvm_core::{Fault, VmName};
use mvm_runtime::ControlClient;
use mvm_runtime::control::ControlRequest;

/// Show what a VM's console said since its last start
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The VM
    name: VmName,
    /// Go on until the VM ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of what there is
    #[arg(short = 'n', long = "lines", value_name = "N")]
    lines: Option<usize>,
    /// What the hypervisor and the supervisor said instead
    #[arg(long)]
    hypervisor: bool,
}

pub(crate) async fn run(args: LogsArgs, ctx: &Context) -> Result<u8, Fault> {
    ctx.registry.get(&args.name)?;
    let vm = ctx.registry.vm(&args.name);
    let path = if args.hypervisor { vm.hypervisor_log() } else { vm.console_log() };
    if !path.exists() {
        ctx.ui.status(&format!("{} has said nothing yet", args.name));
        return Ok(0);
    }
    let mut log = LogFollower::open(&path)?;
    let mut live = match args.follow && ctx.registry.is_running(&args.name)? {
        true => ControlClient::connect(&vm).ok(),
        false => None,
    };
    if let Some(control) = &mut live {
        control.ask(&ControlRequest::Follow).await?;
    }
    let mut end = std::pin::pin!(async {
        if let Some(control) = &mut live {
            // A supervisor that cannot be heard any more has ended.
            while let Ok(Some(_)) = control.next().await {}
        }
    });
    if let Some(lines) = args.lines {
        let mut tail = Tail::new(lines);
        log.drain(|bytes| {
            tail.push(bytes);
            Ok(())
        })?;
        ctx.ui.raw(&tail.into_bytes())?;
    }
    let mut ended = !args.follow;
    loop {
        log.drain(|bytes| ctx.ui.raw(bytes))?;
        if ended {
            return Ok(0);
        }
        tokio::select! {
            () = &mut end => ended = true,
            () = log.changed() => {}
        }
    }
}
