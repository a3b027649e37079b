//! Making a VM of an image and of what the user wishes, and removing it.

use crate::interrupt::Interrupts;
use crate::source::{Kept, Sourced};
use crate::{Context, nix_build};
use mvm_core::{ErrorKind, Fault, Hypervisor, ImageManifest, MemorySize, PortForward, SecretError, Template, VmDirs};
use mvm_core::{VmName, VmSpec, Volume, features};
use mvm_runtime::RegistryError;
use std::collections::BTreeMap;
use std::time::SystemTime;

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
            from.kept.map_or(Ok(()), Kept::release)?;
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
            from.kept.map_or(Ok(()), Kept::release)?;
            return Err(error.into());
        }
    };
    if let Some(kept) = from.kept {
        // The image now belongs to the VM: it goes when the VM's folder goes.
        let own = nix_build::keep(ctx, &from.folder, &vm.gc_root(), interrupts).await;
        let released = kept.release();
        if let Err(fault) = own.and(released) {
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
