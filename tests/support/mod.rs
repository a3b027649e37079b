//! A user of mvm with a home of his own, and the count of what he leaves behind.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

pub mod docker;
pub mod events;
pub mod flake;
pub mod refusal;
pub mod secret;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Nix without network, without registry and without what this machine's nix.conf says.
const NIX_SETTINGS: &str = "experimental-features =
build-users-group =
substituters =
flake-registry =
sandbox = false
warn-dirty = false
connect-timeout = 2
download-attempts = 1";

/// What belongs to no VM and may be there at any time; `*` stands for anything but a slash. Folders where they are empty.
const MACHINES: &[&str] = &[
    "cache/mvm/evaluations/*.json",
    "cache/mvm/images",
    "cache/mvm/images/.lock",
    "cache/mvm/images/.import",
    "cache/mvm/images/.builtin.json",
    "cache/mvm/images/builtin-*/image.json",
    "cache/mvm/images/builtin-*/initrd.cpio",
    "cache/mvm/images/builtin-*/kernel",
    "cache/mvm/images/builtin-*/rootfs.ext4",
    "cache/mvm/layers/.lock",
    "cache/mvm/layers/*G-v*.ext4",
    "cache/mvm/layers/config-v*.ext4",
    "cache/mvm/layers/secrets-v*.ext4",
    "cache/mvm/probes/*.json",
    "cache/mvm/run/vms",
    "cache/mvm/vms",
    "config/mvm/config.toml",
    "local/share/mvm/gcroots",
    "local/share/mvm/gcroots/.last-build",
    "local/share/mvm/templates",
    "local/share/mvm/templates/.lock",
    "local/share/mvm/images",
    "local/share/mvm/vms",
    "local/share/mvm/volumes",
    "local/state/mvm/logs",
];

/// What is kept of each template.
const TEMPLATES: &[&str] = &[
    "local/share/mvm/templates/*/build.json",
    "local/share/mvm/templates/*/image",
    "local/share/mvm/templates/*/template.toml",
];

/// What may be there of each VM that is stopped, and of each image that was fetched.
const STOPPED: &[&str] = &[
    "cache/mvm/vms/*/state.json",
    "local/share/mvm/images/*/gcroot",
    "local/share/mvm/images/*/origin.json",
    "local/share/mvm/vms/*/gcroot",
    "local/share/mvm/vms/*/keys.json",
    "local/share/mvm/vms/*/runner/*",
    "local/share/mvm/vms/*/rw.ext4",
    "local/share/mvm/vms/*/spec.json",
    "local/share/mvm/volumes/*/*.ext4",
    "local/state/mvm/logs/*/console.log",
    "local/state/mvm/logs/*/console.log.1",
    "local/state/mvm/logs/*/hypervisor.log",
];

/// A hermetic environment: own HOME, own folders, nothing of the machine's but its programs and kernels.
pub struct User {
    home: tempfile::TempDir,
    kernel: PathBuf,
    nix: Option<PathBuf>,
    docker: Option<String>,
}

impl User {
    /// A user whose guests run our own kernel.
    pub fn new() -> Self {
        Self::with_kernel("MVM_TEST_KERNEL_OWN", "mvm-")
    }

    /// A user whose guests run the distribution's kernel.
    pub fn with_stock_kernel() -> Self {
        Self::with_kernel("MVM_TEST_KERNEL_STOCK", "debian-")
    }

    /// A user of this Docker, who like all others sees no other one.
    pub fn with_docker(daemon: &docker::Daemon) -> Self {
        let mut user = Self::new();
        user.docker = Some(daemon.host());
        user
    }

    /// Users of each Nix there is: the one on PATH, and a newer one.
    pub fn of_each_nix() -> Vec<Self> {
        let newer = std::env::var_os("MVM_TEST_NIX_NEWER").map(PathBuf::from);
        if newer.is_none() {
            println!("not tested with a newer Nix: MVM_TEST_NIX_NEWER is not set (scripts/test.sh sets it)");
        }
        let newer = newer.map(|nix| {
            let mut user = Self::new();
            user.nix = Some(nix);
            user
        });
        std::iter::once(Self::new()).chain(newer).collect()
    }

    fn with_kernel(variable: &str, prefix: &str) -> Self {
        let kernel = std::env::var_os(variable).map(PathBuf::from).or_else(|| in_cache(prefix));
        let kernel = kernel.unwrap_or_else(|| panic!("no kernel: set {variable}, or run scripts/test.sh"));
        Self { home: tempfile::Builder::new().prefix("mvm-test-").tempdir().unwrap(), kernel, nix: None, docker: None }
    }

    /// The Nix that this user runs.
    pub fn nix(&self) -> &Path {
        self.nix.as_deref().unwrap_or(Path::new("nix"))
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The kernel that this user's guests run.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// `mvmctl` with these arguments, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvmctl"));
        command.args(args).env("HOME", self.home()).env("MVM_KERNEL", &self.kernel).env("NIX_CONFIG", NIX_SETTINGS);
        if let Some(nix) = &self.nix {
            command.env("MVM_NIX", nix);
        }
        match &self.docker {
            Some(host) => command.env("DOCKER_HOST", host),
            None => command.env("DOCKER_HOST", format!("unix://{}", self.home().join("no-docker").display())),
        };
        for variable in [
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_STATE_HOME",
            "XDG_DATA_HOME",
            "XDG_RUNTIME_DIR",
            "MVM_CACHE_DIR",
            "MVM_CONFIG_DIR",
            "MVM_STATE_DIR",
            "MVM_SHARE_DIR",
            "MVM_RUNTIME_DIR",
            "MVM_FLAKE",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs `mvmctl` to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(std::process::Stdio::null()).output().unwrap()
    }

    /// Runs `mvmctl`, which must succeed; its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "mvmctl {args:?}: {}\n{}\n{}", out.status, text(&out.stderr), self.logs());
        text(&out.stdout)
    }

    /// Runs `mvmctl`, which must fail with this code; its stderr.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let out = self.run(args);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "mvmctl {args:?}: {stderr}\n{}", self.logs());
        stderr
    }

    /// Processes that belong to this user: their command line or environment names his home.
    pub fn processes(&self) -> Vec<String> {
        let home = self.home().as_os_str().as_encoded_bytes();
        let names = |bytes: &[u8]| bytes.windows(home.len()).any(|w| w == home);
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != std::process::id())
            .filter_map(|pid| {
                let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
                let cmdline = read("cmdline");
                // A zombie has neither; it is its parent's to reap.
                (names(&cmdline) || names(&read("environ")))
                    .then(|| format!("{pid}: {}", text(&cmdline).replace('\0', " ")))
            })
            .collect()
    }

    /// Asserts that nothing runs, and that of files and folders there is only what may be there after `down`.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        self.assert_only(&[MACHINES, TEMPLATES, STOPPED].concat());
    }

    /// Asserts that no VM is left either: no folder of one, and no store path that is kept from Nix.
    pub fn assert_never_was(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        self.assert_only(MACHINES);
        assert_eq!(self.gc_roots(), Vec::<String>::new());
    }

    /// Asserts that of files and folders there is only what may be there of templates: no VM, and nothing half made.
    pub fn assert_only_templates(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        self.assert_only(&[MACHINES, TEMPLATES].concat());
    }

    /// Asserts that every file and every empty folder of mvm's is one of these, and that there is no socket at all.
    fn assert_only(&self, may_remain: &[&str]) {
        let unexpected = |path: &PathBuf| {
            let text = path.to_str().unwrap();
            let is_socket = std::os::unix::fs::FileTypeExt::is_socket(&path.symlink_metadata().unwrap().file_type());
            let ours = [".cache/mvm/", ".local/share/mvm/", ".local/state/mvm/", ".config/mvm/"]
                .into_iter()
                .find_map(|folder| text.find(folder).map(|at| &text[at + 1..]));
            is_socket || ours.is_some_and(|path| !may_remain.iter().any(|may| matches(may, path)))
        };
        let left: Vec<PathBuf> = find(self.home()).into_iter().filter(unexpected).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }

    /// What Nix itself keeps for this user: `LINK -> STORE PATH`.
    pub fn gc_roots(&self) -> Vec<String> {
        let listed = Command::new("nix-store").args(["--gc", "--print-roots"]).output().unwrap();
        assert!(listed.status.success(), "{}", text(&listed.stderr));
        let home = self.home().to_str().unwrap();
        text(&listed.stdout).lines().filter(|l| l.starts_with(home)).map(str::to_owned).collect()
    }

    /// A value of PATH on which all is found but these programs.
    pub fn path_without(&self, programs: &[&str]) -> OsString {
        let folder = self.home().join("path");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        for entry in std::env::split_paths(&path).filter_map(|d| d.read_dir().ok()).flatten().flatten() {
            if !programs.iter().any(|p| entry.file_name() == *p) {
                // What comes first on PATH wins.
                let _ = std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name()));
            }
        }
        folder.into()
    }

    fn logs(&self) -> String {
        find(&self.home().join(".local/state"))
            .iter()
            .filter(|path| path.is_file())
            .map(|p| format!("--- {}\n{}\n", p.display(), text(&std::fs::read(p).unwrap_or_default())))
            .collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // A failed test must not leave VMs behind.
        let _ = self.command(&["down", "--all", "--force"]).stdin(std::process::Stdio::null()).output();
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn in_cache(prefix: &str) -> Option<PathBuf> {
    let kernels = PathBuf::from(std::env::var_os("HOME")?).join(".cache/mvm/kernels");
    let arch = std::env::consts::ARCH;
    let fits = |n: &str| n.starts_with(prefix) && (prefix != "mvm-" || n.ends_with(arch));
    std::fs::read_dir(kernels)
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.file_name().unwrap().to_str().is_some_and(fits))
}

/// Everything below a folder that is no folder with something in it.
fn find(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let below = if entry.file_type().is_ok_and(|t| t.is_dir()) { find(&path) } else { Vec::new() };
        found.extend(if below.is_empty() { vec![path] } else { below });
    }
    found
}

/// Whether a path is what a pattern describes, whose `*` stand for anything but a slash.
fn matches(pattern: &str, path: &str) -> bool {
    let part = |(pattern, part): (&str, &str)| match pattern.split_once('*') {
        None => pattern == part,
        Some((begin, rest)) => {
            let (middle, end) = rest.split_once('*').unwrap_or(("", rest));
            part.strip_prefix(begin)
                .and_then(|part| part.strip_suffix(end))
                // A name that begins with a dot is one of its own.
                .is_some_and(|part| !part.starts_with('.') && part.contains(middle))
        }
    };
    pattern.split('/').count() == path.split('/').count() && pattern.split('/').zip(path.split('/')).all(part)
}
