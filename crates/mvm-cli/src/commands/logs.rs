//! `mvmctl logs`.

use crate::Context;
use crate::follow::LogFollower;
use mvm_core::{Fault, VmName};
use mvm_runtime::ControlClient;
use mvm_runtime::control::ControlRequest;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};

/// Longest line that counts as one.
const LINE_LIMIT: u64 = 64 * 1024;

/// Show what a VM's console said since its last start
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The VM
    name: VmName,
    /// Go on until the VM ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long = "lines", value_name = "N", conflicts_with = "follow")]
    lines: Option<usize>,
    /// What the hypervisor and the supervisor said instead
    #[arg(long)]
    hypervisor: bool,
}

pub(crate) async fn run(args: LogsArgs, ctx: &Context) -> Result<u8, Fault> {
    ctx.registry.get(&args.name)?;
    let vm = ctx.registry.vm(&args.name);
    let path = if args.hypervisor { vm.hypervisor_log() } else { vm.console_log() };
    let cannot = |e| Fault::unexpected(&format!("cannot read {}", path.display()), &e);
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            ctx.ui.status(&format!("{} has said nothing yet", args.name));
            return Ok(0);
        }
        Err(e) => return Err(cannot(e)),
    };
    if let Some(wanted) = args.lines {
        let mut last = VecDeque::new();
        let mut file = BufReader::new(file);
        loop {
            let mut line = Vec::new();
            if (&mut file).take(LINE_LIMIT).read_until(b'\n', &mut line).map_err(cannot)? == 0 {
                break;
            }
            last.push_back(line);
            if last.len() > wanted {
                last.pop_front();
            }
        }
        return last.iter().try_for_each(|line| ctx.ui.raw(line)).map(|()| 0);
    }
    drop(file);
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
    let mut ended = false;
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
