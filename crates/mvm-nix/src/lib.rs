//! The `nix` command line, as mvm uses it: flake refs, builds with typed progress, GC roots.
//!
//! ```text
//! text ── FlakeRef ──┐
//!                    ├── Nix::build ── nix build --json --log-format internal-json
//! BuildRequest ──────┘   │    │             │ stdout: JSON of three generations ── BuildOutput, GcRoot
//!                             │             └ stderr: events ── BuildEvent ── Progress (for the display)
//!          evaluations ──┘    └ failure: NixFailure (Nix's text, the builder's last lines, advice)
//! ```
//! Versions from 2.8 to 2.34 are read; `tests/data` holds what each of them really prints.
//! Nothing here knows of VMs or of a terminal.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout))]

mod advice;
mod attributes;
mod build;
mod check;
mod cli;
mod error;
mod evaluation;
mod event;
mod failure;
mod flake_ref;
mod gc_root;
mod git;
mod lines;
mod local;
mod lock_file;
mod microvm;
mod output;
mod process;
mod progress;
mod settings;
mod sources;
mod stamp;
mod untracked;
mod verify;
mod version;
mod watch;

pub use advice::Trouble;
pub use attributes::this_system;
pub use build::{BuildOutput, BuildRequest};
pub use check::{EvaluatedImage, ImageOutput};
pub use cli::Nix;
pub use error::{NixError, NixFailure};
pub use event::{Activity, ActivityId, BuildEvent, parse_line};
pub use flake_ref::{FlakeRef, FlakeRefError, Place};
pub use gc_root::GcRoot;
pub use microvm::MicrovmResources;
pub use nix_derivation::StorePath;
pub use progress::{Bytes, Counts, Progress, ProgressState};
pub use version::{Flavour, NixVersion};
pub use watch::SourceWatch;
