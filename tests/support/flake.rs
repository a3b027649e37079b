//! The fixture flake with what it is built from, in a user's home.

use super::{User, text};
use std::path::{Path, PathBuf};
use std::process::Command;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// What the flake says where its tools have to be written.
const NO_TOOLS: &str = "path:/override-the-input-tools";
/// What it says where its build that hangs tells of itself: a user's own, so that no two users wait for one build.
const NO_FOLDER: &str = "/override-the-held-folder";

/// The folder of [`super::events::Held`] for the build that hangs.
pub fn held(user: &User) -> PathBuf {
    user.home().join("held-build")
}

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
        let content = content.replace(NO_FOLDER, held(user).to_str().unwrap());
        std::fs::write(flake.join(entry.file_name()), content).unwrap();
    }
    flake
}
