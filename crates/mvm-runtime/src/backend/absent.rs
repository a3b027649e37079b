//! A backend of another operating system: nobody can have one, and so nothing is ever asked of it. It keeps every
//! `match` over backends the same on all systems.

use super::{BackendError, Launched, MachineEnd};
use mvm_core::LaunchSpec;
use std::fs::File;

/// Has no values: the compiler knows that these methods are never called.
#[derive(Debug)]
pub enum Absent {}

impl Absent {
    pub(super) fn accelerator(&self) -> &'static str {
        match *self {}
    }

    pub(super) fn command_line(&self, _: &LaunchSpec) -> String {
        match *self {}
    }

    pub(super) async fn start(&self, _: &LaunchSpec, _: &File) -> Result<Launched, BackendError> {
        match *self {}
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match *self {}
    }

    pub(super) async fn ended(&mut self) -> MachineEnd {
        match *self {}
    }

    pub(super) async fn pause(&self) -> Result<(), BackendError> {
        match *self {}
    }

    pub(super) async fn resume(&self) -> Result<(), BackendError> {
        match *self {}
    }

    pub(super) async fn kill(&mut self) {
        match *self {}
    }
}
