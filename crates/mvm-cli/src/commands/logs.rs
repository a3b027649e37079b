//! `mvmctl logs`.

use crate::Context;
use crate::follow::LogFollower;
use mvm_core::{Fault, VmName};
use mvm_runtime::ControlClient;
use mvm_runtime::control::ControlRequest;
use std::collections::VecDeque;

/// Longest line that counts as one.
const LINE_LIMIT: usize = 64 * 1024;

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
        ctx.ui.raw(&tail(&mut log, lines)?)?;
    }
    let mut ended = !args.follow;
    loop {
        loop {
            let bytes = log.read()?;
            if bytes.is_empty() {
                break;
            }
            ctx.ui.raw(&bytes)?;
        }
        if ended {
            return Ok(0);
        }
        tokio::select! {
            () = &mut end => ended = true,
            () = log.changed() => {}
        }
    }
}

/// The last lines of all that a log holds.
fn tail(log: &mut LogFollower, wanted: usize) -> Result<Vec<u8>, Fault> {
    let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
    loop {
        let bytes = log.read()?;
        if bytes.is_empty() {
            return Ok(lines.into_iter().flatten().collect());
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match lines.back_mut().filter(|line| !line.ends_with(b"\n") && line.len() < LINE_LIMIT) {
                Some(line) => line.extend_from_slice(piece),
                None => lines.push_back(piece.to_vec()),
            }
            if lines.len() > wanted {
                lines.pop_front();
            }
        }
    }
}
