//! `mvmctl doctor`: everything that VMs need of this machine, each part tried, all at once.

use crate::facts;
use crate::program::{BUSYBOX, FIRECRACKER, NIX, NotThere, OTHERS, Program, QEMU, VHOST_DEVICE_VSOCK, numbers};
use futures_util::future::join_all;
use mvm_core::{Choice, Diagnostic, Dirs, Kvm, Lack, Part, Verdict};
use serde::Serialize;
use std::path::PathBuf;

/// The first QEMU with `vhost-user-vsock-device`.
const QEMU_SINCE: (u32, u32) = (5, 1);

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What would run a VM for which no hypervisor is named.
    pub chosen: Choice,
    /// What each backend could do here.
    pub backends: Vec<Verdict>,
    /// Whether guests run with KVM.
    pub kvm: Kvm,
    /// Programs, services and files that mvm uses.
    pub dependencies: Vec<Dependency>,
}

/// Something that mvm uses.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Its name.
    pub name: &'static str,
    /// What needs it.
    pub needed_for: &'static str,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Its version, as it tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What is wrong with it.
    #[serde(flatten)]
    pub lack: Option<Lack>,
}

impl Report {
    /// Whether any backend can run a VM here.
    pub fn can_run(&self) -> bool {
        self.backends.iter().any(|verdict| verdict.usable)
    }
}

/// Tries everything. Takes as long as the slowest part, and that has a deadline.
pub async fn examine(dirs: &Dirs) -> Report {
    let (mut facts, mut qemu, vsock, firecracker, nix, busybox, others, docker, files) = tokio::join!(
        facts::gather_but_docker(dirs),
        look_at(&QEMU),
        look_at(&VHOST_DEVICE_VSOCK),
        look_at(&FIRECRACKER),
        look_at(&NIX),
        busybox(),
        join_all(OTHERS.iter().map(look_at)),
        docker(),
        files(dirs),
    );
    if let Some(version) = &qemu.version
        && numbers(version).is_some_and(|found| found < QEMU_SINCE)
    {
        let (major, minor) = QEMU_SINCE;
        let why = format!("QEMU {version} is too old: {major}.{minor} is the first that has what mvm needs");
        qemu.lack = Some(Lack::new(why, QEMU.hint));
    }
    facts.firecracker = part(&firecracker);
    facts.qemu = part(&qemu);
    if !facts::kernel_vsock() {
        facts.vsock = part(&vsock);
    }
    facts.docker = part(&docker);
    facts.nix = part(&nix);
    let mut dependencies = vec![firecracker, qemu, vsock, nix, busybox];
    dependencies.extend(others.into_iter().chain([docker]).chain(files));
    Report { chosen: facts.choose(), backends: facts.verdicts(), kvm: facts.kvm, dependencies }
}

fn part(dependency: &Dependency) -> Part {
    dependency.lack.clone().map_or(Ok(()), Err)
}

async fn look_at(program: &Program) -> Dependency {
    let Program { name, needed_for, .. } = *program;
    let (path, version) = match program.find() {
        Ok(Some(path)) => {
            let version = program.version(&path).await;
            (Some(path), version.map(Some))
        }
        Ok(None) => (None, program.present().map(|()| None)),
        Err(NotThere { path, .. }) => (Some(path), program.present().map(|()| None)),
    };
    let (version, lack) = version.map_or_else(|lack| (None, Some(lack)), |version| (version, None));
    Dependency { name, needed_for, path, version, lack }
}

/// The one that goes into the built-in image: it has to be static.
async fn busybox() -> Dependency {
    let Program { name, needed_for, .. } = BUSYBOX;
    let found = mvm_image::find_busybox();
    let (path, version) = match found {
        Ok(path) => {
            let version = BUSYBOX.version(&path).await;
            (Some(path), version)
        }
        Err(error) => (None, Err(Lack { why: error.to_string(), hint: error.hint() })),
    };
    let (version, lack) = version.map_or_else(|lack| (None, Some(lack)), |version| (Some(version), None));
    Dependency { name, needed_for, path, version, lack }
}

/// The daemon, by asking it.
async fn docker() -> Dependency {
    #[cfg(target_os = "linux")]
    let (path, version, lack) = match crate::backend::docker::probe().await {
        Ok(found) => (Some(found.socket), Some(found.version), None),
        Err(error) => (None, None, Some(error.lack())),
    };
    #[cfg(not(target_os = "linux"))]
    let (path, version, lack) = (None, None, facts::docker().await.err());
    Dependency { name: "docker", needed_for: "VMs that are containers", path, version, lack }
}

/// What the built-in image is made of, beside programs.
async fn files(dirs: &Dirs) -> Vec<Dependency> {
    let dirs = dirs.clone();
    let look = move || {
        let guest = mvm_image::find_guest_binary().map(|path| (path, None));
        let kernel = mvm_image::GuestKernel::find(&dirs).map(|kernel| (kernel.file, kernel.release));
        [("mvm-guest", guest), ("kernel", kernel)].map(|(name, found)| {
            let needed_for = "the built-in image";
            match found {
                Ok((path, version)) => Dependency { name, needed_for, path: Some(path), version, lack: None },
                Err(error) => {
                    let lack = Lack { why: error.to_string(), hint: error.hint() };
                    Dependency { name, needed_for, path: None, version: None, lack: Some(lack) }
                }
            }
        })
    };
    tokio::task::spawn_blocking(look).await.map(Vec::from).unwrap_or_default()
}
