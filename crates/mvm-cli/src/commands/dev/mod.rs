//! `mvmctl dev`: a Linux machine to work in. On a Mac whose VMs run in Lima that is the Lima instance, elsewhere a VM.

mod instance;
mod microvm;

use crate::Context;
use mvm_core::{Fault, MemorySize};
use mvm_runtime::lima::Lima;
use std::ffi::OsString;

/// A Linux machine to work in, with the project folder in it
///
/// Alone: sets up whatever of it is missing, and opens a shell in it. On a Mac before macOS 26 the machine is a Lima
/// instance, which shares the home folder. Elsewhere it is the VM `dev`, into which the current folder is copied when it
/// is not there yet; `mvmctl cp dev:/root/NAME .` brings it back.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  mvmctl dev\n  mvmctl dev up --image ./result --memory 4G\n  mvmctl dev status --json"
)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,
    #[command(flatten)]
    up: DevUpArgs,
}

#[derive(Debug, clap::Subcommand)]
enum DevCommand {
    /// Make and start the machine, whatever of that is missing
    Up(DevUpArgs),
    /// Stop the machine; what is in it stays
    Down,
    /// Open a shell in the machine, which has to run
    Shell,
    /// How the machine is
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// What a machine is made of, where it is not there yet.
#[derive(Debug, Default, clap::Args)]
struct DevUpArgs {
    /// The VM's image: a folder, or the name of one in the cache [default: dev]
    #[arg(long, value_name = "DIR|NAME")]
    image: Option<OsString>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: Option<u32>,
    /// Memory, as 512M or 4G
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemorySize>,
    /// The Lima instance's disk, in GiB
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(10..=4096))]
    disk: Option<u32>,
}

pub(crate) async fn run(args: DevArgs, ctx: &Context) -> Result<u8, Fault> {
    let lima = Lima::of_this_machine()?;
    match (args.command, &lima) {
        (None, Some(lima)) => {
            instance::up(ctx, lima, args.up).await?;
            instance::shell(lima).await
        }
        (None, None) => {
            microvm::up(ctx, args.up).await?;
            microvm::shell(ctx).await
        }
        (Some(DevCommand::Up(up)), Some(lima)) => instance::up(ctx, lima, up).await,
        (Some(DevCommand::Up(up)), None) => microvm::up(ctx, up).await,
        (Some(DevCommand::Down), Some(lima)) => instance::down(ctx, lima).await,
        (Some(DevCommand::Down), None) => microvm::down(ctx).await,
        (Some(DevCommand::Shell), Some(lima)) => instance::shell(lima).await,
        (Some(DevCommand::Shell), None) => microvm::shell(ctx).await,
        (Some(DevCommand::Status { json }), Some(lima)) => instance::status(ctx, lima, json).await,
        (Some(DevCommand::Status { json }), None) => microvm::status(ctx, json),
    }
}

/// What `dev status` tells.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Machine<'m> {
    /// `lima` or `vm`.
    kind: &'static str,
    name: &'m str,
    /// `absent`, or as Lima or the VM's record has it.
    state: String,
    /// The mvmctl inside a Lima instance that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    mvmctl: Option<String>,
}

impl Machine<'_> {
    fn tell(&self, ctx: &Context, json: bool) -> Result<u8, Fault> {
        if json {
            ctx.ui.json(self)?;
            return Ok(0);
        }
        let mut facts =
            vec![("kind", self.kind.to_owned()), ("name", self.name.to_owned()), ("state", self.state.clone())];
        facts.extend(self.mvmctl.clone().map(|version| ("mvmctl", version)));
        ctx.ui.facts(&facts);
        Ok(0)
    }
}
