//! From a spec to what a backend is given: the image checked, the drives made.

use mvm_core::{Dirs, Drive, DriveRole, ErrorKind, Fault, GUEST_SCHEMA, GuestConfig, LaunchSpec, VmDirs, VmSpec};
use mvm_image::Image;
use mvm_protocol::{ChannelKeys, PROTOCOL_VERSION};

/// Checks the image and makes the drives of one start.
pub(super) fn launch_spec(dirs: &Dirs, vm: &VmDirs, spec: &VmSpec, keys: &ChannelKeys) -> Result<LaunchSpec, Fault> {
    let image = Image::open(&spec.image)?;
    let manifest = image.manifest();
    if manifest.agent.protocol > PROTOCOL_VERSION {
        let message = format!(
            "the image's agent speaks protocol {}; this mvmctl speaks up to {PROTOCOL_VERSION}",
            manifest.agent.protocol
        );
        return Err(Fault::new(ErrorKind::ImageInvalid, message).with_hint("update mvmctl"));
    }
    let host_public_key = keys.host_public_hex().map_err(|e| Fault::unexpected("cannot read the VM's keys", &e))?;
    let config = GuestConfig {
        schema: GUEST_SCHEMA,
        name: spec.name.to_string(),
        machine_id: spec.machine_id.clone(),
        now: crate::clock::now_ms() / 1000,
        env: spec.env.clone(),
        interface: None,
        host_public_key,
        guest_secret_key: keys.guest_secret_hex().into(),
    };
    if !vm.writable_layer().exists() {
        mvm_image::writable_layer(dirs, &vm.writable_layer())?;
    }
    mvm_image::write_config_drive(dirs, &vm.config_drive(), &config)?;
    let drive = |role, path: std::path::PathBuf, read_only| Drive { role, path, read_only };
    Ok(LaunchSpec {
        name: spec.name.clone(),
        vcpus: spec.vcpus,
        memory: spec.memory,
        kernel: image.kernel().to_path_buf(),
        kernel_format: manifest.kernel.format,
        initrd: image.initrd().map(Into::into),
        cmdline: manifest.cmdline.clone(),
        drives: vec![
            drive(DriveRole::Root, image.rootfs().to_path_buf(), true),
            drive(DriveRole::Writable, vm.writable_layer(), false),
            drive(DriveRole::Config, vm.config_drive(), true),
        ],
        runtime_dir: vm.runtime().to_path_buf(),
    })
}
