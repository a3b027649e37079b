//! The Lima instance of a Mac: made when it is first needed, and given the whole command line.

use crate::Context;
use crate::interrupt::Interrupts;
use mvm_core::{ErrorKind, Fault, MemorySize};
use mvm_runtime::lima::{Lima, Sizes, Status};

/// What an instance is given where nobody says otherwise.
pub(crate) fn default_sizes() -> Result<Sizes, Fault> {
    Ok(Sizes { cpus: 2, memory: MemorySize::from_mib(4096)?, disk_gib: 60 })
}

/// Hands this process's command line over, and gives its exit code.
pub(crate) async fn hand_over(ctx: &Context, lima: &Lima) -> Result<u8, Fault> {
    let mut interrupts = Interrupts::hear()?;
    if lima.status().await? != Status::Running {
        let sizes = default_sizes()?;
        tokio::select! {
            ready = ready(ctx, lima, &sizes) => ready?,
            fault = interrupts.fault() => return Err(fault),
        }
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    Ok(lima.hand_over(&arguments, async || interrupts.next().await).await?)
}

/// Makes the instance and starts it, and installs this version of mvmctl in it, whatever of that is missing.
pub(crate) async fn ready(ctx: &Context, lima: &Lima, sizes: &Sizes) -> Result<(), Fault> {
    match lima.status().await? {
        Status::Running => {}
        Status::Absent => ctx.ui.status(&format!("making the Lima instance {}, which takes minutes", lima.name())),
        Status::Other(_) => ctx.ui.status(&format!("starting the Lima instance {}", lima.name())),
    }
    lima.start(sizes).await?;
    let own = env!("CARGO_PKG_VERSION");
    if lima.version().await?.as_deref() == Some(own) {
        return Ok(());
    }
    let flake = mvm_core::mvm_flake(ctx.dirs())?;
    ctx.ui.status(&format!("installing mvmctl {own} in it, from {flake}"));
    lima.install(&flake).await?;
    match lima.version().await? {
        Some(version) if version == own => Ok(()),
        Some(version) => {
            ctx.ui.warning(&format!("{flake} has mvmctl {version}, and this is {own}"));
            Ok(())
        }
        None => Err(Fault::new(ErrorKind::BackendUnavailable, format!("{flake} brought no mvmctl that runs there"))),
    }
}
