//! The driver against real Nix: the machine's own, and a newer one where `MVM_TEST_NIX_NEWER` names it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod build;
#[cfg(target_os = "linux")]
mod cancel;
mod failure;
mod fixture;
mod memory;
mod world;
