//! One file a command.

pub(crate) mod build;
pub(crate) mod console;
pub(crate) mod cp;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod exec;
pub(crate) mod flake;
pub(crate) mod forward;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod pause;
pub(crate) mod resume;
pub(crate) mod rm;
pub(crate) mod template;
pub(crate) mod up;
pub(crate) mod wait;

use crate::Context;
use mvm_core::{Fault, VmName, VmRecord};
use mvm_protocol::{Channel, ChannelError, Request};
use mvm_runtime::control::ControlRequest;
use mvm_runtime::{ControlClient, GuestStream, Registry, guest};

/// Asks the supervisor of a VM that has to run.
async fn ask(registry: &Registry, name: &VmName, request: &ControlRequest) -> Result<VmRecord, Fault> {
    let snapshot = registry.get(name)?;
    if !registry.is_running(name)? {
        let message = format!("the VM {name} is {}, not running", snapshot.record.state);
        return Err(Fault::new(mvm_core::ErrorKind::GuestUnreachable, message)
            .with_hint(format!("start it with `mvmctl start {name}`")));
    }
    Ok(ControlClient::connect(&registry.vm(name))?.ask(request).await?)
}

/// Asks the guest to run a command; `Err` is the exit code, as a shell gives it, of one that cannot be run.
async fn command(ctx: &Context, name: &VmName, request: &Request) -> Result<Result<Channel<GuestStream>, u8>, Fault> {
    let mut channel = guest::channel(&ctx.registry, name).await?;
    match channel.request(request).await {
        Ok(()) => Ok(Ok(channel)),
        Err(ChannelError::Refused(error)) => match error.shell_code() {
            Some(code) => {
                ctx.ui.error(&error.to_string());
                Ok(Err(code))
            }
            None => Err(ChannelError::Refused(error).into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// `NAME=VALUE` of `-e`.
fn parse_env(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}
