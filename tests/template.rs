//! Templates: images that are kept under a name, and flakes to start from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;
#[path = "support/terminal.rs"]
mod terminal;

use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::events::{Held, Process, end_of};
use support::{User, flake, text};
use terminal::Terminal;

fn json(user: &User, args: &[&str]) -> Value {
    serde_json::from_str(&user.ok(&[args, &["--json"]].concat())).unwrap()
}

/// The path of a file of a template.
fn file_of(user: &User, template: &str, file: &str) -> PathBuf {
    user.home().join(".local/share/mvm/templates").join(template).join(file)
}

/// A GC root as Nix shows it.
fn root(link: &Path, image: &str) -> String {
    format!("{} -> {image}", link.display())
}

/// Asserts that a command fails in this way and that its error and hint have these words in them.
fn refuses(user: &User, code: i32, args: &[&str], error: &[&str], hint: &str) {
    let stderr = user.fails(code, args);
    let (said, advice) = stderr.split_once("\nhint: ").unwrap_or_else(|| panic!("{args:?}: no hint: {stderr}"));
    for words in error {
        assert!(said.contains(words), "{args:?}: no {words:?} in {said:?}");
    }
    assert!(advice.contains(hint), "{args:?}: no {hint:?} in {advice:?}");
    assert_eq!(advice.trim_end().lines().count(), 1, "{args:?}: {advice}");
}

#[test]
fn a_template_is_built_when_it_is_used_and_makes_vms() {
    let user = User::new();
    let folder = flake::install(&user);
    let flake = folder.to_str().unwrap();
    // Relative to where the user is, and absolute in the template.
    let mut create = user.command(&["template", "create", "site", "--flake", "./flake", "--profile", "guest"]);
    create.args(["--memory", "192M", "-p", "0:8080", "-e", "COLOUR=green", "-e", "SIZE=big"]);
    let created = create.current_dir(user.home()).output().unwrap();
    assert!(created.status.success(), "{}", text(&created.stderr));
    let list = json(&user, &["template", "list"]);
    assert_eq!(list, serde_json::json!([{ "name": "site", "flake": format!("{flake}#guest") }]));
    user.assert_only_templates();

    user.ok(&["up", "-d", "one", "--template", "site", "--memory", "256M", "-e", "COLOUR=red", "-p", "0:8081"]);
    let one = &json(&user, &["ls"])[0]["spec"];
    let image = one["image"].as_str().unwrap();
    assert!(image.starts_with("/nix/store/") && image.ends_with("-mvm-fixture-guest"), "{image}");
    assert_eq!((&one["vcpus"], &one["memoryMiB"]), (&1.into(), &256.into()), "the image's, and the user's");
    assert_eq!(one["env"], serde_json::json!({ "COLOUR": "red", "SIZE": "big" }));
    assert_eq!(one["ports"], serde_json::json!(["127.0.0.1:0:8081", "127.0.0.1:0:8080"]));
    let source = serde_json::json!({ "kind": "flake", "flake": format!("{flake}#guest"), "template": "site" });
    assert_eq!(one["source"], source);
    assert_eq!(user.ok(&["exec", "one", "--", "sh", "-c", "echo $COLOUR $SIZE $MVM_FIXTURE"]), "red big guest\n");
    // Each has a root of its own.
    let of_template = root(&file_of(&user, "site", "image"), image);
    let of_vm = |vm: &str| root(&user.home().join(".local/share/mvm/vms").join(vm).join("gcroot"), image);
    assert_eq!(sorted(user.gc_roots()), [of_template.clone(), of_vm("one")]);

    let info = json(&user, &["template", "info", "site"]);
    assert_eq!((&info["flake"], &info["profile"]), (&flake.into(), &"guest".into()));
    assert_eq!((&info["memoryMiB"], &info["vcpus"]), (&192.into(), &Value::Null));
    assert_eq!((&info["build"]["image"], &info["build"]["current"]), (&image.into(), &true.into()));
    assert!(info["build"]["sizeBytes"].as_u64().unwrap() > 32 << 20, "{info:#}");
    assert_eq!((&info["image"]["name"], &info["image"]["policy"]["exec"]), (&"guest".into(), &true.into()));
    assert_eq!(info["vms"], serde_json::json!(["one"]));
    let shown = user.ok(&["template", "info", "site"]);
    assert!(shown.contains("192M") && shown.contains(image) && shown.contains("console, exec, files"), "{shown}");
    let row = user.ok(&["template", "list"]);
    assert!(row.lines().nth(1).unwrap().starts_with("site") && row.contains(" ago"), "{row}");

    // What is built is all that the next VM needs.
    user.ok(&["down", "one"]);
    refuses(&user, 4, &["up", "-d", "one", "--template", "site"], &["one", "exists"], "mvmctl rm one");
    std::fs::remove_dir_all(&folder).unwrap();
    user.ok(&["up", "-d", "two", "--template", "site"]);
    assert_eq!(json(&user, &["ls"])[0]["spec"]["memoryMiB"], 192);
    assert_eq!(user.ok(&["exec", "two", "--", "sh", "-c", "echo $COLOUR"]), "green\n");
    assert_eq!(sorted(user.gc_roots()), [of_template, of_vm("one"), of_vm("two")]);
    refuses(&user, 3, &["template", "build", "site"], &["no such folder", flake], "spelling");

    // The template goes, and the VMs keep what they are made of.
    user.ok(&["template", "rm", "site"]);
    assert_eq!(sorted(user.gc_roots()), [of_vm("one"), of_vm("two")]);
    user.ok(&["start", "-d", "one"]);
    assert_eq!(user.ok(&["exec", "one", "--", "sh", "-c", "echo $COLOUR"]), "red\n");
    user.ok(&["rm", "-f", "one", "two"]);
    user.assert_never_was();
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn a_build_that_is_none_keeps_the_last_one() {
    User::of_each_nix().into_iter().for_each(a_build_that_is_none_keeps_the_last_one_with);
}

fn a_build_that_is_none_keeps_the_last_one_with(user: User) {
    let flake = flake::install(&user);
    user.ok(&["template", "create", "site", "--flake", flake.to_str().unwrap(), "--profile", "fails"]);
    let build = ["template", "build", "site"];
    refuses(&user, 6, &build, &["the compiler says no"], "nix log");
    refuses(&user, 6, &["up", "-d", "web", "--template", "site"], &["the compiler says no"], "nix log");
    assert_eq!(user.gc_roots(), Vec::<String>::new());
    user.assert_only_templates();

    let to = |profile: &str| user.ok(&["template", "edit", "site", "--profile", profile]);
    to("guest");
    let image = user.ok(&build);
    let image = image.trim_end();
    let roots = [root(&file_of(&user, "site", "image"), image)];
    let unchanged = |current: bool, after: &str| {
        assert_eq!(user.gc_roots(), roots, "{after}");
        let built = &json(&user, &["template", "list"])[0]["build"];
        assert_eq!((&built["image"], &built["current"]), (&image.into(), &current.into()), "{after}");
        user.assert_only_templates();
    };
    unchanged(true, "a build");
    for (profile, code, error, hint) in [
        ("fails", 6, "the compiler says no", "nix log"),
        ("not-ext4", 9, "is not an ext4 file system", "build it again"),
        ("rootfs", 9, "has no image.json", "image output"),
        ("no-such", 3, "no-such", "guest"),
    ] {
        to(profile);
        refuses(&user, code, &build, &[error], hint);
        refuses(&user, code, &["up", "-d", "web", "--template", "site"], &[error], hint);
        unchanged(false, profile);
    }

    to("hangs");
    let held = Held::new(flake::held(&user));
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::KILL, 137)] {
        let child = spawn(&mut user.command(&build));
        let builder = held.next("the build");
        Process::open(child.id()).unwrap().signal(signal);
        assert_eq!(code_of(child), code);
        builder.gone();
        support::events::all_gone(&user);
        // A look at the VMs sweeps what SIGKILL has left.
        user.ok(&["ls"]);
        unchanged(false, "an interrupted build");
    }

    // What was built is of this template again, and one that is built anew moves the root.
    to("guest");
    unchanged(true, "the first profile");
    let page = flake.join("guest.nix");
    let changed = std::fs::read_to_string(&page).unwrap().replace("hello from the fixture flake", "hello again");
    std::fs::write(&page, changed).unwrap();
    let built = json(&user, &build);
    let newer = built["image"].as_str().unwrap();
    assert_ne!(newer, image);
    let roots = [root(&file_of(&user, "site", "image"), newer)];
    assert_eq!(user.gc_roots(), roots);
    // Two at once are one after the other, whichever.
    let two = [(); 2].map(|()| spawn(&mut user.command(&build)));
    assert_eq!(two.map(code_of), [0, 0]);
    assert_eq!(user.gc_roots(), roots);
    assert_eq!(json(&user, &["template", "list"])[0]["build"]["current"], true);
    user.assert_only_templates();
    user.ok(&["template", "rm", "site"]);
    user.assert_never_was();
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The exit code of a child, as a shell shows it.
fn code_of(child: Child) -> i32 {
    let status = end_of(child);
    status.code().or(status.signal().map(|n| 128 + n)).unwrap()
}

#[test]
fn what_cannot_be_a_template() {
    let user = User::new();
    let flake = user.home().join("flake");
    std::fs::create_dir(&flake).unwrap();
    std::fs::write(flake.join("flake.nix"), "{ outputs = _: { }; }").unwrap();
    let flake = flake.to_str().unwrap();
    let with_output = format!("{flake}#web");
    let nowhere = user.home().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let create = |args: &[&'static str]| [&["template", "create"][..], args].concat();
    for (name, flake, more, code, error, hint) in [
        ("Bad_Name", flake, &[][..], 2, "Bad_Name", "lower-case"),
        ("../up", flake, &[], 2, "../up", "lower-case"),
        ("site", nowhere, &[], 3, nowhere, "spelling"),
        ("site", user.home().to_str().unwrap(), &[], 3, "flake.nix", "nix flake init"),
        ("site", "-x", &[], 2, "-x", "./-x"),
        ("site", flake, &["--memory", "3M"], 2, "3M", "512M"),
        ("site", flake, &["-p", "80"], 2, "80", "8080:80"),
        ("site", flake, &["--hypervisor", "vbox"], 2, "vbox", "qemu"),
        ("site", flake, &["--profile", "a..b"], 2, "a..b", "dots"),
        ("site", &with_output, &["--profile", "x"], 2, "x", "FLAKE#x"),
    ] {
        let flake = format!("--flake={flake}");
        refuses(&user, code, &[&create(&[])[..], &[name, &flake], more].concat(), &[error], hint);
    }
    user.fails(2, &["template", "create", "site", "--flake", flake, "--cpus", "0"]);
    user.fails(2, &["template", "create", "site"]);
    user.assert_never_was();

    for args in [
        &["template", "info", "ghost"][..],
        &["template", "build", "ghost"],
        &["template", "edit", "ghost"],
        &["template", "edit", "ghost", "--cpus", "1"],
        &["template", "rm", "ghost"],
        &["up", "-d", "--template", "ghost"],
    ] {
        refuses(&user, 3, args, &["no template", "ghost"], "mvmctl template list");
    }
    user.ok(&["template", "create", "site", "--flake", flake]);
    let taken = ["template", "create", "site", "--flake", flake, "--cpus", "3"];
    refuses(&user, 4, &taken, &["site", "exists already"], "mvmctl template edit site");
    assert_eq!(json(&user, &["template", "info", "site"])["vcpus"], Value::Null);
    refuses(&user, 2, &["up", "-d", "--template", "site", "--memory", "16T"], &["this machine has"], "--memory 512M");
    user.fails(2, &["up", "--template", "site", "--flake", flake]);
    // Said before a build, whoever forces the hypervisor.
    user.ok(&["template", "edit", "site", "--hypervisor", "docker"]);
    let with_volume = ["up", "-d", "--template", "site", "-v", "data:/data"];
    refuses(&user, 2, &with_volume, &["docker cannot honour --volume"], "--hypervisor qemu");

    // The rest is removed, and the first failure is the exit code.
    refuses(&user, 3, &["template", "rm", "ghost", "site"], &["ghost"], "mvmctl template list");
    assert_eq!(user.ok(&["template", "list", "--json"]).trim(), "[]");
    user.assert_never_was();
}

#[test]
fn one_that_is_damaged_by_hand() {
    let user = User::new();
    for name in ["fine", "site"] {
        user.ok(&["template", "create", name, "--flake", "github:me/site"]);
    }
    let file = file_of(&user, "site", "template.toml");
    let place = file.to_str().unwrap();
    for (text, words) in [
        ("flake = \"github:me/site\"\nmemry = \"1G\"\n", &["line 2", "memry"][..]),
        ("flake = \"github:me/site\"\n\nvcpus = 0\n", &["line 3", "1 to 256"]),
        ("flake = \"github:me/site\"\nports = [\"80\"\n", &["line 2"]),
        ("# nothing\n", &["flake"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let words = [&[place][..], words].concat();
        for command in [
            &["template", "info", "site"][..],
            &["template", "build", "site"],
            &["template", "edit", "site", "--cpus", "2"],
            &["up", "-d", "--template", "site"],
        ] {
            refuses(&user, 2, command, &words, "mvmctl template edit site");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "it is the user's");
    }
    for (flake, word) in [("./here", "is relative"), ("a b", "a b")] {
        std::fs::write(&file, format!("flake = {flake:?}\n")).unwrap();
        let stderr = user.fails(2, &["template", "build", "site"]);
        assert!(stderr.contains(place) && stderr.contains(word), "{stderr}");
        let list = json(&user, &["template", "list"]);
        let fault = &list[1]["fault"];
        assert!(fault["message"].as_str().is_some_and(|m| m.contains(place) && m.contains(word)), "{list:#}");
        assert_eq!(list[1]["flake"], flake);
    }
    std::fs::write(&file, "flake = 7\n").unwrap();
    let listed = user.run(&["template", "list"]);
    assert!(listed.status.success());
    assert!(text(&listed.stdout).contains("fine  github:me/site  -"), "{}", text(&listed.stdout));
    let stderr = text(&listed.stderr);
    assert!(stderr.contains("warning: ") && stderr.contains(place) && stderr.contains("line 1"), "{stderr}");
    let list = json(&user, &["template", "list"]);
    assert_eq!((&list[0]["fault"], &list[1]["fault"]["kind"]), (&Value::Null, &"usage".into()), "{list:#}");
    let right = edit(&user, "echo 'flake = \"github:me/site\"' >\"$2\"").output().unwrap();
    assert!(right.status.success(), "{}", text(&right.stderr));
    user.ok(&["template", "info", "site"]);
    user.ok(&["template", "rm", "site", "fine"]);
    // What is no folder is no template.
    let stray = user.home().join(".local/share/mvm/templates/stray");
    std::fs::write(&stray, "mine").unwrap();
    assert_eq!(json(&user, &["template", "list"]), serde_json::json!([]));
    for command in [&["template", "rm", "stray"][..], &["template", "info", "stray"], &["template", "edit", "stray"]] {
        refuses(&user, 3, command, &["no template named", "stray"], "template list");
    }
    assert_eq!(std::fs::read_to_string(&stray).unwrap(), "mine");
    std::fs::remove_file(&stray).unwrap();
    user.assert_never_was();
}

/// An editor: a script that is given the file.
fn editor(user: &User, script: &str) -> String {
    let path = user.home().join("my editor");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    // It is split as a shell does, without one.
    format!("'{}' '$(touch no-shell)'", path.display())
}

/// `template edit site` with an editor.
fn edit(user: &User, script: &str) -> Command {
    let mut command = user.command(&["template", "edit", "site"]);
    command.env_remove("VISUAL").env("EDITOR", editor(user, script)).current_dir(user.home());
    command
}

#[test]
fn an_editor_changes_what_is_a_template_afterwards() {
    let user = User::new();
    user.ok(&["template", "create", "site", "--flake", "github:me/site", "--memory", "512M"]);
    let file = file_of(&user, "site", "template.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let said = |script: &str| {
        let out = edit(&user, script).stdin(Stdio::null()).output().unwrap();
        (out.status.code(), text(&out.stderr))
    };
    let (code, stderr) = said("[ \"$1\" = '$(touch no-shell)' ] && [ \"${2##*/}\" = template.toml ]");
    assert!(code == Some(0) && stderr.contains("nothing was changed"), "{stderr}");
    assert!(!user.home().join("no-shell").exists());
    for (script, code, words) in [
        ("echo 'vcpus = 0' >>\"$2\"", 2, "1 to 256"),
        ("echo 'flake = \"./x\"' >\"$2\"", 2, "is relative"),
        ("echo 'flake = \"a#b\"\nprofile = \"c\"' >\"$2\"", 2, "profile"),
        ("rm \"$2\"", 1, "template.toml"),
        ("echo 'vcpus = 4' >>\"$2\"; exit 1", 1, "failed"),
    ] {
        let (ended, stderr) = said(script);
        assert!(
            ended == Some(code) && stderr.contains(words) && stderr.contains("stays as it was"),
            "{script}: {stderr}"
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before, "{script}");
        user.assert_only_templates();
    }
    let (code, stderr) = said("echo 'vcpus = 4 # mine' >>\"$2\"");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{before}vcpus = 4 # mine\n"));

    // Another command changes it while the editor is open.
    let mvmctl = env!("CARGO_BIN_EXE_mvmctl");
    let (code, stderr) = said(&format!("{mvmctl} template edit site --cpus 2; echo 'memory = 64' >>\"$2\""));
    assert!(code == Some(2), "a key twice: {stderr}");
    let (code, stderr) = said(&format!("{mvmctl} template edit site --cpus 3; sed -i s/512M/1G/ \"$2\""));
    assert!(code == Some(4) && stderr.contains("somebody else"), "{stderr}");
    let (code, stderr) = said(&format!("{mvmctl} template rm site && exit 9; true"));
    assert!(code == Some(0) && stderr.contains("being built or edited"), "{stderr}");

    // Values change without an editor, and what is written beside them stays.
    let mut by_values = user.command(&["template", "edit", "site", "--cpus", "8", "--memory", "1G", "-p", "1:80"]);
    assert!(by_values.env("EDITOR", "/no/such/editor").output().unwrap().status.success());
    let now = std::fs::read_to_string(&file).unwrap();
    for line in ["# A template of mvm", "vcpus = 8 # mine\n", "memory = \"1G\"\n", "ports = [\"127.0.0.1:1:80\"]\n"] {
        assert!(now.contains(line), "no {line:?} in {now}");
    }
    let mut missing = user.command(&["template", "edit", "site"]);
    let missing = missing.env("VISUAL", "/no/such/editor").output().unwrap();
    let stderr = text(&missing.stderr);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr.contains("/no/such/editor") && stderr.contains("hint: set EDITOR"), "{stderr}");
    user.ok(&["template", "rm", "site"]);
    user.assert_never_was();
}

#[test]
fn a_person_is_asked_whether_to_edit_again() {
    let user = User::new();
    user.ok(&["template", "create", "site", "--flake", "github:me/site"]);
    let file = file_of(&user, "site", "template.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    // Wrong at first, and right where it is wrong already.
    let script = "if grep -q memry \"$2\"; then sed -i s/memry/memory/ \"$2\"; else echo 'memry = 512' >>\"$2\"; fi";
    let answer = |text: &str| {
        let mut terminal = Terminal::spawn(&mut edit(&user, script), 24, 200);
        terminal.until("edit it again? [Y/n] ");
        terminal.type_in(text);
        let (status, said) = terminal.end();
        (status.code(), said)
    };
    let (code, said) = answer("n\n");
    assert!(code == Some(2) && said.contains("stays as it was"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    let (code, said) = answer("y\n");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{before}memory = 512\n"));
    user.ok(&["template", "rm", "site"]);
    user.assert_never_was();
}

#[test]
fn an_editor_that_is_interrupted_leaves_nothing() {
    let user = User::new();
    user.ok(&["template", "create", "site", "--flake", "github:me/site"]);
    let held = Held::new(user.home().join("held"));
    let stand_in = held.stand_in("true", "template.toml", true);
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::KILL, 137)] {
        let child = spawn(user.command(&["template", "edit", "site"]).env("VISUAL", &stand_in));
        let editor = held.next("the editor");
        Process::open(child.id()).unwrap().signal(signal);
        assert_eq!(code_of(child), code);
        editor.gone();
        user.ok(&["template", "list"]);
        user.assert_only_templates();
    }
    user.ok(&["template", "rm", "site"]);
    user.assert_never_was();
}

/// Runs `mvmctl` where a folder cannot be written to, whoever one is.
fn where_read_only(user: &User, folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
    let mvmctl = user.command(args);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script]).arg(folder);
    command.arg(mvmctl.get_program()).args(mvmctl.get_args()).env("HOME", user.home()).stdin(Stdio::null());
    command.env("MVM_FLAKE", "github:me/mvm");
    let out = command.output().unwrap();
    (out.status.code(), text(&out.stderr))
}

#[test]
fn folders_that_are_read_only() {
    let may_mount = Command::new("unshare").args(["--mount", "--map-root-user", "true"]).output();
    if !may_mount.is_ok_and(|out| out.status.success()) {
        println!("not run: this machine lets its users mount nothing");
        return;
    }
    let user = User::new();
    user.ok(&["template", "create", "site", "--flake", "github:me/site"]);
    let file = file_of(&user, "site", "template.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let share = user.home().join(".local/share/mvm");
    let project = user.home().join("project");
    let project = project.to_str().unwrap();
    for (folder, args) in [
        (&share, &["template", "create", "other", "--flake", "github:me/site"][..]),
        (&share, &["template", "edit", "site", "--cpus", "2"]),
        (&share, &["template", "rm", "site"]),
        (&user.home().to_path_buf(), &["template", "init", project]),
    ] {
        let (code, stderr) = where_read_only(&user, folder, args);
        assert_eq!(code, Some(8), "{args:?}: {stderr}");
        assert!(stderr.contains("ead-only file system") && stderr.contains("\nhint: "), "{args:?}: {stderr}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    assert!(!Path::new(project).exists());
    let (code, stderr) = where_read_only(&user, &share, &["template", "list"]);
    assert_eq!(code, Some(0), "to look is to write nothing: {stderr}");
    user.ok(&["template", "rm", "site"]);
    user.assert_never_was();
}

/// The presets that the Nix side offers, with their descriptions.
fn offered() -> BTreeMap<String, String> {
    let expression = format!("import {}/templates", env!("CARGO_MANIFEST_DIR"));
    let expression = format!("builtins.mapAttrs (_: t: t.description) (removeAttrs ({expression}) [ \"default\" ])");
    let mut nix = Command::new("nix-instantiate");
    nix.args(["--eval", "--strict", "--json", "--expr", &expression]);
    let out = nix.env_remove("NIX_PATH").output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn files_below(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in folder.read_dir().unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
        if path.is_dir() {
            files.extend(files_below(&path).into_iter().map(|(below, content)| (format!("{name}/{below}"), content)));
        } else {
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
    files
}

#[test]
fn each_preset_is_a_flake() {
    let user = User::new();
    let offered = offered();
    let help = user.ok(&["template", "init", "--help"]);
    for (name, description) in &offered {
        assert!(help.lines().any(|line| line.contains(&format!("{name}:")) && line.ends_with(description)), "{help}");
        let folder = user.home().join(name);
        let init = ["template", "init", folder.to_str().unwrap(), "--preset", name, "--mvm", "github:me/mvm?ref=x"];
        let out = user.run(&init);
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_eq!(text(&out.stdout).trim_end(), folder.to_str().unwrap());
        let files = files_below(&folder);
        let original = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(name));
        assert!(files.keys().eq(original.keys()), "{name}: {:?}", files.keys());
        for (path, content) in &files {
            assert!(!content.contains("flake:mvm") && !content.contains("registry"), "{name}/{path}: {content}");
            assert!(text(&out.stderr).contains(&format!("{name}/{path}\n")), "{path} is told");
            if path.ends_with(".nix") {
                let parsed = Command::new("nix-instantiate").arg("--parse").arg(folder.join(path)).output().unwrap();
                assert!(parsed.status.success(), "{name}/{path}: {}", text(&parsed.stderr));
            }
        }
        assert!(files["flake.nix"].contains("inputs.mvm.url = \"github:me/mvm?ref=x\";"), "{}", files["flake.nix"]);
        assert_eq!(files["README.md"].lines().count(), 5, "{name}");
    }
    // What is not offered by the one is not by the other.
    for other in ["nixos", "htpp", "default", ".."].iter().filter(|name| !offered.contains_key(**name)) {
        let stderr = user.fails(2, &["template", "init", "new", "--preset", other]);
        assert!(offered.keys().all(|name| stderr.contains(name.as_str())), "{stderr}");
        assert!(*other != "htpp" || stderr.contains("similar value exists: 'http'"), "{stderr}");
    }
    user.assert_never_was();
}

/// `nix flake init -t` copies the folders as they are, by the flake's output `templates`.
#[test]
fn nix_copies_the_same_files() {
    let user = User::new();
    let flake = user.home().join("flake");
    std::fs::create_dir_all(&flake).unwrap();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The flake itself has inputs, which a machine without network does not have.
    std::fs::write(flake.join("flake.nix"), "{ outputs = _: { templates = import ./templates; }; }").unwrap();
    let read = ["Cargo.toml", "nix/source.nix", "crates/mvm-protocol/src/handshake.rs"];
    let read = read.map(|path| (path.to_owned(), std::fs::read_to_string(repository.join(path)).unwrap()));
    let templates = files_below(&repository.join("templates"));
    let templates = templates.into_iter().map(|(path, content)| (format!("templates/{path}"), content));
    for (path, content) in read.into_iter().chain(templates) {
        std::fs::create_dir_all(flake.join(&path).parent().unwrap()).unwrap();
        std::fs::write(flake.join(path), content).unwrap();
    }
    for name in offered().keys() {
        let folder = user.home().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut nix = Command::new("nix");
        nix.args(["--extra-experimental-features", "nix-command flakes", "flake", "init", "-t"]);
        nix.arg(format!("path:{}#{name}", flake.display())).current_dir(&folder).env("HOME", user.home());
        let out = nix.output().unwrap();
        assert!(out.status.success(), "{name}: {}", text(&out.stderr));
        assert_eq!(files_below(&folder), files_below(&repository.join("templates").join(name)), "{name}");
    }
}

#[test]
fn where_a_project_goes_and_where_its_mvm_comes_from() {
    let user = User::new();
    let init = |more: &[&str], variable: Option<&str>| {
        let mut command = user.command(&[&["template", "init"][..], more].concat());
        command.current_dir(user.home()).env_remove("MVM_FLAKE").stdin(Stdio::null());
        variable.map(|value| command.env("MVM_FLAKE", value));
        let out = command.output().unwrap();
        (out.status.code(), text(&out.stderr))
    };
    let url = |project: &str| {
        let flake = std::fs::read_to_string(user.home().join(project).join("flake.nix")).unwrap();
        flake.split("inputs.mvm.url = \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let (code, stderr) = init(&["site"], None);
    assert!(
        code == Some(2) && stderr.contains("hint: say it with --mvm") && stderr.contains("config.toml"),
        "{stderr}"
    );
    for (wrong, code, word) in
        [("github:me/mvm#x", 2, "`github:me/mvm`"), ("a b", 2, "a b"), ("./nowhere", 3, "nowhere")]
    {
        let (ended, stderr) = init(&["site", "--mvm", wrong], None);
        assert!(ended == Some(code) && stderr.contains(word) && stderr.contains("\nhint: "), "{stderr}");
    }
    let (code, stderr) = init(&["what?", "--mvm", "github:me/mvm"], None);
    assert!(code == Some(2) && stderr.contains("what?"), "{stderr}");
    assert_eq!(user.home().read_dir().unwrap().count(), 0, "nothing is written");

    let (code, stderr) = init(&["one"], Some("github:installed/mvm"));
    assert_eq!((code, url("one").as_str()), (Some(0), "github:installed/mvm"));
    assert!(stderr.contains("`mvmctl up -d --flake ./one`") && !stderr.contains("git add"), "{stderr}");
    let config = user.home().join(".config/mvm/config.toml");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    std::fs::write(&config, "[catalog]\nurl = \"github:config/mvm\"\n").unwrap();
    init(&["two"], Some("github:installed/mvm"));
    assert_eq!(url("two"), "github:config/mvm");
    // A relative ref would mean another place in the project, so it is made absolute; and others may not have it.
    let (code, stderr) = init(&["three", "--mvm", "./one"], None);
    assert_eq!((code, url("three")), (Some(0), user.home().join("one").display().to_string()));
    assert!(stderr.contains("note: ") && stderr.contains("--mvm"), "{stderr}");
    std::fs::remove_file(&config).unwrap();

    // In a Git work tree Nix sees what Git knows; an empty folder is as good as none.
    std::fs::create_dir_all(user.home().join("repo/.git")).unwrap();
    std::fs::create_dir_all(user.home().join("repo/my site")).unwrap();
    let (code, stderr) = init(&["repo/my site"], Some("github:me/mvm"));
    assert!(code == Some(0) && stderr.contains("`git add 'repo/my site'`"), "{stderr}");
    let before = files_below(&user.home().join("repo/my site"));
    let (code, stderr) = init(&["repo/my site", "--preset", "http"], Some("github:me/mvm"));
    assert!(code == Some(4) && stderr.contains("exists already") && stderr.contains("\nhint: "), "{stderr}");
    assert_eq!(files_below(&user.home().join("repo/my site")), before);
    let (code, stderr) = init(&["no/such/folder"], Some("github:me/mvm"));
    assert!(code == Some(3) && stderr.contains("\nhint: "), "{stderr}");
    let (code, stderr) = init(&["."], Some("github:me/mvm"));
    assert!(code == Some(2) && stderr.contains("current folder"), "{stderr}");
    user.assert_never_was();
}
