//! From a VM that has been made to one that is ready, and to its end.

use crate::follow::{LogFollower, Tail};
use crate::interrupt::Interrupts;
use crate::{Context, creation};
use mvm_core::{ErrorKind, Fault, Secrets, VmDirs, VmName, VmRecord};
use mvm_runtime::control::ControlRequest;
use mvm_runtime::{ControlClient, Launch, LaunchEvent, RegistryError};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

/// Lines of the console that a boot that failed shows.
const LAST_LINES: usize = 20;
/// And most bytes of them.
const LAST_BYTES: usize = 64 * 1024;

/// A VM that is ready and whose supervisor still listens to us.
pub(crate) struct Ready {
    pub launch: Launch,
    pub record: VmRecord,
    pub console: LogFollower,
}

/// Starts a VM and waits until it is ready. Whatever prevents that, the supervisor has tidied up when this returns,
/// and with `created` the VM is gone.
pub(crate) async fn start(
    ctx: &Context,
    name: &VmName,
    secrets: &Secrets,
    boot_timeout: Duration,
    created: bool,
    interrupts: &mut Interrupts,
) -> Result<Ready, Fault> {
    // Of an earlier VM of this name.
    let volumes = ctx.registry.volumes(name);
    match launch(ctx, name, secrets, boot_timeout, created, interrupts).await {
        Err(fault) if created => {
            // Where nobody knows what was there before, all of it stays.
            if let Err(error) = volumes.and_then(|volumes| ctx.registry.keep_volumes(name, &volumes)) {
                ctx.ui.warning(&error.to_string());
            }
            match creation::remove(ctx, name, false).await {
                Ok(()) | Err(RegistryError::NotFound(_)) => Err(fault),
                Err(error) => {
                    ctx.ui.warning(&error.to_string());
                    Err(fault)
                }
            }
        }
        done => done,
    }
}

async fn launch(
    ctx: &Context,
    name: &VmName,
    secrets: &Secrets,
    boot_timeout: Duration,
    created: bool,
    interrupts: &mut Interrupts,
) -> Result<Ready, Fault> {
    let vm = ctx.registry.vm(name);
    let cannot = |e: std::io::Error| Fault::unexpected("cannot start the VM's supervisor", &e);
    DirBuilder::new().recursive(true).mode(0o700).create(vm.logs()).map_err(cannot)?;
    let log = std::fs::File::options().create(true).append(true).open(vm.hypervisor_log()).map_err(cannot)?;
    let mut launch = Launch::start(name, boot_timeout, secrets, log).await.map_err(cannot)?;
    let mut console = None;
    let mut fault = loop {
        let event = tokio::select! {
            event = launch.event() => event,
            fault = interrupts.fault() => break fault,
        };
        match event {
            Ok(Some(LaunchEvent::Importing)) => ctx.ui.status("importing the image, once; this may take a while"),
            Ok(Some(LaunchEvent::Started { record })) => {
                ctx.ui.note_accelerator(record.accelerator.as_deref());
                match LogFollower::open(&vm.console_log()) {
                    Ok(follower) => console = Some(follower),
                    Err(fault) => break fault,
                }
            }
            Ok(Some(LaunchEvent::Ready { record })) => {
                if let Some(console) = console.take() {
                    return Ok(Ready { launch, record: *record, console });
                }
                break Fault::new(ErrorKind::Unexpected, "the VM's supervisor told things out of order");
            }
            Ok(Some(LaunchEvent::Failed { fault })) => break fault,
            Ok(Some(LaunchEvent::Ended { .. })) => {
                break Fault::new(ErrorKind::GuestUnreachable, format!("the VM {name} ended before it was ready"));
            }
            Ok(None) => {
                let hint = format!("`{}` has what it said", vm.hypervisor_log().display());
                break Fault::new(ErrorKind::Unexpected, "the VM's supervisor ended without a word").with_hint(hint);
            }
            Err(error) => break cannot(error),
        }
    };
    // In a VM that is new and goes there is nothing to save by stopping in order.
    let ended = if created { kill(ctx, name, launch).await } else { stop(ctx, name, launch, interrupts).await };
    if let Err(fault) = ended {
        ctx.ui.warning(&fault.message);
    }
    if created {
        show_why(ctx, &vm, &mut fault, console);
    }
    Err(fault)
}

/// Shows the end of what the guest has said, or else the hypervisor, where the advice would be to look there: the VM
/// goes, and its logs with it.
fn show_why(ctx: &Context, vm: &VmDirs, fault: &mut Fault, console: Option<LogFollower>) {
    if !fault.hint.as_deref().is_some_and(|hint| hint.contains("mvmctl logs")) {
        return;
    }
    let late = fault.kind == ErrorKind::TimedOut;
    // Where the guest was only too slow, the hypervisor has nothing to say.
    let hypervisor = if late { None } else { LogFollower::open(&vm.hypervisor_log()).ok() };
    let mut shown = Vec::new();
    for (whose, log) in [("console", console), ("hypervisor", hypervisor)] {
        let lines = log.map_or(Vec::new(), last_lines);
        shown.extend((!lines.is_empty()).then_some(whose));
        for line in lines {
            ctx.ui.status(&format!("{whose}: {line}"));
        }
    }
    let longer = if late { "--boot-timeout gives it longer" } else { "it has said nothing" };
    fault.hint = Some(match (shown.is_empty(), late) {
        (true, _) => longer.into(),
        (false, false) => format!("above are the last words of its {}", shown.join(" and its ")),
        (false, true) => format!("above are the last words of its console; {longer}"),
    });
}

fn last_lines(mut log: LogFollower) -> Vec<String> {
    let mut tail = Tail::new(LAST_LINES);
    while let Ok(bytes) = log.read()
        && !bytes.is_empty()
    {
        tail.push(&bytes);
    }
    let bytes = tail.into_bytes();
    let bytes = &bytes[bytes.len().saturating_sub(LAST_BYTES)..];
    String::from_utf8_lossy(bytes).lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Ends a VM at once and waits until all of it is tidied up.
pub(crate) async fn kill(ctx: &Context, name: &VmName, launch: Launch) -> Result<(), Fault> {
    // Where the supervisor is on its way out already, it need not be asked.
    if let Ok(mut control) = ControlClient::connect(&ctx.registry.vm(name)) {
        let _ = control.ask(&ControlRequest::Stop { grace_ms: 0 }).await;
    }
    launch.abandon().await.map_err(|e| Fault::unexpected("cannot wait for the VM's end", &e))
}

/// Ends a VM in order, and at once where a second signal asks for it.
pub(crate) async fn stop(
    ctx: &Context,
    name: &VmName,
    launch: Launch,
    interrupts: &mut Interrupts,
) -> Result<(), Fault> {
    let mut ending = std::pin::pin!(launch.abandon());
    let ended = tokio::select! {
        ended = &mut ending => ended,
        _ = interrupts.next() => {
            if let Ok(mut control) = ControlClient::connect(&ctx.registry.vm(name)) {
                let _ = control.ask(&ControlRequest::Stop { grace_ms: 0 }).await;
            }
            ending.await
        }
    };
    ended.map_err(|e| Fault::unexpected("cannot wait for the VM's end", &e))
}
