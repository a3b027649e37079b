//! A hermetic world for one test: own HOME and settings, a flake with a builder of its own, each Nix there is.

use mvm_nix::{BuildRequest, FlakeRef, Nix, NixError};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const SETTINGS: &str = "experimental-features =
build-users-group =
substituters =
flake-registry =
sandbox = false
warn-dirty = false
connect-timeout = 2
download-attempts = 1";

/// A folder with a flake, and a Nix to build it with.
pub struct World {
    pub nix: Nix,
    pub label: &'static str,
    pub folder: PathBuf,
    /// In the environment of every builder of this world, and nowhere else.
    pub marker: String,
    _temp: tempfile::TempDir,
}

/// One world for each Nix. Experimental features are off in all of them: the driver has to switch them on.
pub fn worlds() -> Vec<World> {
    let own = Nix::find().expect("the tests need Nix: scripts/dev-setup.sh installs it");
    let mut all = vec![World::new(own, "this machine's Nix")];
    match std::env::var_os("MVM_TEST_NIX_NEWER") {
        Some(program) => all.push(World::new(Nix::at(PathBuf::from(program)), "the newer Nix")),
        None => println!("not tested with a newer Nix: MVM_TEST_NIX_NEWER is not set (scripts/test.sh sets it)"),
    }
    all
}

impl World {
    fn new(nix: Nix, label: &'static str) -> Self {
        let temp = tempfile::Builder::new().prefix("mvm-nix-test").tempdir().unwrap();
        let folder = temp.path().canonicalize().unwrap();
        let home = folder.join("home");
        std::fs::create_dir(&home).unwrap();
        let nix = nix
            .env("NIX_CONFIG", SETTINGS)
            .env("HOME", &home)
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_STATE_HOME", home.join("state"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let marker = format!("mvm-marker-{}-{now}", std::process::id());
        let world = Self { nix, label, folder, marker, _temp: temp };
        world.write_flake("flake", "");
        world
    }

    /// A flake with packages of every kind that the tests need. Its builder is the machine's shell.
    pub fn write_flake(&self, name: &str, inputs: &str) -> PathBuf {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let text = include_str!("packages.nix")
            .replace("@INPUTS@", inputs)
            .replace("@MARKER@", &self.marker)
            .replace("@SYSTEM@", &this_system())
            .replace("@OTHER@", other_system());
        std::fs::write(folder.join("flake.nix"), text).unwrap();
        folder
    }

    pub fn flake(&self, text: &str) -> FlakeRef {
        FlakeRef::parse(text, &self.folder, None).unwrap()
    }

    pub fn link(&self) -> PathBuf {
        self.folder.join("roots/link")
    }

    pub fn request(&self, text: &str) -> BuildRequest {
        BuildRequest::new(self.flake(text), self.link())
    }

    /// Builds what has to fail.
    pub async fn fails(&self, text: &str) -> NixError {
        match self.nix.build(&self.request(text), |_| ()).await {
            Ok(output) => panic!("{}: {text} was built: {output:?}", self.label),
            Err(error) => error,
        }
    }

    /// What Nix itself holds for GC roots below this world's folder.
    pub fn gc_roots(&self) -> Vec<String> {
        let output = std::process::Command::new("nix-store").args(["--gc", "--print-roots"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let here = self.folder.to_str().unwrap();
        text.lines().filter(|l| l.starts_with(here)).map(str::to_owned).collect()
    }

    /// Ids of live processes that were started by a builder of this world.
    pub fn builders(&self) -> Vec<i32> {
        let holds = |path: &Path| {
            std::fs::read(path).is_ok_and(|bytes| bytes.windows(self.marker.len()).any(|w| w == self.marker.as_bytes()))
        };
        let own = std::process::id();
        let processes =
            Path::new("/proc").read_dir().unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        processes
            .filter(|pid: &i32| *pid as u32 != own && holds(&PathBuf::from(format!("/proc/{pid}/environ"))))
            .collect()
    }
}

pub fn this_system() -> String {
    format!("{}-linux", std::env::consts::ARCH)
}

pub fn other_system() -> &'static str {
    if cfg!(target_arch = "x86_64") { "aarch64-linux" } else { "x86_64-linux" }
}
