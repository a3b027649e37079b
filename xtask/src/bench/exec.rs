//! One command in a guest.

use super::channel::Bare;
use super::row::{Against, Row};
use super::sample::{in_turns, timed};
use super::user::User;
use super::{Effort, Failure};

const PROMISED: f64 = 2.0;

pub(super) fn measure(user: &User, vm: &str, bare: &Bare, effort: Effort) -> Result<Vec<Row>, Failure> {
    let exec = || timed(|| user.mvmctl(&["exec", vm, "--", "true"]));
    let (ours, theirs) = in_turns(effort.commands, exec, || timed(|| bare.spawn()))?;
    let against = Against::Measured { what: "bare connection, echo, one process".into(), samples: theirs };
    Ok(vec![Row { what: "`mvmctl exec VM -- true`".into(), ours, unit: "ms", against, promised: Some(PROMISED) }])
}
