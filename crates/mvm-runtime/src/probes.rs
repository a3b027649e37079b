//! What was found out about this machine by trying, kept for one boot of the host.

use crate::files;
use mvm_core::Dirs;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    boot_id: String,
    answer: T,
}

/// The answer of this boot of the host, else a fresh one.
pub(crate) async fn once_a_boot<T: Serialize + DeserializeOwned>(
    dirs: &Dirs,
    name: &str,
    find_out: impl AsyncFnOnce() -> T,
) -> T {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let path = dirs.probes().join(format!("{name}.json"));
    if let Ok(kept) = files::read_json::<Kept<T>>(&path)
        && kept.boot_id == boot_id
    {
        return kept.answer;
    }
    let kept = Kept { boot_id, answer: find_out().await };
    // Not being able to remember costs time, nothing else.
    if let Err(error) = files::private_dir(&dirs.probes()).and_then(|()| files::write_json(&path, &kept)) {
        tracing::debug!(%error, name, "the answer of a probe is not kept");
    }
    kept.answer
}
