//! From a source of an image to a VM that is ready: what `up` and a one-shot `exec` share.

use crate::Context;
use crate::follow::{LogFollower, Tail};
use crate::interrupt::Interrupts;
use crate::progress::BuildProgress;
use mvm_core::{ErrorKind, Fault, Hypervisor, ImageDefaults, ImageManifest, MemorySize, PortForward, Template, VmDirs};
use mvm_core::{SecretError, SecretSource, Secrets, VmName, VmRecord, VmSource, VmSpec, Volume, features};
use mvm_image::{FetchedImages, GuestKernel, Image, LocalKind};
use mvm_nix::{BuildEvent, BuildOutput, BuildRequest, FlakeRef, GcRoot, Nix};
use mvm_runtime::control::ControlRequest;
use mvm_runtime::{ControlClient, Launch, LaunchEvent, RegistryError, StoredTemplate};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Lines of the console that a boot that failed shows.
const LAST_LINES: usize = 20;
/// And most bytes of them.
const LAST_BYTES: usize = 64 * 1024;

/// An image, found or built.
pub(crate) struct Sourced {
    folder: PathBuf,
    source: VmSource,
    defaults: ImageDefaults,
    /// What the image says of itself; a runner of microvm.nix is none.
    image: Option<ImageManifest>,
    kept: Option<Kept>,
}

/// What keeps an image of Nix's until a VM does.
struct Kept {
    /// The root of a build that was made for this VM; it goes when the VM has its own.
    build: Option<GcRoot>,
    /// Says that what keeps it is in use.
    _held: std::fs::File,
}

/// What a user may choose beside the image.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub cpus: Option<u32>,
    pub memory: Option<MemorySize>,
    pub env: BTreeMap<String, String>,
    pub ports: Vec<PortForward>,
    pub volumes: Vec<Volume>,
    pub secrets: Vec<String>,
    pub hypervisor: Option<Hypervisor>,
    pub ephemeral: bool,
    /// Nobody has named the VM.
    pub anonymous: bool,
}

impl Wishes {
    /// With what a template says wherever the user says nothing.
    pub fn or_of(mut self, template: &Template) -> Self {
        self.cpus = self.cpus.or(template.vcpus);
        self.memory = self.memory.or(template.memory);
        self.hypervisor = self.hypervisor.or(template.hypervisor);
        for (name, value) in &template.env {
            self.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self.ports = publish(self.ports, &template.ports);
        self
    }
}

/// What the user publishes takes the place of what is proposed for the same port of the guest.
fn publish(mut ports: Vec<PortForward>, proposed: &[PortForward]) -> Vec<PortForward> {
    let others = proposed.iter().filter(|p| !ports.iter().any(|o| o.guest == p.guest));
    ports.extend(others.copied().collect::<Vec<_>>());
    ports
}

/// A VM that is ready and whose supervisor still listens to us.
pub(crate) struct Ready {
    pub launch: Launch,
    pub record: VmRecord,
    pub console: LogFollower,
}

/// A random number.
fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Fault::new(ErrorKind::Unexpected, format!("no random numbers: {e}")))?;
    Ok(bytes)
}

/// A name that nobody has yet, as far as chance goes.
pub(crate) fn new_name() -> Result<VmName, Fault> {
    Ok(VmName::generate(u64::from_le_bytes(random()?)))
}

/// The image that is assembled on this machine.
pub(crate) async fn built_in(ctx: &Context, interrupts: &mut Interrupts) -> Result<Sourced, Fault> {
    let cannot = |e: &(dyn std::error::Error + 'static)| Fault::unexpected("cannot assemble the built-in image", e);
    let (stopper, stop) = mvm_image::stoppable().map_err(|e| cannot(&e))?;
    let dirs = ctx.dirs().clone();
    let mut assembling = tokio::task::spawn_blocking(move || -> Result<PathBuf, Fault> {
        let guest = mvm_image::find_guest_binary()?;
        let kernel = GuestKernel::find(&dirs)?;
        Ok(mvm_image::ensure_builtin(&dirs, &guest, &kernel, &stop)?)
    });
    let folder = tokio::select! {
        done = &mut assembling => done.map_err(|e| cannot(&e))??,
        fault = interrupts.fault() => {
            drop(stopper);
            // It tidies up what it had begun.
            let _ = assembling.await;
            return Err(fault);
        }
    };
    sourced(folder, VmSource::BuiltIn, None)
}

/// An image by its path or name.
pub(crate) async fn image(
    ctx: &Context,
    given: &std::ffi::OsStr,
    interrupts: &mut Interrupts,
) -> Result<Sourced, Fault> {
    let found = mvm_image::resolve_image(ctx.dirs(), given)?;
    if !matches!(found.kind, LocalKind::Fetched(_)) {
        return sourced(found.folder, VmSource::Folder, None);
    }
    let fetched = FetchedImages::new(ctx.dirs());
    let held = interrupts.blocking(move || fetched.hold()).await?;
    // What was found may have gone while nobody held it.
    let found = mvm_image::local_image(ctx.dirs(), &found.name)?;
    sourced(found.folder, VmSource::Image { image: found.name }, Some(Kept { build: None, _held: held }))
}

/// What is asked of Nix.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub flake: FlakeRef,
    /// Evaluate it whatever is remembered.
    pub refresh: bool,
}

impl Wanted {
    /// An output of a flake, as typed here; of a ref that is given alone the one that `profile` names.
    pub(crate) fn typed(flake: &str, profile: Option<&str>, refresh: bool) -> Result<Self, Fault> {
        let flake = flake_ref(flake)?;
        let flake = profile.map_or(Ok(flake.clone()), |profile| flake.with_profile(profile))?;
        Ok(Self { flake, refresh })
    }
}

impl From<FlakeRef> for Wanted {
    /// As it was, if nothing has changed.
    fn from(flake: FlakeRef) -> Self {
        Self { flake, refresh: false }
    }
}

/// An image that Nix builds; `link`, in the folder of GC roots, keeps it.
pub(crate) async fn flake(
    ctx: &Context,
    wanted: Wanted,
    link: &Path,
    interrupts: &mut Interrupts,
) -> Result<Sourced, Fault> {
    let building = ctx.registry.building()?;
    let (flake, output) = nix_build(ctx, wanted, link, interrupts).await?;
    let folder = output.path.to_absolute_path().into();
    let kept = Kept { build: Some(output.root.clone()), _held: building };
    let source = VmSource::Flake { flake: flake.to_string(), template: None };
    let done = sourced(folder, source, Some(kept));
    if done.is_err() {
        output.root.release()?;
    }
    done
}

/// The runner of a NixOS configuration that uses microvm.nix; `link` as for [`flake`].
pub(crate) async fn runner(
    ctx: &Context,
    wanted: Wanted,
    link: &Path,
    interrupts: &mut Interrupts,
) -> Result<Sourced, Fault> {
    let options = wanted.flake.microvm_options()?;
    let nix = Nix::find()?;
    let resources = tokio::select! {
        read = nix.microvm_resources(&options) => read?,
        fault = interrupts.fault() => return Err(fault),
    };
    let building = ctx.registry.building()?;
    let runner = Wanted { flake: flake_ref(&format!("{options}.declaredRunner"))?, ..wanted };
    let (flake, output) = nix_build(ctx, runner, link, interrupts).await?;
    let kept = Kept { build: Some(output.root.clone()), _held: building };
    let done = || -> Result<Sourced, Fault> {
        let folder = PathBuf::from(output.path.to_absolute_path());
        mvm_runtime::check_runner(&folder)?;
        let (vcpus, memory) = (resources.vcpu, MemorySize::from_mib(resources.mem)?);
        let defaults = ImageDefaults { vcpus, memory, ports: Vec::new() };
        let source = VmSource::Flake { flake: flake.to_string(), template: None };
        Ok(Sourced { folder, source, defaults, image: None, kept: Some(kept) })
    };
    let done = done();
    if done.is_err() {
        output.root.release()?;
    }
    done
}

/// The image of a template, built where that has not been done for what it says now.
pub(crate) async fn template(
    ctx: &Context,
    template: &StoredTemplate,
    interrupts: &mut Interrupts,
) -> Result<Sourced, Fault> {
    let held = ctx.templates().hold(&template.name)?;
    let flake = crate::template_build::flake_of(ctx, template)?.to_string();
    let build = match template.build_of(&flake) {
        Some(build) => build.clone(),
        None => crate::template_build::build(ctx, template, false, interrupts).await?,
    };
    let source = VmSource::Flake { flake, template: Some(template.name.clone()) };
    sourced(build.image, source, Some(Kept { build: None, _held: held }))
}

fn sourced(folder: PathBuf, source: VmSource, kept: Option<Kept>) -> Result<Sourced, Fault> {
    let image = Image::open(&folder)?.manifest().clone();
    Ok(Sourced { folder, source, defaults: image.defaults.clone(), image: Some(image), kept })
}

/// `nix build`, with its progress on the terminal. Ctrl-C ends it in order.
pub(crate) async fn nix_build(
    ctx: &Context,
    wanted: impl Into<Wanted>,
    link: &Path,
    interrupts: &mut Interrupts,
) -> Result<(FlakeRef, BuildOutput), Fault> {
    let mut progress = BuildProgress::new(&ctx.ui);
    nix_build_with(ctx, &wanted.into(), link, interrupts, |event| progress.show(event)).await
}

/// Keeps what is in Nix's store: `link` becomes a GC root of it.
pub(crate) async fn keep(ctx: &Context, path: &Path, link: &Path, interrupts: &mut Interrupts) -> Result<(), Fault> {
    let path = flake_ref(&path.to_string_lossy())?;
    nix_build(ctx, path, link, interrupts).await.map(drop)
}

/// The same for somebody who shows the progress himself.
pub(crate) async fn nix_build_with(
    ctx: &Context,
    wanted: &Wanted,
    link: &Path,
    interrupts: &mut Interrupts,
    events: impl FnMut(&BuildEvent),
) -> Result<(FlakeRef, BuildOutput), Fault> {
    let flake = wanted.flake.clone();
    let nix = Nix::find()?;
    let request = BuildRequest {
        refresh: wanted.refresh,
        evaluations: Some(ctx.dirs().evaluations()),
        ..BuildRequest::new(flake.clone(), link)
    };
    let done = tokio::select! {
        done = nix.build(&request, events) => done.map_err(Fault::from),
        fault = interrupts.fault() => Err(fault),
    };
    Ok((flake, done?))
}

/// A flake ref as it was typed here.
pub(crate) fn flake_ref(text: &str) -> Result<FlakeRef, Fault> {
    let cwd = std::env::current_dir().map_err(|e| Fault::unexpected("cannot tell the current folder", &e))?;
    Ok(FlakeRef::parse(text, &cwd, std::env::home_dir().as_deref())?)
}

/// Writes a new VM down.
pub(crate) async fn create(
    ctx: &Context,
    name: VmName,
    from: Sourced,
    wishes: Wishes,
    interrupts: &mut Interrupts,
) -> Result<VmDirs, Fault> {
    let defaults = from.defaults;
    let ports = publish(wishes.ports, &defaults.ports);
    let (volumes, secrets) = match wanted(from.image, wishes.volumes, wishes.secrets) {
        Ok(wanted) => wanted,
        Err(fault) => {
            release(from.kept)?;
            return Err(fault);
        }
    };
    let spec = VmSpec {
        schema: 1,
        name: name.clone(),
        machine_id: format!("{:032x}", u128::from_le_bytes(random()?)),
        source: from.source,
        image: from.folder.clone(),
        vcpus: wishes.cpus.unwrap_or(defaults.vcpus),
        memory: wishes.memory.unwrap_or(defaults.memory),
        env: wishes.env,
        ports,
        volumes,
        secrets,
        discard_volumes: wishes.anonymous && wishes.ephemeral,
        hypervisor: wishes.hypervisor,
        ephemeral: wishes.ephemeral,
        created: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs()),
    };
    let vm = match ctx.registry.create(&spec, |_| Ok(())) {
        Ok(vm) => vm,
        Err(error) => {
            release(from.kept)?;
            return Err(error.into());
        }
    };
    if let Some(Kept { build, _held }) = from.kept {
        // The image now belongs to the VM: it goes when the VM's folder goes.
        let kept = keep(ctx, &from.folder, &vm.gc_root(), interrupts).await;
        let released = build.map_or(Ok(()), GcRoot::release);
        if let Err(fault) = kept.and_then(|()| Ok(released?)) {
            remove(ctx, &name, false).await?;
            return Err(fault);
        }
    }
    Ok(vm)
}

/// The image's volumes and secrets with those of the user, if the VM can have them. A volume is as the user wants it where he
/// says so; a secret that the image needs is given.
fn wanted(
    image: Option<ImageManifest>,
    wished: Vec<Volume>,
    given: Vec<String>,
) -> Result<(Vec<Volume>, Vec<String>), Fault> {
    // A runner has neither, and its options have been refused.
    let Some(image) = image else { return Ok((wished, given)) };
    for (what, wanted) in [(features::VOLUMES, !wished.is_empty()), (features::SECRETS, !given.is_empty())] {
        if wanted && !image.agent.can(what) {
            let message = format!("the image's agent ({}) knows no {what}", image.agent.version);
            return Err(Fault::new(ErrorKind::Usage, message).with_hint("build the image again, with a later mvm"));
        }
    }
    let missing: Vec<_> = image.secrets.iter().filter(|name| !given.contains(name)).cloned().collect();
    if !missing.is_empty() {
        return Err(SecretError::Missing(missing).into());
    }
    let mut volumes = image.volumes;
    for wish in wished {
        match volumes.iter_mut().find(|volume| volume.name == wish.name) {
            // Whose it is remains the image's affair.
            Some(volume) => (volume.mount_point, volume.size_mib) = (wish.mount_point, wish.size_mib),
            None => volumes.push(wish),
        }
    }
    Volume::check_all(&volumes)?;
    Ok((volumes, given))
}

/// Reads the secrets that are given. A file may be a pipe: a signal ends the wait for it.
pub(crate) async fn read_secrets(sources: Vec<SecretSource>, interrupts: &mut Interrupts) -> Result<Secrets, Fault> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut secrets = Secrets::default();
        for SecretSource { name, file } in sources {
            let mut content = Vec::new();
            // A byte more than there may be, so that one that is too large is told from one that fits.
            let read = File::open(&file).and_then(|open| open.take(Secrets::EACH as u64 + 1).read_to_end(&mut content));
            read.map_err(|error| {
                let kind = match error.kind() {
                    std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                    std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                    _ => ErrorKind::Unexpected,
                };
                Fault::new(kind, format!("cannot read the secret {name:?} from {file:?}: {error}"))
            })?;
            secrets.add(&name, content)?;
        }
        Ok(secrets)
    });
    tokio::select! {
        read = reading => read.map_err(|e| Fault::unexpected("cannot read the secrets", &e))?,
        fault = interrupts.fault() => Err(fault),
    }
}

/// Lets go of a build that no VM keeps.
fn release(kept: Option<Kept>) -> Result<(), Fault> {
    Ok(kept.and_then(|kept| kept.build).map_or(Ok(()), GcRoot::release)?)
}

/// Removes a VM and what it owns; its volumes too where they are not to be kept.
pub(crate) async fn remove(ctx: &Context, name: &VmName, volumes: bool) -> Result<(), RegistryError> {
    let left = match volumes {
        true => ctx.registry.remove_with_volumes(name).await?,
        false => ctx.registry.remove(name).await?,
    };
    if let Some(left) = left {
        ctx.ui.warning(&format!("{left}; the container of {name} is left, and removed when Docker is used again"));
    }
    Ok(())
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
            if let Err(error) = ctx.registry.keep_volumes(name, &volumes) {
                ctx.ui.warning(&error.to_string());
            }
            match remove(ctx, name, false).await {
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
