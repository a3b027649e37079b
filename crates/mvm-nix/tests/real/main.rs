//! The driver against real Nix: the machine's own, and a newer one where `MVM_TEST_NIX_NEWER` names it. Processes are
//! counted in /proc, and what is built is built for Linux.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod build;
mod cancel;
mod failure;
mod fixture;
mod memory;
mod world;
