//! The rate of this machine's time stamp counter, which is the counter that an emulated guest reads: QEMU's TCG answers
//! `rdtsc` with the host's. A guest that is told another rate has a clock that runs too fast or too slow by as much.
#![allow(unsafe_code)]

use mvm_core::Dirs;
use std::time::{Duration, Instant};

/// How long the counter is watched: the error of reading two clocks is a few parts in a million of this.
const WATCHED: Duration = Duration::from_millis(50);

/// Ticks a millisecond, from memory for this boot of the host, else by measuring.
pub(crate) async fn khz(dirs: &Dirs) -> u64 {
    crate::probes::once_a_boot(dirs, "tsc", async || measure().await).await
}

async fn measure() -> u64 {
    let (from, ticks) = (Instant::now(), read());
    tokio::time::sleep(WATCHED).await;
    let (took, ticks) = (from.elapsed(), read() - ticks);
    let khz = u128::from(ticks) * 1_000_000 / took.as_nanos().max(1);
    u64::try_from(khz).unwrap_or(u64::MAX)
}

fn read() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and it only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_measurements_agree() {
        let (one, other) = (measure().await, measure().await);
        assert!(one.abs_diff(other) < one / 1000, "{one} kHz, {other} kHz");
    }
}
