//! The containers that are ours: what one is made of, and which are whose.
//!
//! | label | what |
//! |---|---|
//! | `org.mvm.instance` | whose: a hash of the folder in which the user's VMs are written down |
//! | `org.mvm.vm` | the VM's name |
//! | `org.mvm.machine-id` | its identity: a VM that is made under the name of another does not get that one's layer |

use super::error::{DockerError, is_missing};
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigLogConfig, Mount, MountType,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use mvm_core::{Dirs, LaunchSpec, VmName, VmSpec, container as guest};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const INSTANCE_LABEL: &str = "org.mvm.instance";
const VM_LABEL: &str = "org.mvm.vm";
const MACHINE_ID_LABEL: &str = "org.mvm.machine-id";

/// The program in every image that is its init.
const INIT: &str = "/sbin/mvm-guest";
/// What root may do in a container: be root among its own files, processes and ports. Nothing that reaches the host:
/// no mounts, modules, raw sockets, devices, clocks or reboots.
const CAPABILITIES: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID", "SYS_CHROOT"];
/// Most processes and threads, against a guest that does nothing but fork.
const MOST_PROCESSES: i64 = 4096;
/// What a guest mounts by itself in a VM.
const MEMORY_FOLDERS: [(&str, &str); 2] =
    [("/run", "rw,nosuid,nodev,exec,mode=755"), ("/tmp", "rw,nosuid,nodev,exec,mode=1777")];

/// Whose containers are meant.
pub(super) struct Owner {
    instance: String,
}

impl Owner {
    pub(super) fn new(dirs: &Dirs) -> Self {
        let hash = Sha256::digest(dirs.vms().as_os_str().as_bytes());
        Self { instance: hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect() }
    }

    fn container(&self, vm: &VmName) -> String {
        format!("mvm-{}-{vm}", self.instance)
    }

    fn owns(&self, container: &ContainerInspectResponse) -> bool {
        label(container, INSTANCE_LABEL) == Some(&self.instance)
    }
}

fn label<'c>(container: &'c ContainerInspectResponse, name: &str) -> Option<&'c str> {
    container.config.as_ref()?.labels.as_ref()?.get(name).map(String::as_str)
}

/// The container of a VM for its next start: the one that there is, or a new one. Its id, and whether it is new.
pub(super) async fn prepare(
    client: &Docker,
    owner: &Owner,
    spec: &LaunchSpec,
    image: &str,
    folder: &Path,
) -> Result<(String, bool), DockerError> {
    let name = owner.container(&spec.name);
    if let Some(found) = inspect(client, owner, &name).await? {
        if label(&found, MACHINE_ID_LABEL) == Some(&spec.config.machine_id) {
            end_if_alive(client, &name, &found).await?;
            check_folder(&found, folder)?;
            return Ok((found.id.unwrap_or(name), false));
        }
        remove_by_id(client, &name).await?;
    }
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let body = body(owner, spec, image, folder);
    let made = client.create_container(Some(options), body).await;
    made.map(|made| (made.id, true)).map_err(DockerError::refused("make the container"))
}

/// Removes a VM's container; one that is not there is fine.
pub(super) async fn remove(client: &Docker, owner: &Owner, vm: &VmName) -> Result<(), DockerError> {
    let name = owner.container(vm);
    match inspect(client, owner, &name).await {
        Ok(Some(_)) => remove_by_id(client, &name).await,
        Ok(None) | Err(DockerError::Foreign(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ends a VM's container; one that does not run, or is not there, is fine.
pub(super) async fn end(client: &Docker, owner: &Owner, vm: &VmName) -> Result<(), DockerError> {
    let name = owner.container(vm);
    match inspect(client, owner, &name).await? {
        Some(found) => end_if_alive(client, &name, &found).await,
        None => Ok(()),
    }
}

/// Removes the containers of VMs that are gone: they were removed while Docker did not run.
pub(super) async fn sweep(client: &Docker, dirs: &Dirs) -> Result<(), DockerError> {
    let owner = Owner::new(dirs);
    let filters = HashMap::from([("label", vec![format!("{INSTANCE_LABEL}={}", owner.instance)])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    for found in client.list_containers(Some(options)).await.map_err(DockerError::refused("list containers"))? {
        let (Some(id), Some(labels)) = (found.id, found.labels) else { continue };
        let label = |name| labels.get(name).map_or("", String::as_str);
        // A container is made after its VM and removed before it, so the VM of one that is there is there too.
        let lives = VmName::new(label(VM_LABEL)).is_ok_and(|vm| {
            crate::files::read_json::<VmSpec>(&dirs.vm(&vm).spec())
                .is_ok_and(|spec| spec.machine_id == label(MACHINE_ID_LABEL))
        });
        if !lives {
            remove_by_id(client, &id).await?;
        }
    }
    Ok(())
}

/// Kills a container, frozen or not. That it has ended already is fine.
pub(super) async fn kill(client: &Docker, id: &str) -> Result<(), DockerError> {
    let options = KillContainerOptionsBuilder::default().signal("KILL").build();
    let killed = client.kill_container(id, Some(options)).await;
    // One that is frozen dies when it thaws; for any other this is an error that means nothing.
    let _ = client.unpause_container(id).await;
    match killed {
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) | Ok(()) => Ok(()),
        Err(error) => Err(DockerError::refused("kill the container")(error)),
    }
}

pub(super) async fn remove_by_id(client: &Docker, id: &str) -> Result<(), DockerError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match client.remove_container(id, Some(options)).await {
        Err(error) if !is_missing(&error) => Err(DockerError::refused("remove the container")(error)),
        _ => Ok(()),
    }
}

async fn inspect(client: &Docker, owner: &Owner, name: &str) -> Result<Option<ContainerInspectResponse>, DockerError> {
    match client.inspect_container(name, None::<InspectContainerOptions>).await {
        Ok(found) if owner.owns(&found) => Ok(Some(found)),
        Ok(_) => Err(DockerError::Foreign(name.into())),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(DockerError::refused("look at the container")(error)),
    }
}

async fn end_if_alive(client: &Docker, name: &str, found: &ContainerInspectResponse) -> Result<(), DockerError> {
    // A container that is paused counts as one that runs.
    match found.state.as_ref().and_then(|state| state.running) {
        Some(true) => {
            kill(client, name).await?;
            super::machine::wait_for_end(client, name).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A container's mounts are for ever: it would look for its host where that is no more.
fn check_folder(found: &ContainerInspectResponse, folder: &Path) -> Result<(), DockerError> {
    let mounts = found.host_config.as_ref().and_then(|host| host.mounts.as_ref());
    let bound = mounts.into_iter().flatten().find(|mount| mount.target.as_deref() == Some(guest::FOLDER));
    match bound.and_then(|mount| mount.source.as_ref()) {
        Some(source) if Path::new(source) != folder => {
            Err(DockerError::Moved { container: source.into(), host: folder.into() })
        }
        _ => Ok(()),
    }
}

fn body(owner: &Owner, spec: &LaunchSpec, image: &str, folder: &Path) -> ContainerCreateBody {
    let texts = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect());
    let labels = [
        (INSTANCE_LABEL, owner.instance.as_str()),
        (VM_LABEL, spec.name.as_str()),
        (MACHINE_ID_LABEL, &spec.config.machine_id),
    ];
    // Docker refuses more CPUs than there are; a limit at all of them is none.
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(spec.vcpus.into());
    let memory = i64::try_from(spec.memory.bytes()).unwrap_or(i64::MAX);
    ContainerCreateBody {
        image: Some(image.into()),
        hostname: Some(spec.name.to_string()),
        entrypoint: texts(&[INIT, guest::ARGUMENT]),
        user: Some("0:0".into()),
        working_dir: Some("/".into()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
        host_config: Some(HostConfig {
            nano_cpus: Some(cpus as i64 * 1_000_000_000),
            memory: Some(memory),
            // As much memory and swap together: none of it is swap.
            memory_swap: Some(memory),
            pids_limit: Some(MOST_PROCESSES),
            network_mode: Some("none".into()),
            cap_drop: texts(&["ALL"]),
            cap_add: texts(&CAPABILITIES),
            security_opt: texts(&["no-new-privileges:true"]),
            // The console is followed as it comes, and kept in the VM's log.
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            tmpfs: Some(MEMORY_FOLDERS.map(|(path, options)| (path.into(), options.into())).into()),
            mounts: Some(vec![Mount {
                typ: Some(MountType::BIND),
                source: Some(folder.to_string_lossy().into_owned()),
                target: Some(guest::FOLDER.into()),
                read_only: Some(true),
                ..Mount::default()
            }]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}
