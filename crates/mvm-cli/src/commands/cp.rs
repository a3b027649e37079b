//! `mvmctl cp`.

use crate::Context;
use crate::interrupt::Interrupts;
use mvm_core::{ErrorKind, Fault, VmName};
use mvm_protocol::transfer::{self, TransferError};
use mvm_protocol::{ErrorCode, PullRequest, PushRequest, Request, TransferSummary};
use mvm_runtime::guest;
use std::io;
use std::path::PathBuf;

/// Copy files into a VM or out of it
///
/// Folders are copied with all in them. A source that ends in `/.` stands for what the folder holds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvmctl cp site web:/srv\n  mvmctl cp web:/var/log/app.log .")]
pub(crate) struct CpArgs {
    /// VM:PATH or a path of the host
    source: String,
    /// VM:PATH or a path of the host
    dest: String,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Host(PathBuf),
    Guest(VmName, String),
}

/// A path with a slash before its first colon is the host's, as it is for scp.
fn end(text: &str) -> Result<End, Fault> {
    match text.split_once(':') {
        Some((vm, path)) if !vm.contains('/') => {
            if !path.starts_with('/') {
                let message = format!("{text:?} does not begin at the root of the guest");
                return Err(Fault::new(ErrorKind::Usage, message).with_hint(format!("write it as {vm}:/PATH")));
            }
            Ok(End::Guest(VmName::new(vm)?, path.into()))
        }
        _ => Ok(End::Host(text.into())),
    }
}

pub(crate) async fn run(args: CpArgs, ctx: &Context) -> Result<u8, Fault> {
    let ends = (end(&args.source)?, end(&args.dest)?);
    let mut interrupts = Interrupts::hear()?;
    let spinner = ctx.ui.spinner();
    let shown = spinner.clone();
    let mut total = 0;
    let progress = move |bytes| {
        total += bytes;
        shown.set_message(indicatif::HumanBytes(total).to_string());
        shown.tick();
    };
    let copy = async {
        match ends {
            (End::Host(source), End::Guest(vm, path)) => {
                transfer::check_source(&source).map_err(fault)?;
                let mut channel = guest::channel(&ctx.registry, &vm).await?;
                channel.request(&Request::Push(PushRequest { path })).await?;
                transfer::push(channel, source, progress).await.map_err(fault)
            }
            (End::Guest(vm, path), End::Host(dest)) => {
                transfer::check_dest(&dest).map_err(fault)?;
                let mut channel = guest::channel(&ctx.registry, &vm).await?;
                channel.request(&Request::Pull(PullRequest { path })).await?;
                transfer::pull(channel, dest, progress).await.map_err(fault)
            }
            _ => {
                let fault = Fault::new(ErrorKind::Usage, "one end of a copy is in a VM and the other on the host");
                Err(fault.with_hint("write the end in the VM as NAME:/PATH"))
            }
        }
    };
    let done = tokio::select! {
        done = copy => done,
        fault = interrupts.fault() => Err(fault),
    };
    spinner.finish_and_clear();
    let TransferSummary { entries, bytes, skipped, skipped_names } = done?;
    ctx.ui.status(&format!("copied {entries} entries, {}", indicatif::HumanBytes(bytes)));
    if skipped > 0 {
        let names = skipped_names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
        ctx.ui.warning(&format!("left out {skipped} devices, sockets and pipes: {names}"));
    }
    Ok(0)
}

/// A copy that failed.
pub(super) fn fault(error: TransferError) -> Fault {
    let kind = match &error {
        TransferError::Source { source, .. } | TransferError::Dest { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Unexpected,
        },
        TransferError::Special(_) | TransferError::Conflict { .. } | TransferError::TooDeep(_) => ErrorKind::Usage,
        TransferError::Aborted(error) => match error.code {
            ErrorCode::NotFound => ErrorKind::NotFound,
            ErrorCode::Denied => ErrorKind::Denied,
            ErrorCode::Busy => ErrorKind::Busy,
            ErrorCode::Invalid => ErrorKind::Usage,
            _ => ErrorKind::Unexpected,
        },
        TransferError::Malformed(_) | TransferError::Connection(_) => ErrorKind::GuestUnreachable,
        TransferError::Changed(_) => ErrorKind::Unexpected,
    };
    Fault::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(end("./a:b").unwrap(), End::Host("./a:b".into()));
        assert_eq!(end("a").unwrap(), End::Host("a".into()));
        assert!(matches!(end("web:/etc"), Ok(End::Guest(_, path)) if path == "/etc"));
        assert!(end("web:etc").is_err());
        assert!(end("Web:/etc").is_err());
    }
}
