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
    let tools = format!("path:{}", tools.display());
    copy("guest", &user.home().join("flake"), &[(NO_TOOLS, &tools), (NO_FOLDER, held(user).to_str().unwrap())])
}

/// The fixture flake with images of every kind of output, and the one that it is made from.
pub fn install_outputs(user: &User) -> PathBuf {
    let guest = format!("path:{}", install(user).display());
    let system = format!("{}-linux", std::env::consts::ARCH);
    copy("outputs", &user.home().join("outputs"), &[("path:/override-the-input-guest", &guest), ("@SYSTEM@", &system)])
}

/// Copies a fixture, with other words in the place of some.
fn copy(fixture: &str, to: &Path, words: &[(&str, &str)]) -> PathBuf {
    std::fs::create_dir(to).unwrap();
    for entry in Path::new(REPOSITORY).join("tests/fixtures/flakes").join(fixture).read_dir().unwrap() {
        let entry = entry.unwrap();
        let content = std::fs::read_to_string(entry.path()).unwrap();
        let content = words.iter().fold(content, |content, (from, to)| content.replace(from, to));
        std::fs::write(to.join(entry.file_name()), content).unwrap();
    }
    to.to_owned()
}
