//! Docker: an image's root file system as a container, on the host's own kernel. A weaker wall than a VM, and said so.
//!
//! ```text
//! rootfs.ext4 ── tar ──→ image mvm:KEY           imported once, found again by its key
//! VM ──────────────────→ container mvm-HASH-VM   made at the first start, removed with the VM: its layer is the VM's
//! supervisor ─ lifeline → PID 1 (mvm-guest)      ends when its supervisor does
//! ```

mod container;
mod daemon;
mod error;
mod import;
mod machine;

pub use daemon::{DockerInfo, probe};
pub use error::DockerError;
pub(super) use machine::Vmm;

use super::Launched;
use container::Owner;
use mvm_core::{Dirs, DriveRole, LaunchSpec, VmName, features};
use std::path::Path;

/// Docker as found on this machine.
#[derive(Debug)]
pub struct Docker {
    client: bollard::Docker,
    dirs: Dirs,
}

impl Docker {
    /// Finds the daemon and makes sure that it answers.
    pub(super) async fn find(dirs: &Dirs) -> Result<Self, DockerError> {
        Ok(Self { client: daemon::connect().await?, dirs: dirs.clone() })
    }

    /// Has the image's root file system in Docker. Long the first time; dropping it ends it.
    pub(super) async fn import(&self, spec: &LaunchSpec, begins: &dyn Fn()) -> Result<(), DockerError> {
        if !spec.agent.can(features::CONTAINER) {
            return Err(DockerError::Agent { version: spec.agent.version.clone() });
        }
        import::ensure(&self.client, &self.dirs, rootfs(spec)?, begins).await.map(|_| ())
    }

    pub(super) async fn start(&self, spec: &LaunchSpec) -> Result<Launched, DockerError> {
        let image = import::ensure(&self.client, &self.dirs, rootfs(spec)?, &|| ()).await?;
        let owner = Owner::new(&self.dirs);
        let launched = machine::launch(&self.client, &owner, spec, &image).await?;
        let (client, dirs) = (self.client.clone(), self.dirs.clone());
        // What removed VMs have left is nobody's hurry.
        tokio::task::spawn_local(async move {
            if let Err(error) = container::sweep(&client, &dirs).await {
                tracing::warn!(%error, "containers of VMs that are gone cannot be removed");
            }
        });
        Ok(launched)
    }

    /// Removes a VM's container and the layer in it. The caller holds the VM's lock.
    pub(super) async fn forget(&self, name: &VmName) -> Result<(), DockerError> {
        container::remove(&self.client, &Owner::new(&self.dirs), name).await
    }

    /// Ends the container of a VM whose supervisor died while it was paused: it could not end by itself. The caller
    /// sees to it that no other supervisor begins.
    pub(super) async fn settle(&self, name: &VmName) -> Result<(), DockerError> {
        container::end(&self.client, &Owner::new(&self.dirs), name).await
    }
}

fn rootfs(spec: &LaunchSpec) -> Result<&Path, DockerError> {
    let root = spec.drives.iter().find(|drive| drive.role == DriveRole::Root);
    root.map(|drive| drive.path.as_path()).ok_or(DockerError::NoRoot)
}
