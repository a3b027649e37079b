//! The catalog, listed and searched where there is no Nix and no other program either.

use super::programs::Programs;
use super::row::{Against, Row};
use super::sample::{in_turns, timed};
use super::user::{User, checked};
use super::{Effort, Failure};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Names the program of the public tool of the same name, version 0.13.0, which is on crates.io.
const NAMESAKE: &str = "MVM_BENCH_NAMESAKE";
/// Most of what that tool takes.
const PROMISED: f64 = 1.0;
/// A PATH on which nothing is found.
const NO_PATH: &str = "/no/such/folder";

pub(super) fn measure(programs: &Programs, effort: Effort) -> Result<Vec<Row>, Failure> {
    let namesake = std::env::var_os(NAMESAKE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let namesake = namesake.ok_or_else(|| format!("{NAMESAKE} does not name the namesake's program"))?;
    let user = User::new(programs)?;
    let home = tempfile::Builder::new().prefix("mvm-bench-").tempdir()?;
    let list = ["image", "list"];
    let listing = || {
        let mut command = Command::new(&namesake);
        command.args(list).env("HOME", home.path()).env("PATH", NO_PATH);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        timed(|| checked(&mut command, &list))
    };
    [&list[..], &["image", "search", "web"]]
        .into_iter()
        .map(|args| {
            let ours = || timed(|| checked(user.command(args).env("PATH", NO_PATH), args));
            let (ours, theirs) = in_turns(effort.commands, ours, listing)?;
            let against = Against::Measured { what: "`image list` of the namesake 0.13.0".into(), samples: theirs };
            let what = format!("`mvmctl {}`, without Nix", args.join(" "));
            Ok(Row { what, ours, unit: "ms", against, promised: Some(PROMISED) })
        })
        .collect()
}
