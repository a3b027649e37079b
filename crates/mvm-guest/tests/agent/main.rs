//! The agent as an ordinary process on a Unix socket, spoken to as a host does.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod console;
mod exec;
mod files;
mod forward;
mod harness;
mod wire;
