//! `mvmctl forward`.

use super::ask;
use crate::Context;
use mvm_core::{Fault, PortForward, VmName, VmRecord};
use mvm_runtime::control::ControlRequest;

/// Publish ports of a VM that runs; without -p, list them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvmctl forward web -p 8080:80\n  mvmctl forward web -p 8080:80 --remove")]
pub(crate) struct ForwardArgs {
    /// The VM
    name: VmName,
    /// Which: [ADDR:]HOST:GUEST
    #[arg(short, long = "port", value_name = "HOST:GUEST")]
    ports: Vec<PortForward>,
    /// Withdraw them
    #[arg(long, requires = "ports")]
    remove: bool,
    /// The list as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: ForwardArgs, ctx: &Context) -> Result<u8, Fault> {
    let mut record: Option<VmRecord> = None;
    for &forward in &args.ports {
        let request =
            if args.remove { ControlRequest::Unforward { forward } } else { ControlRequest::Forward { forward } };
        record = Some(ask(&ctx.registry, &args.name, &request).await?);
    }
    let ports = match record {
        Some(record) => record.ports,
        None => ctx.registry.get(&args.name)?.record.ports,
    };
    if args.json {
        ctx.ui.json(&ports)?;
    } else {
        ports.iter().for_each(|port| ctx.ui.data(&port.to_string()));
    }
    Ok(0)
}
