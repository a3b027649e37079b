//! From nothing to a ready guest.

use super::baseline::Baseline;
use super::row::{Against, Row};
use super::sample::{in_turns, timed};
use super::user::User;
use super::{Effort, Failure};

const PROMISED: f64 = 1.15;

pub(super) fn measure(user: &User, kernel: &str, effort: Effort) -> Result<Vec<Row>, Failure> {
    let up = || user.mvmctl(&["up", "-d", "--name", "boot"]);
    let remove = || user.mvmctl(&["down", "boot", "--force", "--rm"]);
    // The first start assembles the image and shows how QEMU is started.
    up()?;
    let baseline = Baseline::of(user, "boot");
    remove()?;
    let baseline = baseline?;
    let ours = || {
        let took = timed(up)?;
        remove()?;
        Ok(took)
    };
    let (ours, theirs) = in_turns(effort.boots, ours, || baseline.boot())?;
    let against = Against::Measured { what: "QEMU by hand, guest that says hello".into(), samples: theirs };
    let what = format!("`mvmctl up -d` to ready, {kernel}");
    Ok(vec![Row { what, ours, unit: "ms", against, promised: Some(PROMISED) }])
}
