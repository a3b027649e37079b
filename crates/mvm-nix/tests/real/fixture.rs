//! The fixture flake builds a whole image, the same bytes with every Nix.

use crate::world::{World, this_system, worlds};
use mvm_core::ImageManifest;
use mvm_nix::{BuildOutput, BuildRequest, NixError};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The flake's input, made anew from what this machine has.
fn toolbox(folder: &Path) -> PathBuf {
    let toolbox = folder.join("toolbox");
    let script = Path::new(REPOSITORY).join("scripts/make-test-toolbox.sh");
    let made = std::process::Command::new(script).arg(&toolbox).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    toolbox
}

async fn build(world: &World, tools: &Path, package: &str, more: &[&str]) -> Result<BuildOutput, NixError> {
    let flake = format!("path:{REPOSITORY}/tests/fixtures/flakes/guest#{package}");
    let tools = format!("path:{}", tools.display());
    let mut request = BuildRequest::new(world.flake(&flake), world.folder.join("roots").join(package));
    let override_input = ["--no-write-lock-file", "--override-input", "tools", &tools];
    request.extra_args = override_input.iter().chain(more).map(OsString::from).collect();
    world.nix.build(&request, |_| ()).await
}

#[tokio::test]
async fn an_image_is_the_same_with_every_nix() {
    let worlds = worlds();
    let tools = toolbox(&worlds[0].folder);
    let mut first = None;
    for world in &worlds {
        let output = build(world, &tools, "guest", &[]).await.unwrap_or_else(|e| panic!("{}: {e}", world.label));
        // The store is shared, so the second Nix finds what the first has built: it builds again and compares.
        for part in ["kernel", "rootfs", "initrd", "guest"] {
            build(world, &tools, part, &[]).await.unwrap();
            let again = build(world, &tools, part, &["--rebuild"]).await;
            again.unwrap_or_else(|e| panic!("{}: {part} is not reproducible: {e}", world.label));
        }
        assert_eq!(first.get_or_insert(output.path.clone()), &output.path, "{}", world.label);

        let folder = PathBuf::from(output.path.to_absolute_path());
        let manifest = ImageManifest::parse(&std::fs::read(folder.join("image.json")).unwrap()).unwrap();
        assert_eq!(manifest.system, this_system());
        let rootfs = folder.join(&manifest.rootfs.path).metadata().unwrap();
        assert_eq!(Some(rootfs.len()), manifest.rootfs.size_bytes);
        assert!(folder.join(&manifest.kernel.path).metadata().unwrap().len() > 1 << 20);
        assert!(folder.join(manifest.initrd.unwrap().path).metadata().unwrap().len() > 1 << 20);
    }
}

#[tokio::test]
async fn broken_images_are_built_and_a_failing_build_is_not() {
    for world in worlds() {
        let tools = toolbox(&world.folder);
        for broken in [
            "no-manifest",
            "unknown-schema",
            "escaping-path",
            "truncated-rootfs",
            "not-ext4",
            "wrong-kernel-format",
            "wrong-cpu",
            "wrong-system",
        ] {
            let output = build(&world, &tools, broken, &[]).await;
            let output = output.unwrap_or_else(|e| panic!("{}: {broken}: {e}", world.label));
            let manifest = Path::new(&output.path.to_absolute_path()).join("image.json");
            assert_eq!(manifest.exists(), broken != "no-manifest");
        }
        let Err(NixError::Failed(failure)) = build(&world, &tools, "fails", &[]).await else { panic!("it was built") };
        let lines = ["step 1 of the build", "step 2 of the build", "step 3 of the build", "the compiler says no"];
        assert_eq!(failure.last_lines, lines, "{}", world.label);
    }
}
