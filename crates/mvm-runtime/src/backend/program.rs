//! Where the programs are that backends start.

use super::BackendError;
use std::path::PathBuf;

/// A program named by a variable, else found on PATH.
pub(super) fn find_program(variable: &'static str, program: &'static str) -> Result<Option<PathBuf>, BackendError> {
    if let Some(path) = std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from) {
        return if path.is_file() { Ok(Some(path)) } else { Err(BackendError::Chosen { variable, path, program }) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file()))
}
