//! `mvmctl exec`.

use crate::Context;
use crate::commands::parse_env;
use crate::creation::{self, Wishes};
use crate::interrupt::Interrupts;
use crate::{boot, source};
use mvm_core::{Fault, Secrets, VmName};
use mvm_protocol::{Control, ExecRequest, Request};
use mvm_runtime::guest;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long the VM of a one-shot command may take to become ready.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// So many signals within so long a time are meant for us: the guest may be dead, and its command hear nothing.
const INSISTENT: usize = 3;
const INSISTENCE: Duration = Duration::from_secs(2);

/// Run a command in a VM, or in one made for it alone
///
/// Its exit code is the command's: 126 and 127 as a shell gives them, 128 + n for a signal. Signals go to the command; the
/// third within two seconds ends mvmctl instead.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvmctl exec web -- ps aux\n  mvmctl exec -- uname -a\n  mvmctl exec --image python -- python3 -V\n  tar c src | mvmctl exec web -- tar x"
)]
pub(crate) struct ExecArgs {
    /// The VM; without it one of the built-in image is booted, and removed afterwards
    vm: Option<VmName>,
    /// Make the VM of this image instead: a folder, or the name of one that was fetched
    #[arg(long, value_name = "DIR|NAME", conflicts_with = "vm")]
    image: Option<OsString>,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_env)]
    env: Vec<(String, String)>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user: NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Forward stdin even where it is a terminal
    #[arg(short, long)]
    interactive: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    argv: Vec<String>,
}

pub(crate) async fn run(args: ExecArgs, ctx: &Context) -> Result<u8, Fault> {
    let stdin = args.interactive || !std::io::stdin().is_terminal();
    let request = Request::Exec(ExecRequest {
        argv: args.argv,
        env: args.env.into_iter().collect(),
        cwd: args.workdir,
        user: args.user,
        stdin,
    });
    let mut interrupts = Interrupts::hear()?;
    let Some(name) = args.vm else {
        let name = creation::new_name()?;
        let wishes = Wishes { ephemeral: true, anonymous: true, ..Wishes::default() };
        let image = match &args.image {
            Some(image) => source::image(ctx, image, &mut interrupts).await?,
            None => source::built_in(ctx, &mut interrupts).await?,
        };
        creation::create(ctx, name.clone(), image, wishes, &mut interrupts).await?;
        let ready = boot::start(ctx, &name, &Secrets::default(), BOOT_DEADLINE, true, &mut interrupts).await?;
        let done = command(ctx, &name, &request, stdin, &mut interrupts).await;
        // Nothing in it outlives it, so there is nothing to save by stopping in order.
        boot::kill(ctx, &name, ready.launch).await?;
        return done;
    };
    command(ctx, &name, &request, stdin, &mut interrupts).await
}

async fn command(
    ctx: &Context,
    name: &VmName,
    request: &Request,
    stdin: bool,
    interrupts: &mut Interrupts,
) -> Result<u8, Fault> {
    let asked = tokio::select! {
        asked = super::command(ctx, name, request) => asked?,
        // There is no command yet that could take the signal.
        fault = interrupts.fault() => return Err(fault),
    };
    let channel = match asked {
        Ok(channel) => channel,
        Err(code) => return Ok(code),
    };
    let (tell, controls) = mpsc::channel(8);
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let stdin = stdin.then(tokio::io::stdin);
    let mut running = std::pin::pin!(guest::run(channel, stdin, &mut out, &mut err, controls));
    let mut heard: Vec<Instant> = Vec::new();
    loop {
        let signal = tokio::select! {
            done = &mut running => return Ok(done?.shell_code()),
            signal = interrupts.next() => signal,
        };
        heard.retain(|at| at.elapsed() < INSISTENCE);
        heard.push(Instant::now());
        if heard.len() == INSISTENT {
            return Err(Fault::interrupted(u8::try_from(signal).unwrap_or_default()));
        }
        // A queue that is full has signals enough.
        let _ = tell.try_send(Control::Signal { signal });
    }
}
