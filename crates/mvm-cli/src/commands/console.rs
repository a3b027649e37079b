//! `mvmctl console`.

use crate::Context;
use crate::interrupt::Interrupts;
use crate::terminal::{self, RawMode};
use mvm_core::{ErrorKind, Fault, VmName};
use mvm_protocol::{ConsoleRequest, Control, Request};
use mvm_runtime::guest;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Open a terminal in a VM; `exit` leaves it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvmctl console web\n  mvmctl console web --command top -d 1")]
pub(crate) struct ConsoleArgs {
    /// The VM
    vm: VmName,
    /// Run this instead of the image's shell
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(args: ConsoleArgs, ctx: &Context) -> Result<u8, Fault> {
    open(ctx, &args.vm, args.command, None).await
}

/// A terminal in a VM, in a folder of it or in its user's home; gives the exit code of what ran there.
pub(super) async fn open(ctx: &Context, vm: &VmName, argv: Vec<String>, cwd: Option<String>) -> Result<u8, Fault> {
    if !std::io::stdin().is_terminal() {
        let fault = Fault::new(ErrorKind::Usage, "console needs a terminal, and stdin is none");
        return Err(fault.with_hint(format!("`mvmctl exec {vm} -- COMMAND` runs a command without one")));
    }
    let mut resized =
        signal(SignalKind::window_change()).map_err(|e| Fault::unexpected("cannot listen for signals", &e))?;
    let request = Request::Console(ConsoleRequest {
        argv,
        cwd,
        env: BTreeMap::new(),
        term: std::env::var("TERM").unwrap_or_default(),
        size: terminal::size(),
    });
    let channel = match super::command(ctx, vm, &request).await? {
        Ok(channel) => channel,
        Err(code) => return Ok(code),
    };
    // Whatever ends us, the terminal is given back; the guest ends the shell when the channel ends.
    let mut interrupts = Interrupts::hear()?;
    let (tell, controls) = mpsc::channel(8);
    let _raw = RawMode::enter()?;
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let stdin = Some(tokio::io::stdin());
    let mut running = std::pin::pin!(guest::run(channel, stdin, &mut out, &mut err, controls));
    loop {
        tokio::select! {
            done = &mut running => return Ok(done?.shell_code()),
            fault = interrupts.fault() => return Err(fault),
            _ = resized.recv() => { let _ = tell.send(Control::Resize(terminal::size())).await; }
        }
    }
}
