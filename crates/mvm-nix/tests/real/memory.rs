//! Evaluations that are remembered: Nix is started when something has changed that it reads, and only then.

use crate::world::{World, this_system, worlds};
use mvm_nix::{BuildOutput, BuildRequest, GcRoot, Nix};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A Nix that counts its starts.
struct Counted {
    nix: Nix,
    starts: PathBuf,
}

impl Counted {
    fn new(world: &World) -> Self {
        let (program, starts) = (world.folder.join("counted-nix"), world.folder.join("starts"));
        let real = world.nix.program().display();
        let script = format!("#!/bin/sh\necho \"$*\" >>{}\nexec {real} \"$@\"\n", starts.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&starts, "").unwrap();
        Self { nix: world.nix.clone().with_program(program), starts }
    }

    /// The starts since the last time.
    fn starts(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.starts).unwrap();
        fs::write(&self.starts, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    async fn build(&self, request: &BuildRequest) -> BuildOutput {
        self.nix.build(request, |_| ()).await.unwrap_or_else(|e| panic!("{}: {e}", request.flake))
    }

    /// Builds, and tells whether the flake was evaluated. Where it was not, Nix must not have been started at all.
    #[track_caller]
    fn is_remembered(&self, output: &BuildOutput) -> bool {
        let starts = self.starts();
        assert_eq!(output.remembered, starts.is_empty(), "{starts:?}");
        output.remembered
    }
}

fn remembering(world: &World, flake: &str) -> BuildRequest {
    BuildRequest { evaluations: Some(world.folder.join("evaluations")), ..world.request(flake) }
}

fn git(folder: &Path, args: &[&str]) {
    let mut git = std::process::Command::new("git");
    git.arg("-C").arg(folder).args(["-c", "user.name=me", "-c", "user.email=me@host"]).args(args);
    let done = git.output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Writes a file anew with the times that it had: only what cannot be set, and the content, tell.
fn rewrite_in_secret(path: &Path, text: &str) {
    let times = path.metadata().unwrap();
    fs::write(path, text).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
}

fn touch(path: &Path) {
    fs::File::options().write(true).open(path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
}

#[tokio::test]
async fn a_folder_is_evaluated_again_when_any_file_changes() {
    for world in worlds() {
        let counted = Counted::new(&world);
        let flake = world.folder.join("flake");
        let sub = flake.join("sub");
        fs::create_dir(&sub).unwrap();
        fs::write(sub.join("file"), "one").unwrap();
        let request = remembering(&world, "./flake");
        let first = counted.build(&request).await;
        assert!(!counted.is_remembered(&first), "{}", world.label);
        let again = counted.build(&request).await;
        assert!(counted.is_remembered(&again), "{}", world.label);
        assert_eq!((&again.path, &again.derivation, &again.outputs), (&first.path, &first.derivation, &first.outputs));
        assert_eq!(again.root.target().as_ref(), Some(&first.path));

        type Change<'c> = (&'c str, &'c dyn Fn());
        let changes: [Change; 9] = [
            ("content", &|| fs::write(sub.join("file"), "longer").unwrap()),
            ("content of the same length", &|| rewrite_in_secret(&sub.join("file"), "LONGER")),
            ("new file", &|| fs::write(sub.join("new"), "").unwrap()),
            ("new folder", &|| fs::create_dir(flake.join("empty")).unwrap()),
            ("gone file", &|| fs::remove_file(sub.join("new")).unwrap()),
            ("link", &|| std::os::unix::fs::symlink("file", sub.join("link")).unwrap()),
            ("another link", &|| {
                fs::remove_file(sub.join("link")).unwrap();
                std::os::unix::fs::symlink("sub", sub.join("link")).unwrap();
            }),
            ("mode", &|| fs::set_permissions(sub.join("file"), fs::Permissions::from_mode(0o755)).unwrap()),
            ("renamed over", &|| {
                fs::write(world.folder.join("draft"), "DRAFTS").unwrap();
                fs::rename(world.folder.join("draft"), sub.join("file")).unwrap();
            }),
        ];
        for (what, change) in changes {
            change();
            let output = counted.build(&request).await;
            assert!(!counted.is_remembered(&output), "{}: {what}", world.label);
            let output = counted.build(&request).await;
            assert!(counted.is_remembered(&output), "{}: after {what}", world.label);
        }
        // What Nix does not see changes nothing.
        touch(&sub.join("file"));
        fs::set_permissions(sub.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        let output = counted.build(&request).await;
        assert!(counted.is_remembered(&output), "{}: touched", world.label);
    }
}

#[tokio::test]
async fn a_git_work_tree_is_what_git_tracks_and_its_commit() {
    for world in worlds() {
        let counted = Counted::new(&world);
        // Nix warns of each work tree that is dirty by its name, which is not to be taken for a word of the warning.
        let repository = world.write_flake("clock/below", "").parent().unwrap().to_owned();
        for name in ["tracked", "gone", "untracked"] {
            fs::write(repository.join(name), "one").unwrap();
        }
        git(&repository, &["init", "-q"]);
        git(&repository, &["add", "below", "tracked", "gone"]);
        let request = remembering(&world, "./clock/below");
        let evaluates = async |what: &str, want: bool| {
            let output = counted.build(&request).await;
            assert_eq!(!counted.is_remembered(&output), want, "{}: {what}", world.label);
            let output = counted.build(&request).await;
            assert!(counted.is_remembered(&output), "{}: after {what}", world.label);
        };
        evaluates("first", true).await;
        fs::write(repository.join("untracked"), "two").unwrap();
        evaluates("an untracked file", false).await;
        fs::write(repository.join("tracked"), "two").unwrap();
        evaluates("a tracked file", true).await;
        touch(&repository.join("tracked"));
        git(&repository, &["status"]);
        evaluates("git status", false).await;
        git(&repository, &["add", "tracked"]);
        evaluates("staging", true).await;
        git(&repository, &["add", "untracked"]);
        evaluates("a new file", true).await;
        git(&repository, &["commit", "-q", "-m", "one"]);
        evaluates("a commit", true).await;
        git(&repository, &["commit", "-q", "--allow-empty", "-m", "two"]);
        evaluates("an empty commit", true).await;
        fs::remove_file(repository.join("gone")).unwrap();
        evaluates("a file that is gone", true).await;
        git(&repository, &["checkout", "-q", "-b", "other"]);
        evaluates("another branch", true).await;

        // What Git keeps elsewhere is not looked at.
        git(&repository, &["init", "-q", "inner"]);
        git(&repository.join("inner"), &["commit", "-q", "--allow-empty", "-m", "x"]);
        git(&repository, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "./inner"]);
        for _ in 0..2 {
            assert!(!counted.build(&request).await.remembered, "{}: submodules", world.label);
        }
    }
}

#[tokio::test]
async fn what_else_counts_is_evaluated_again() {
    for world in worlds() {
        let counted = Counted::new(&world);
        let request = remembering(&world, "./flake");
        let evaluates = async |what: &str, counted: &Counted, request: &BuildRequest| {
            let output = counted.build(request).await;
            assert!(!counted.is_remembered(&output), "{}: {what}", world.label);
        };
        evaluates("first", &counted, &request).await;
        evaluates("another attribute", &counted, &remembering(&world, "./flake#\"dotted.name\"")).await;
        let output = counted.build(&remembering(&world, "./flake#\"dotted.name\"")).await;
        assert!(counted.is_remembered(&output) && output.path.name() == "mvm-test-dotted", "{}", world.label);
        // Its link is now that of the other attribute: the path has to be kept anew, but nothing is evaluated.
        let output = counted.build(&request).await;
        assert!(output.remembered && output.root.target() == Some(output.path.clone()));
        let [start] = &counted.starts()[..] else { panic!("one start") };
        assert!(start.ends_with(&output.path.to_absolute_path()), "{start}");

        evaluates("refresh", &counted, &BuildRequest { refresh: true, ..request.clone() }).await;
        let extra_args = vec!["--no-write-lock-file".into()];
        evaluates("arguments", &counted, &BuildRequest { extra_args, ..request.clone() }).await;
        let set = Counted { nix: counted.nix.clone().env("NIX_SHOW_STATS", "0"), starts: counted.starts.clone() };
        evaluates("environment", &set, &request).await;
        evaluates("environment as before", &counted, &request).await;
        let settings = world.folder.join("home/config/nix");
        fs::create_dir_all(&settings).unwrap();
        fs::write(settings.join("nix.conf"), "fallback = true\n").unwrap();
        evaluates("nix.conf", &counted, &request).await;
        let program = counted.nix.program();
        let text = fs::read_to_string(program).unwrap();
        fs::write(program, text + "\n").unwrap();
        evaluates("another program", &counted, &request).await;
        let output = counted.build(&request).await;
        assert!(counted.is_remembered(&output), "{}", world.label);
        // What is no answer of ours is none.
        for file in world.folder.join("evaluations").read_dir().unwrap() {
            fs::write(file.unwrap().path(), "{").unwrap();
        }
        evaluates("a broken file", &counted, &request).await;
        let nowhere = BuildRequest { evaluations: Some("/proc/nowhere".into()), ..request };
        evaluates("a folder that cannot be", &counted, &nowhere).await;
    }
}

#[tokio::test]
async fn locked_inputs_are_trusted_and_others_are_not() {
    for world in worlds() {
        let counted = Counted::new(&world);
        for name in ["content", "dirty"] {
            fs::create_dir(world.folder.join(name)).unwrap();
            fs::write(world.folder.join(name).join("file"), "one").unwrap();
        }
        let input = |kind: &str, name: &str| {
            format!("inputs.extra = {{ url = \"{kind}{}/{name}\"; flake = false; }};", world.folder.display())
        };
        let flake = world.write_flake("locked", &input("path:", "content"));
        let request = remembering(&world, "./locked#from-input");
        let output = counted.build(&request).await;
        assert!(!counted.is_remembered(&output) && flake.join("flake.lock").exists(), "{}", world.label);
        // Nix has written the lock file meanwhile: that is no change of what it has evaluated.
        let output = counted.build(&request).await;
        assert!(counted.is_remembered(&output), "{}", world.label);
        let lock = fs::read_to_string(flake.join("flake.lock")).unwrap();
        fs::write(flake.join("flake.lock"), lock + "\n").unwrap();
        let output = counted.build(&request).await;
        assert!(!counted.is_remembered(&output), "{}: the lock file", world.label);

        // Of a dirty work tree Nix locks no commit, or nothing, and reads it again each time.
        let dirty = world.folder.join("dirty");
        git(&dirty, &["init", "-q"]);
        git(&dirty, &["add", "file"]);
        git(&dirty, &["commit", "-q", "-m", "x"]);
        fs::write(dirty.join("file"), "two").unwrap();
        world.write_flake("unlocked", &input("git+file://", "dirty"));
        let request = remembering(&world, "./unlocked#from-input");
        for _ in 0..2 {
            let output = counted.build(&request).await;
            assert!(!counted.is_remembered(&output), "{}: an unlocked input", world.label);
        }
    }
}

#[tokio::test]
async fn an_output_that_was_collected_is_built_again() {
    for world in worlds() {
        let counted = Counted::new(&world);
        let request = remembering(&world, "./flake");
        let first = counted.build(&request).await;
        let path = first.path.to_absolute_path();
        GcRoot::at(world.link()).release().unwrap();
        let deleted = std::process::Command::new("nix-store").args(["--delete", &path]).output().unwrap();
        assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
        counted.starts();
        let output = counted.build(&request).await;
        assert!(!counted.is_remembered(&output) && fs::exists(&path).unwrap(), "{}", world.label);

        // A link that Nix does not know keeps nothing, however it looks.
        GcRoot::at(world.link()).release().unwrap();
        let other = BuildRequest { out_link: world.folder.join("other"), ..request.clone() };
        std::os::unix::fs::symlink(&path, &other.out_link).unwrap();
        let output = counted.build(&other).await;
        assert!(output.remembered && counted.starts().len() == 1, "{}", world.label);
        assert_eq!(world.gc_roots(), [format!("{} -> {path}", other.out_link.display())], "{}", world.label);
        let output = counted.build(&other).await;
        assert!(counted.is_remembered(&output), "{}", world.label);
    }
}

#[tokio::test]
async fn two_at_once_are_fine() {
    for world in worlds() {
        let counted = Counted::new(&world);
        let requests =
            ["a", "b"].map(|name| BuildRequest { out_link: world.folder.join(name), ..remembering(&world, "./flake") });
        let (a, b) = tokio::join!(counted.build(&requests[0]), counted.build(&requests[1]));
        assert_eq!(a.path, b.path, "{}", world.label);
        counted.starts();
        for request in &requests {
            let output = counted.build(request).await;
            assert!(counted.is_remembered(&output), "{}", world.label);
        }
    }
}

#[tokio::test]
async fn a_nixos_configuration_means_its_image() {
    for world in worlds() {
        let counted = Counted::new(&world);
        let system = this_system();
        for text in ["./flake#nixosConfigurations.machine", "./flake#machine"] {
            let request = remembering(&world, text);
            let output = counted.build(&request).await;
            assert_eq!(output.path.name(), "mvm-test-image", "{}: {text}", world.label);
            counted.starts();
            let output = counted.build(&request).await;
            assert!(counted.is_remembered(&output), "{}: {text}", world.label);
        }
        // A package of the name comes first.
        let output = counted.build(&remembering(&world, "./flake#two")).await;
        assert_eq!(output.path.name(), "mvm-test-two", "{}", world.label);
        let hint = |error: mvm_nix::NixError| mvm_core::Diagnostic::hint(&error).unwrap();
        let missing = hint(world.fails("./flake#nobody").await);
        assert!(missing.contains(&format!("packages for {system}:")), "{}: {missing}", world.label);
        assert!(missing.contains("NixOS configurations: machine, plain, two"), "{}: {missing}", world.label);
        for text in ["./flake#plain", "./flake#nixosConfigurations.plain"] {
            let plain = hint(world.fails(text).await);
            assert!(plain.contains("plain has no image") && plain.contains("nixosModules.microvm"), "{text}: {plain}");
        }
    }
}
