//! What this machine has for running VMs: the facts from which `mvm-core` decides.

use crate::program::{FIRECRACKER, NIX, QEMU, VHOST_DEVICE_VSOCK};
use mvm_core::{Dirs, HostFacts, Kvm, Lack, MacHost, Part};

/// The facts, as far as they can be told without starting programs. KVM is tried, once a boot of the host.
pub(crate) async fn gather(dirs: &Dirs) -> HostFacts {
    let (facts, docker) = tokio::join!(gather_but_docker(dirs), docker());
    HostFacts { docker, ..facts }
}

/// The facts, for somebody who asks the Docker daemon by himself.
pub(crate) async fn gather_but_docker(dirs: &Dirs) -> HostFacts {
    HostFacts {
        kvm: kvm(dirs).await,
        firecracker: FIRECRACKER.present(),
        qemu: QEMU.present(),
        vsock: vsock(),
        docker: Err(mvm_core::Lack::hopeless("Docker was not asked")),
        nix: NIX.present(),
        apple: apple(),
    }
}

/// A Docker daemon that answers.
#[cfg(target_os = "linux")]
pub(crate) async fn docker() -> Part {
    crate::backend::docker::probe().await.map(|_| ()).map_err(|error| error.lack())
}

/// Elsewhere Docker runs in a VM of its own, and no socket of ours leads into that.
#[cfg(not(target_os = "linux"))]
pub(crate) async fn docker() -> Part {
    Err(mvm_core::Lack::hopeless("Docker runs containers of mvm on Linux only"))
}

fn apple() -> Part {
    mac_host().map_or_else(|| Err(Lack::hopeless("it is part of macOS")), MacHost::apple)
}

/// This Mac; none where this is no Mac.
pub fn mac_host() -> Option<MacHost> {
    #[cfg(target_os = "macos")]
    return Some(crate::backend::mac_host());
    #[cfg(not(target_os = "macos"))]
    None
}

/// A vsock device for QEMU.
fn vsock() -> Part {
    if kernel_vsock() { Ok(()) } else { VHOST_DEVICE_VSOCK.present() }
}

/// Whether the kernel's own device can be opened.
pub(crate) fn kernel_vsock() -> bool {
    cfg!(target_os = "linux") && std::fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock").is_ok()
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) async fn kvm(dirs: &Dirs) -> Kvm {
    crate::kvm::state(dirs).await
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) async fn kvm(_dirs: &Dirs) -> Kvm {
    Kvm::NotTried
}
