//! `mvmctl wait`.

use crate::Context;
use mvm_core::{ErrorKind, Fault, VmName, VmState};
use mvm_runtime::control::ControlRequest;
use mvm_runtime::{ControlClient, RegistryError};

/// Wait until a VM is ready, or has stopped
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// The VM
    name: VmName,
    /// What to wait for
    #[arg(long, value_enum, default_value_t = Until::Ready)]
    until: Until,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    Ready,
    Stopped,
}

pub(crate) async fn run(args: WaitArgs, ctx: &Context) -> Result<u8, Fault> {
    let name = &args.name;
    ctx.registry.get(name)?;
    if ctx.registry.is_running(name)? {
        let mut control = ControlClient::connect(&ctx.registry.vm(name))?;
        let mut record = Some(control.ask(&ControlRequest::Follow).await?);
        while let Some(now) = record {
            if args.until == Until::Ready && matches!(now.state, VmState::Ready | VmState::Degraded | VmState::Running)
            {
                return Ok(0);
            }
            record = match control.next().await {
                Ok(record) => record,
                // A supervisor that was killed leaves its connections in the middle.
                Err(_) if !ctx.registry.is_running(name)? => None,
                Err(error) => return Err(error.into()),
            };
        }
    }
    if args.until == Until::Stopped {
        return Ok(0);
    }
    match ctx.registry.get(name) {
        Ok(snapshot) => {
            let state = snapshot.record.state;
            let fault =
                Fault::new(ErrorKind::GuestUnreachable, format!("the VM {name} is {state} and not getting ready"));
            Err(fault.with_hint(format!("start it with `mvmctl start {name}`")))
        }
        Err(RegistryError::NotFound(_)) => {
            Err(Fault::new(ErrorKind::GuestUnreachable, format!("the VM {name} ended and was removed")))
        }
        Err(error) => Err(error.into()),
    }
}
