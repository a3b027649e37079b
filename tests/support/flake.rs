//! The fixture flake with what it is built from, in a user's home.

use super::{User, text};
use std::path::{Path, PathBuf};
use std::process::Command;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// What the flake says where its tools have to be written.
const NO_TOOLS: &str = "path:/override-the-input-tools";

/// Puts the fixture flake into a user's home; its folder. Nothing of it needs the network, and the store paths are the
/// same wherever it lies, so that Nix builds them once a machine.
pub fn install(user: &User) -> PathBuf {
    let tools = user.home().join("tools");
    let script = Path::new(REPOSITORY).join("scripts/make-test-toolbox.sh");
    let made = Command::new(script).arg(&tools).arg(user.kernel()).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let flake = user.home().join("flake");
    std::fs::create_dir(&flake).unwrap();
    for entry in Path::new(REPOSITORY).join("tests/fixtures/flakes/guest").read_dir().unwrap() {
        let entry = entry.unwrap();
        let content = std::fs::read_to_string(entry.path()).unwrap();
        let content = content.replace(NO_TOOLS, &format!("path:{}", tools.display()));
        std::fs::write(flake.join(entry.file_name()), content).unwrap();
    }
    flake
}
