//! From a spec to what a backend is given: the image checked, the drives made.

use super::launch::Parent;
use crate::files;
use mvm_core::{
    Dirs, Drive, DriveRole, ErrorKind, Fault, Feature, GUEST_SCHEMA, GuestConfig, GuestVolume, Hypervisor, LaunchSpec,
    Secrets, VmDirs, VmSpec, Volume,
};
use mvm_image::{Image, Stop};
use mvm_protocol::{ChannelKeys, PROTOCOL_VERSION};
use tokio::sync::mpsc;

/// Checks the image and makes the drives of one start, for as long as the `up` that wants it is there.
pub(super) async fn launch_spec_for(
    parent: &mut mpsc::Receiver<Parent>,
    dirs: &Dirs,
    vm: &VmDirs,
    spec: &VmSpec,
    keys: &ChannelKeys,
    hypervisor: Hypervisor,
    secrets: Secrets,
) -> Result<LaunchSpec, Fault> {
    let (stopper, stop) =
        mvm_image::stoppable().map_err(|e| Fault::unexpected("cannot prepare the VM's drives", &e))?;
    let (dirs, vm, spec, keys) = (dirs.clone(), vm.clone(), spec.clone(), keys.clone());
    let mut preparing =
        tokio::task::spawn_blocking(move || launch_spec(&dirs, &vm, &spec, &keys, hypervisor, &secrets, &stop));
    let done = tokio::select! {
        done = &mut preparing => done,
        () = abandoned(parent) => {
            drop(stopper);
            // It tidies up what it had begun; were it done by chance, nobody would want it.
            let _ = preparing.await;
            return Err(Fault::new(ErrorKind::Unexpected, "interrupted"));
        }
    };
    done.map_err(|e| Fault::unexpected("cannot prepare the VM's drives", &e))?
}

/// Does something that may take long, for as long as the `up` that wants it is there; dropped when that is gone.
pub(super) async fn while_wanted<T, E: Into<Fault>>(
    parent: &mut mpsc::Receiver<Parent>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Fault> {
    tokio::select! {
        done = work => done.map_err(Into::into),
        () = abandoned(parent) => Err(Fault::new(ErrorKind::Unexpected, "interrupted")),
    }
}

async fn abandoned(parent: &mut mpsc::Receiver<Parent>) {
    loop {
        match parent.recv().await {
            Some(Parent::Gone) => return,
            Some(Parent::Detached) => {}
            None => std::future::pending().await,
        }
    }
}

fn launch_spec(
    dirs: &Dirs,
    vm: &VmDirs,
    spec: &VmSpec,
    keys: &ChannelKeys,
    hypervisor: Hypervisor,
    secrets: &Secrets,
    stop: &Stop,
) -> Result<LaunchSpec, Fault> {
    secrets.check(&spec.secrets)?;
    let image = Image::open(&spec.image)?;
    let manifest = image.manifest();
    if manifest.agent.protocol > PROTOCOL_VERSION {
        let message = format!(
            "the image's agent speaks protocol {}; this mvmctl speaks up to {PROTOCOL_VERSION}",
            manifest.agent.protocol
        );
        return Err(Fault::new(ErrorKind::ImageInvalid, message).with_hint("update mvmctl"));
    }
    for (needed, what) in [
        (!spec.volumes.is_empty(), "the VM's volumes"),
        (!secrets.is_empty(), "the VM's secrets"),
        (manifest.rootfs.read_only, "the image's read-only root"),
    ] {
        if needed {
            hypervisor.require(Feature::Drives, what)?;
        }
    }
    let drive = |role, path: std::path::PathBuf, read_only| Drive { role, path, read_only };
    // The root comes first: a kernel without an initrd looks for it there.
    let mut drives = vec![drive(DriveRole::Root, image.rootfs().to_path_buf(), true)];
    let with_drives = hypervisor.capabilities().drives;
    if with_drives && !manifest.rootfs.read_only {
        if !vm.writable_layer().exists() {
            mvm_image::writable_layer(dirs, &vm.writable_layer(), stop)?;
        }
        drives.push(drive(DriveRole::Writable, vm.writable_layer(), false));
    }
    if with_drives {
        drives.push(drive(DriveRole::Config, vm.config_drive(), true));
    }
    let host_public_key = keys.host_public_hex().map_err(|e| Fault::unexpected("cannot read the VM's keys", &e))?;
    let config = GuestConfig {
        schema: GUEST_SCHEMA,
        name: spec.name.to_string(),
        machine_id: spec.machine_id.clone(),
        now: crate::clock::now_ms() / 1000,
        env: spec.env.clone(),
        volumes: volumes(vm, spec, &mut drives, stop)?,
        secrets: !secrets.is_empty(),
        interface: None,
        host_public_key,
        guest_secret_key: keys.guest_secret_hex().into(),
    };
    if with_drives {
        mvm_image::write_config_drive(dirs, &vm.config_drive(), &config, stop)?;
    }
    if !secrets.is_empty() {
        mvm_image::write_secrets_drive(dirs, &vm.secrets_drive(), secrets, stop)?;
        drives.push(drive(DriveRole::Secrets, vm.secrets_drive(), true));
    }
    Ok(LaunchSpec {
        name: spec.name.clone(),
        vcpus: spec.vcpus,
        memory: spec.memory,
        kernel: image.kernel().to_path_buf(),
        kernel_format: manifest.kernel.format,
        initrd: image.initrd().map(Into::into),
        cmdline: manifest.cmdline.clone(),
        drives,
        config,
        agent: manifest.agent.clone(),
        runtime_dir: vm.runtime().to_path_buf(),
    })
}

/// Makes the volumes that are not there yet, adds their drives, and tells the guest which is which.
fn volumes(vm: &VmDirs, spec: &VmSpec, drives: &mut Vec<Drive>, stop: &Stop) -> Result<Vec<GuestVolume>, Fault> {
    // It becomes names of files and of drives.
    Volume::check_all(&spec.volumes)?;
    if !spec.volumes.is_empty() {
        files::private_dir(vm.volumes()).map_err(|e| Fault::unexpected("cannot make the folder for volumes", &e))?;
    }
    let mut told: Vec<GuestVolume> = Vec::new();
    for (n, volume) in (0..).zip(&spec.volumes) {
        let path = vm.volume(&volume.name);
        // A link that leads nowhere is a disk that is not there, and no volume that was never made.
        if path.symlink_metadata().is_err() {
            mvm_image::make_volume(&path, &volume.name, volume.size_mib, stop)?;
        }
        let label = mvm_image::volume_label(&path)?;
        if let Some(other) = told.iter().find(|other| other.label == label) {
            let message = format!("the volumes {:?} and {:?} have the same label {label}", other.name, volume.name);
            let hint = format!("was one copied from the other? `tune2fs -L mvm-data-2 {}` labels it", path.display());
            return Err(Fault::new(ErrorKind::Unexpected, message).with_hint(hint));
        }
        drives.push(Drive { role: DriveRole::Data(n), path, read_only: false });
        told.push(GuestVolume {
            name: volume.name.clone(),
            label,
            mount_point: volume.mount_point.clone(),
            owner: volume.owner.clone(),
            mode: volume.mode.clone(),
        });
    }
    // What is mounted within another comes after it.
    told.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    Ok(told)
}
