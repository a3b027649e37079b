//! `mvmctl up`.

use crate::Context;
use crate::boot::{self, Ready};
use crate::commands::parse_env;
use crate::creation::{self, Wishes};
use crate::interrupt::Interrupts;
use crate::nix_build::Wanted;
use crate::{secret_files, source};
use mvm_core::{
    ErrorKind, Fault, Feature, Hypervisor, MemorySize, PortForward, SecretSource, TemplateName, VmName, Volume,
};
use mvm_runtime::{AnyBackend, BackendError, LaunchEvent, RegistryError};
use std::ffi::OsString;
use std::pin::pin;
use std::time::Duration;

/// Start a VM: from a flake, an image, the built-in image, or one that is stopped
///
/// Shows its console until it ends or Ctrl-C stops it; with -d it goes on in the background.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvmctl up --rm\n  mvmctl up web --flake github:me/site#vm -p 8080:80 -d\n  mvmctl up web --template site -d\n  mvmctl start web"
)]
pub(crate) struct UpArgs {
    /// The VM's name; one is made up where it is missing
    #[arg(conflicts_with = "named")]
    name: Option<VmName>,
    /// The same, as an option
    #[arg(long = "name", id = "named", value_name = "NAME")]
    named: Option<VmName>,
    /// Build the image from this flake ref
    #[arg(long, value_name = "REF", conflicts_with = "image")]
    flake: Option<String>,
    /// Which image of the flake: `--profile web` is `#web`
    #[arg(long, value_name = "NAME", requires = "flake", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    profile: Option<String>,
    /// Evaluate the flake even if nothing has changed
    #[arg(long, requires = "flake")]
    refresh: bool,
    /// Use this image: a folder, or the name of one that was fetched (`mvmctl image list`)
    #[arg(long, value_name = "DIR|NAME")]
    image: Option<OsString>,
    /// Use this template's image and resources; built where it has not been
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["flake", "image"])]
    template: Option<TemplateName>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: Option<u32>,
    /// Memory, as 512M or 4G
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemorySize>,
    /// Set a variable for the guest's processes
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_env)]
    env: Vec<(String, String)>,
    /// Publish a port of the guest on the host: [ADDR:]HOST:GUEST
    #[arg(short, long = "port", value_name = "HOST:GUEST")]
    ports: Vec<PortForward>,
    /// Keep a folder of the guest in a volume, which outlives the VM: NAME:/PATH[:SIZE]
    #[arg(short, long = "volume", value_name = "NAME:/PATH")]
    volumes: Vec<Volume>,
    /// Give the guest a secret, as /run/secrets/NAME; kept nowhere, so to be given at each start
    #[arg(long = "secret", value_name = "NAME=FILE")]
    secrets: Vec<SecretSource>,
    /// Return when the VM is ready
    #[arg(short, long)]
    detach: bool,
    /// Force a hypervisor: firecracker, qemu, docker, or microvm-nix for the runner of a NixOS configuration
    #[arg(long, value_name = "NAME")]
    hypervisor: Option<Hypervisor>,
    /// Remove the VM when it stops, with everything but the volumes of one that has a name
    #[arg(long)]
    rm: bool,
    /// Seconds that the guest may take to become ready [default: 120]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    boot_timeout: Option<u64>,
}

/// Seconds that a guest may take where nobody says otherwise.
const BOOT_TIMEOUT: u64 = 120;

impl UpArgs {
    /// The first option that only a new VM can honour.
    fn only_for_new(&self) -> Option<&'static str> {
        [
            (self.cpus.is_some(), "--cpus"),
            (self.memory.is_some(), "--memory"),
            (!self.env.is_empty(), "--env"),
            (!self.ports.is_empty(), "--port"),
            (!self.volumes.is_empty(), "--volume"),
            (self.hypervisor.is_some(), "--hypervisor"),
            (self.rm, "--rm"),
        ]
        .into_iter()
        .find_map(|(given, option)| given.then_some(option))
    }

    /// Refuses, by name, what the hypervisor that was forced, here or by a template, cannot honour.
    fn check_hypervisor(&self, forced: Option<Hypervisor>) -> Result<(), Fault> {
        let Some(hypervisor) = forced else { return Ok(()) };
        for (given, feature, option) in [
            (self.image.is_some(), Feature::Image, "--image"),
            // A template is an image, whatever runs it.
            (self.template.is_some(), Feature::Image, "--template"),
            (self.cpus.is_some(), Feature::Image, "--cpus"),
            (self.memory.is_some(), Feature::Image, "--memory"),
            (!self.env.is_empty(), Feature::Image, "--env"),
            (!self.ports.is_empty(), Feature::Agent, "--port"),
            (self.boot_timeout.is_some(), Feature::Agent, "--boot-timeout"),
        ] {
            if given {
                hypervisor.require(feature, option)?;
            }
        }
        if !hypervisor.capabilities().image && self.flake.is_none() {
            let message = format!("--hypervisor {hypervisor} runs a NixOS configuration of a flake, and none is given");
            return Err(Fault::new(ErrorKind::Usage, message).with_hint("name it: --flake .#NAME"));
        }
        Ok(())
    }
}

/// Refuses what nothing here can run, with the vCPUs, volumes and secrets that are asked for.
async fn check_backend(wishes: &Wishes, ctx: &Context) -> Result<(), Fault> {
    let check = |hypervisor: Hypervisor| -> Result<(), Fault> {
        let max = hypervisor.capabilities().max_vcpus;
        if let Some(asked) = wishes.cpus.filter(|asked| *asked > max) {
            return Err(BackendError::Vcpus { hypervisor, max, asked }.into());
        }
        for (given, option) in [(!wishes.volumes.is_empty(), "--volume"), (!wishes.secrets.is_empty(), "--secret")] {
            if given {
                hypervisor.require(Feature::Drives, option)?;
            }
        }
        Ok(())
    };
    wishes.hypervisor.map_or(Ok(()), check)?;
    // What a runner starts is the configuration's affair.
    if wishes.hypervisor.is_none_or(|hypervisor| hypervisor.capabilities().image) {
        check(AnyBackend::choose(wishes.hypervisor, ctx.dirs()).await?.hypervisor())?;
    }
    Ok(())
}

pub(crate) async fn run(args: UpArgs, ctx: &Context) -> Result<u8, Fault> {
    let (name, exists) = match args.name.as_ref().or(args.named.as_ref()) {
        Some(name) => match ctx.registry.get(name) {
            Ok(_) => (name.clone(), true),
            Err(RegistryError::NotFound(_)) => (name.clone(), false),
            Err(error) => return Err(error.into()),
        },
        None => (creation::new_name()?, false),
    };
    // Heard before anything is made: a signal ends in the removal of what there is by then.
    let mut interrupts = Interrupts::hear()?;
    let secrets = secret_files::read(args.secrets.clone(), &mut interrupts).await?;
    if exists {
        if ctx.registry.is_running(&name)? {
            return Err(RegistryError::Running(name.to_string()).into());
        }
        if args.flake.is_some() || args.image.is_some() || args.template.is_some() {
            return Err(RegistryError::Taken(name.to_string()).into());
        }
        if let Some(option) = args.only_for_new() {
            let message = format!("the VM {name} exists already: {option} is decided when a VM is made");
            let hint = format!("`mvmctl start {name}` starts it as it is; `mvmctl rm {name}` removes it");
            return Err(Fault::new(ErrorKind::Usage, message).with_hint(hint));
        }
        secrets.check(&ctx.registry.get(&name)?.spec.secrets)?;
        if args.boot_timeout.is_some()
            && let Some(hypervisor) = ctx.registry.get(&name)?.spec.hypervisor
        {
            hypervisor.require(Feature::Agent, "--boot-timeout")?;
        }
    } else {
        let template = args.template.as_ref().map(|name| ctx.templates().get(name)).transpose()?;
        args.check_hypervisor(args.hypervisor.or(template.as_ref().and_then(|t| t.template.hypervisor)))?;
        Volume::check_all(&args.volumes)?;
        let mut wishes = Wishes {
            cpus: args.cpus,
            memory: args.memory,
            env: args.env.into_iter().collect(),
            ports: args.ports,
            volumes: args.volumes,
            secrets: secrets.iter().map(|(name, _)| name.to_owned()).collect(),
            hypervisor: args.hypervisor,
            ephemeral: args.rm,
            anonymous: args.name.is_none() && args.named.is_none(),
        };
        if let Some(template) = &template {
            wishes = wishes.or_of(&template.template);
        }
        // Said before a build that may take long.
        wishes.memory.map_or(Ok(()), mvm_runtime::check_memory)?;
        check_backend(&wishes, ctx).await?;
        let sourced = match (&args.flake, &args.image, &template) {
            (Some(flake), _, _) => {
                let wanted = Wanted::typed(flake, args.profile.as_deref(), args.refresh)?;
                let link = ctx.dirs().building_vm(&name);
                match args.hypervisor {
                    Some(Hypervisor::MicrovmNix) => source::runner(ctx, wanted, &link, &mut interrupts).await?,
                    _ => source::flake(ctx, wanted, &link, &mut interrupts).await?,
                }
            }
            (None, Some(image), _) => source::image(ctx, image, &mut interrupts).await?,
            (None, None, Some(template)) => source::template(ctx, template, &mut interrupts).await?,
            (None, None, None) => source::built_in(ctx, &mut interrupts).await?,
        };
        creation::create(ctx, name.clone(), sourced, wishes, &mut interrupts).await?;
    }
    let deadline = Duration::from_secs(args.boot_timeout.unwrap_or(BOOT_TIMEOUT));
    let ready = boot::start(ctx, &name, &secrets, deadline, !exists, &mut interrupts).await?;
    let took = ready.record.boot_ms.map_or(String::new(), |ms| format!(" after {ms} ms"));
    ctx.ui.status(&format!("{name} is {}{took}", ready.record.state));
    for port in &ready.record.ports {
        ctx.ui.status(&format!("{} leads to port {}", port.listen(), port.guest));
    }
    if args.detach {
        ready.launch.detach().await.map_err(|e| Fault::unexpected("cannot let go of the VM", &e))?;
        ctx.ui.data(name.as_str());
        return Ok(0);
    }
    attend(ctx, &name, ready, &mut interrupts).await
}

/// Shows the console until the VM ends or someone has had enough of it.
async fn attend(ctx: &Context, name: &VmName, ready: Ready, interrupts: &mut Interrupts) -> Result<u8, Fault> {
    let Ready { mut launch, mut console, .. } = ready;
    let event = {
        // One future over the whole loop: it must not be dropped in the middle of a line.
        let mut event = pin!(launch.event());
        loop {
            console.drain(|bytes| ctx.ui.raw(bytes))?;
            tokio::select! {
                event = &mut event => break Some(event),
                () = console.changed() => {}
                _ = interrupts.next() => break None,
            }
        }
    };
    let Some(event) = event else {
        ctx.ui.status(&format!("stopping {name}; once more ends it at once"));
        boot::stop(ctx, name, launch, interrupts).await?;
        return Ok(0);
    };
    while let Ok(bytes) = console.read()
        && !bytes.is_empty()
    {
        ctx.ui.raw(&bytes)?;
    }
    match event {
        Ok(Some(LaunchEvent::Failed { fault })) => Err(fault),
        Ok(Some(_)) => {
            ctx.ui.status(&format!("{name} has ended"));
            Ok(0)
        }
        Ok(None) => Err(Fault::new(ErrorKind::Unexpected, "the VM's supervisor died")),
        Err(e) => Err(Fault::unexpected("cannot hear the VM's supervisor", &e)),
    }
}
