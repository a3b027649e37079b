//! The machine to work in as a VM named `dev`.

use super::{DevUpArgs, Machine};
use crate::Context;
use crate::commands::{command, console, cp, down};
use crate::creation::{self, Wishes};
use crate::interrupt::Interrupts;
use crate::{boot, source};
use mvm_core::{ErrorKind, Fault, Secrets, VmName};
use mvm_protocol::transfer;
use mvm_protocol::{ExecRequest, PushRequest, Request, TransferSummary};
use mvm_runtime::{RegistryError, guest};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// The VM's name, and that of its image in the catalog.
const NAME: &str = "dev";
/// Where project folders lie in it.
const PROJECTS: &str = "/root";
/// How long it may take to become ready.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);
/// How long it may take to power off, in milliseconds.
const STOP_GRACE_MS: u64 = 30_000;

fn name() -> Result<VmName, Fault> {
    Ok(VmName::new(NAME)?)
}

pub(super) async fn up(ctx: &Context, args: DevUpArgs) -> Result<u8, Fault> {
    if args.disk.is_some() {
        let fault = Fault::new(ErrorKind::Usage, "--disk is for a Lima instance, and the machine here is a VM");
        return Err(fault.with_hint("a VM's disk grows with what is in it"));
    }
    let project = project()?;
    let name = name()?;
    let mut interrupts = Interrupts::hear()?;
    if !ctx.registry.is_running(&name)? {
        start(ctx, &name, args, &mut interrupts).await?;
    } else if let Some(option) = first_of(&args) {
        return Err(decided(option));
    }
    tokio::select! {
        brought = bring(ctx, &name, &project) => brought?,
        fault = interrupts.fault() => return Err(fault),
    }
    Ok(0)
}

async fn start(ctx: &Context, name: &VmName, args: DevUpArgs, interrupts: &mut Interrupts) -> Result<(), Fault> {
    let created = match ctx.registry.get(name) {
        Ok(_) => {
            if let Some(option) = first_of(&args) {
                return Err(decided(option));
            }
            false
        }
        Err(RegistryError::NotFound(_)) => {
            args.memory.map_or(Ok(()), mvm_runtime::check_memory)?;
            let image = args.image.unwrap_or_else(|| NAME.into());
            let image = source::image(ctx, &image, interrupts).await?;
            let wishes = Wishes { cpus: args.cpus, memory: args.memory, ..Wishes::default() };
            creation::create(ctx, name.clone(), image, wishes, interrupts).await?;
            true
        }
        Err(error) => return Err(error.into()),
    };
    let ready = boot::start(ctx, name, &Secrets::default(), BOOT_DEADLINE, created, interrupts).await?;
    ready.launch.detach().await.map_err(|e| Fault::unexpected("cannot let go of the VM", &e))?;
    ctx.ui.status(&format!("{name} is {}", ready.record.state));
    Ok(())
}

/// The first option that only a new VM can honour.
fn first_of(args: &DevUpArgs) -> Option<&'static str> {
    [(args.image.is_some(), "--image"), (args.cpus.is_some(), "--cpus"), (args.memory.is_some(), "--memory")]
        .into_iter()
        .find_map(|(given, option)| given.then_some(option))
}

fn decided(option: &str) -> Fault {
    let message = format!("the VM {NAME} exists already: {option} is decided when a VM is made");
    Fault::new(ErrorKind::Usage, message)
        .with_hint(format!("`mvmctl down {NAME} --rm` removes it with all that is in it"))
}

pub(super) async fn down(ctx: &Context) -> Result<u8, Fault> {
    let name = name()?;
    ctx.registry.get(&name)?;
    match down::stop(ctx, &name, STOP_GRACE_MS).await? {
        down::Stopped::Before => ctx.ui.status(&format!("{name} does not run")),
        down::Stopped::Killed => ctx.ui.warning(&format!("{name} did not power off in time and was killed")),
        down::Stopped::Now => ctx.ui.status(&format!("{name} is stopped")),
    }
    Ok(0)
}

/// A terminal in the project's folder, or in the user's home where the project is not in the VM.
pub(super) async fn shell(ctx: &Context) -> Result<u8, Fault> {
    let name = name()?;
    let inside = inside(&project()?)?;
    let cwd = if is_there(ctx, &name, &inside).await? { Some(inside) } else { None };
    console::open(ctx, &name, Vec::new(), cwd).await
}

pub(super) fn status(ctx: &Context, json: bool) -> Result<u8, Fault> {
    let state = match ctx.registry.get(&name()?) {
        Ok(vm) => vm.record.state.to_string(),
        Err(RegistryError::NotFound(_)) => "absent".into(),
        Err(error) => return Err(error.into()),
    };
    Machine { kind: "vm", name: NAME, state, mvmctl: None }.tell(ctx, json)
}

/// The folder that is worked on.
fn project() -> Result<PathBuf, Fault> {
    std::env::current_dir().map_err(|e| Fault::unexpected("cannot tell the current folder", &e))
}

/// Where it lies in the VM.
fn inside(project: &Path) -> Result<String, Fault> {
    let unnamed = || {
        let fault = Fault::new(
            ErrorKind::Usage,
            format!("{} has no name that a folder in the VM could have", project.display()),
        );
        fault.with_hint("run it in the folder of a project")
    };
    let name = project.file_name().and_then(|name| name.to_str()).ok_or_else(unnamed)?;
    Ok(format!("{PROJECTS}/{name}"))
}

/// Copies the project in, unless it is there: what was changed in the VM is never overwritten.
async fn bring(ctx: &Context, vm: &VmName, project: &Path) -> Result<(), Fault> {
    let path = inside(project)?;
    if is_there(ctx, vm, &path).await? {
        ctx.ui.status(&format!("{path} is there already; `mvmctl cp . {vm}:{PROJECTS}` copies this folder over it"));
        return Ok(());
    }
    transfer::check_source(project).map_err(cp::fault)?;
    let mut channel = guest::channel(&ctx.registry, vm).await?;
    channel.request(&Request::Push(PushRequest { path: path.clone() })).await?;
    let TransferSummary { entries, .. } = transfer::push(channel, project.into(), |_| ()).await.map_err(cp::fault)?;
    ctx.ui.status(&format!("copied {entries} entries to {path}; `mvmctl cp {vm}:{path} .` brings them back"));
    Ok(())
}

async fn is_there(ctx: &Context, vm: &VmName, path: &str) -> Result<bool, Fault> {
    let argv = ["test", "-d", path].map(str::to_owned).into();
    let request = Request::Exec(ExecRequest { argv, stdin: false, ..ExecRequest::default() });
    let Ok(channel) = command(ctx, vm, &request).await? else {
        return Err(Fault::new(ErrorKind::ImageInvalid, "the image has no program `test` to look for the folder with"));
    };
    // Nothing is told to it; the channel of what could be has to stay open all the same.
    let (_tell, controls) = mpsc::channel(1);
    let (mut out, mut err) = (tokio::io::sink(), tokio::io::sink());
    let status = guest::run(channel, None::<tokio::io::Empty>, &mut out, &mut err, controls).await?;
    Ok(status.shell_code() == 0)
}
