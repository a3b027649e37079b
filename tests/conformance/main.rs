//! One suite for every backend: the same image, the same cases, and a matrix of what came of them, which
//! docs/backends.md shows. What a backend cannot do it has to refuse by name; what it says it can, has to work.
//!
//! `MVM_WRITE_MATRIX=1` writes the matrix into the page; else the two are compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod lane;
mod life;
mod matrix;
mod operations;
mod storage;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/terminal.rs"]
mod terminal;

use lane::Lane;
use matrix::{Matrix, Outcome};
use mvm_core::{Feature, Hypervisor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use support::{User, flake};

/// One thing that every backend does in the same way, or refuses.
struct Case {
    name: &'static str,
    /// What it takes, and what is refused by name where a backend has not got that: a command, or options of `up`.
    needs: &'static [(Feature, &'static [&'static str])],
    check: fn(&Lane),
}

const fn case(name: &'static str, needs: &'static [(Feature, &'static [&'static str])], check: fn(&Lane)) -> Case {
    Case { name, needs, check }
}

const EXEC: (Feature, &[&str]) = (Feature::Agent, &["exec", "one", "--", "true"]);
const PAUSE: (Feature, &[&str]) = (Feature::Pause, &["pause", "one"]);

/// In this order, on the same VMs: the first makes them, the last removes them, and each finds `one` and `two` running
/// and leaves `one` so.
const CASES: &[Case] = &[
    case("boots, two at once", &[], life::boots),
    case("environment and names", &[(Feature::Image, &["--env", "A=b"])], operations::environment),
    case("vCPUs up to its limit", &[(Feature::Image, &["--cpus", "2"])], life::vcpus),
    case("`exec`: streams, users, codes", &[EXEC], operations::exec),
    case("`exec`: signals", &[EXEC], operations::signals),
    case("`exec`: 100 MiB out, binary stdin", &[EXEC], operations::bulk),
    case("`console`, with resize", &[(Feature::Agent, &["console", "one"])], operations::console),
    case("`cp`: odd names, modes, links", &[(Feature::Agent, &["cp", "one:/etc", "copy"])], operations::files),
    case("published ports", &[(Feature::Agent, &["forward", "one", "-p", "0:80"])], operations::ports),
    case("readiness and health", &[(Feature::Agent, &["--boot-timeout", "9"])], operations::health),
    case("layers of two VMs are apart", &[EXEC], storage::layers_are_apart),
    case("`pause`, `resume`", &[PAUSE], life::pause),
    case("what goes on across pauses", &[PAUSE, EXEC], life::across_pauses),
    case("clock after a pause", &[PAUSE, EXEC], life::clock),
    case("secrets are nowhere on the host", &[(Feature::Drives, &["--secret", "token=Cargo.toml"])], storage::secrets),
    case("logs, followed to the end; stop and start", &[], life::logs_and_stop),
    case("kill and start", &[], life::kill),
    case("an end from within", &[EXEC], life::end_from_within),
    case("stopped while paused", &[PAUSE], life::stopped_while_paused),
    case("volumes outlive their VM", &[(Feature::Drives, &["--volume", "data:/data"])], storage::volumes),
    case("removed without a trace", &[], life::removed),
];

fn outcome(case: &Case, lane: &Lane) -> Outcome {
    let lacks = case.needs.iter().find(|(feature, _)| !lane.can(*feature));
    let run = || match lacks {
        Some((_, words)) => lane.assert_refused(words),
        None => (case.check)(lane),
    };
    // The panic itself has been shown by then.
    match (catch_unwind(AssertUnwindSafe(run)), lacks) {
        (Err(_), _) => Outcome::Failed,
        (Ok(()), None) => Outcome::Pass,
        (Ok(()), Some(_)) => Outcome::Refused,
    }
}

/// What comes of every case on one backend, or why it cannot be run.
fn column(hypervisor: Hypervisor, image: &Path, flake: &Path) -> Result<Vec<Outcome>, String> {
    let lane = Lane::open(hypervisor, image, flake)?;
    let mut outcomes = Vec::new();
    for case in CASES {
        // Without its VMs there is nothing to try.
        let none = outcomes.first() == Some(&Outcome::Failed);
        outcomes.push(if none { Outcome::NotRun } else { outcome(case, &lane) });
    }
    Ok(outcomes)
}

#[test]
fn every_backend_does_the_same() {
    let builder = User::new();
    let flake = flake::install(&builder);
    let image = builder.home().join("result");
    builder.ok(&["build", &format!("{}#conformance", flake.display()), "-o", image.to_str().unwrap()]);
    let columns = std::thread::scope(|scope| {
        let (image, flake) = (&image, &flake);
        let lanes =
            Hypervisor::ALL.map(|hypervisor| (hypervisor, scope.spawn(move || column(hypervisor, image, flake))));
        lanes.map(|(hypervisor, lane)| (hypervisor, lane.join().unwrap()))
    });
    let matrix = Matrix { cases: CASES.iter().map(|case| case.name).collect(), columns: columns.into() };
    println!("{matrix}");
    assert!(!matrix.has_failures());
    matrix.compare_or_write();
}

/// A command that we talk with.
fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}
