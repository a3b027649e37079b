//! What every part of the guest shares.

use crate::process::Reaper;
use mvm_core::{BootPhase, GuestConfig, GuestManifest};
use mvm_protocol::{GuestKeys, GuestStatus};
use std::rc::Rc;
use tokio::sync::{Notify, watch};

/// The guest, on its one thread.
pub struct Guest {
    /// What the image decided.
    pub manifest: GuestManifest,
    /// What this start decided.
    pub config: GuestConfig,
    /// The keys of the guest channel.
    pub keys: GuestKeys,
    /// Who waits for processes.
    pub reaper: Rc<Reaper>,
    /// What the guest is doing.
    pub status: watch::Sender<GuestStatus>,
    /// When its steps begin to count, in microseconds of the kernel's clock: later than 0 where the kernel is not its own.
    pub began_us: u64,
    stop: Notify,
}

impl Guest {
    /// A guest that has just begun.
    pub fn new(manifest: GuestManifest, config: GuestConfig, keys: GuestKeys) -> Self {
        let status = GuestStatus { agent_version: env!("CARGO_PKG_VERSION").into(), ..GuestStatus::default() };
        let (status, _) = watch::channel(status);
        Self { manifest, config, keys, reaper: Rc::default(), status, began_us: 0, stop: Notify::new() }
    }

    /// Asks the guest to power off. Returns at once.
    pub fn shutdown(&self) {
        self.stop.notify_one();
    }

    /// Waits until somebody asks.
    pub async fn shutdown_requested(&self) {
        self.stop.notified().await;
    }

    /// Notes a step of the boot.
    pub fn phase(&self, name: &str) {
        let phase = BootPhase { name: name.into(), at_us: boot_us().saturating_sub(self.began_us) };
        self.status.send_modify(|s| s.phases.push(phase));
    }
}

/// Microseconds since the kernel started its clock.
pub fn boot_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

#[cfg(test)]
pub mod tests {
    //! A guest to run parts of init in, on the host.
    use super::*;
    use std::sync::{Mutex, MutexGuard};
    use std::time::Duration;
    use tokio::task::{LocalSet, spawn_local};

    /// One reaper at a time: it takes every child of this process.
    pub fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs a test in a guest with a manifest and a reaper, and ends whatever it has started.
    pub fn in_guest(manifest: serde_json::Value, test: impl AsyncFnOnce(Rc<Guest>)) {
        let _alone = alone();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let config = GuestConfig {
            schema: 1,
            name: "test".into(),
            machine_id: "0".repeat(32),
            now: 0,
            env: Default::default(),
            volumes: Vec::new(),
            secrets: false,
            interface: None,
            host_public_key: String::new(),
            guest_secret_key: String::new(),
        };
        let keys = mvm_protocol::ChannelKeys::generate().unwrap();
        let keys = GuestKeys::from_hex(keys.guest_secret_hex(), &keys.host_public_hex().unwrap()).unwrap();
        let guest = Rc::new(Guest::new(serde_json::from_value(manifest).unwrap(), config, keys));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            spawn_local(Rc::clone(&guest.reaper).run());
            tokio::time::timeout(Duration::from_secs(60), test(Rc::clone(&guest))).await.unwrap();
            guest.reaper.kill_children();
            tokio::time::timeout(Duration::from_secs(60), guest.reaper.wait_until_alone()).await.unwrap();
        });
    }

    /// Waits for a status.
    pub async fn until(guest: &Guest, wanted: impl FnMut(&GuestStatus) -> bool) -> GuestStatus {
        guest.status.subscribe().wait_for(wanted).await.unwrap().clone()
    }
}
