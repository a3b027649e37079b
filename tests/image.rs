//! The catalog, and images from it to a VM and back, through the program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::events::{Held, Process, all_gone, end_of};
use support::refusal::{assert_refused, refusal, refuses, run};
use support::{User, flake, text};

/// Puts the fixture flake into a user's home and into his config.toml; its folder.
fn settle(user: &User) -> PathBuf {
    let folder = flake::install(user);
    configure(user, &format!("[catalog]\nurl = \"path:{}\"\n", folder.display()));
    folder
}

fn configure(user: &User, text: &str) {
    let file = user.home().join(".config/mvm/config.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// One image of `image list --json`.
fn listed(user: &User, name: &str) -> Value {
    let all = json(&user.ok(&["image", "list", "--json"]));
    let mut found = all.as_array().unwrap().iter().filter(|image| image["name"] == name);
    let image = found.next().unwrap_or_else(|| panic!("{name} is not listed")).clone();
    assert!(found.next().is_none(), "{name} is listed twice");
    image
}

fn registration(user: &User, name: &str) -> PathBuf {
    user.home().join(".local/share/mvm/images").join(name)
}

/// What Nix tells of an image's registration.
fn root_of(user: &User, name: &str, image: &str) -> String {
    format!("{} -> {image}", registration(user, name).join("gcroot").display())
}

#[test]
fn list_and_search_need_neither_nix_nor_settings() {
    let user = User::new();
    configure(&user, "this is no configuration");
    let bare = |args: &[&str]| {
        let out = run(user.command(args).env("PATH", "/no/such/folder").env("MVM_NIX", "/no/such/nix"));
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        (text(&out.stdout), text(&out.stderr))
    };
    let index = json(include_str!("../catalog/index.json"));
    let (all, _) = bare(&["image", "list", "--json"]);
    let all = json(&all);
    let entries: Vec<&Value> = all.as_array().unwrap().iter().map(|image| &image["catalog"]).collect();
    assert_eq!(entries, index.as_array().unwrap().iter().collect::<Vec<_>>());
    assert!(all.as_array().unwrap().iter().all(|image| image["local"].is_null()));

    let (table, _) = bare(&["image", "list"]);
    assert_eq!(table.lines().count(), 1 + entries.len());
    assert!(table.starts_with("NAME ") && table.contains("\nhttp "), "{table}");
    assert_eq!(bare(&["image", "list", "--here", "--json"]).0, "[]\n");

    let (found, _) = bare(&["image", "search", "DATA", "base", "--json"]);
    let names: Vec<_> = json(&found).as_array().unwrap().iter().map(|image| image["name"].clone()).collect();
    assert_eq!(names, ["postgres", "redis"]);
    let (nothing, said) = bare(&["image", "search", "nothing-like-it"]);
    assert!(nothing.is_empty() && said.contains("nothing-like-it"), "{nothing}{said}");

    let (info, _) = bare(&["image", "info", "http"]);
    for words in ["nginx serving a folder", "service", "8080", "mvmctl image fetch http"] {
        assert!(info.contains(words), "no {words:?} in {info}");
    }
    user.assert_never_was();
}

#[test]
fn from_the_catalog_to_a_vm_and_back() {
    let user = User::new();
    settle(&user);
    let image = user.ok(&["image", "fetch", "minimal"]);
    let image = image.trim_end();
    assert!(image.starts_with("/nix/store/") && image.ends_with("-mvm-fixture-guest"), "{image}");
    let registered = root_of(&user, "minimal", image);
    assert_eq!(user.gc_roots(), [registered.as_str()]);
    let shown = listed(&user, "minimal");
    assert_eq!((&shown["local"]["kind"], &shown["local"]["path"]), (&"fetched".into(), &image.into()), "{shown:#}");
    assert_eq!(shown["local"]["origin"]["entry"], "minimal");
    assert!(shown["local"]["sizeBytes"].as_u64().unwrap() > 32 << 20);
    let info = user.ok(&["image", "info", "minimal"]);
    for words in ["A busybox shell", image, "fetched", "256M", "console, exec, files, forward", "catalog."] {
        assert!(info.contains(words), "no {words:?} in {info}");
    }
    assert_eq!(json(&user.ok(&["image", "info", "minimal", "--json"]))["manifest"]["name"], "guest");

    // In a VM made for it alone, and in one that stays.
    let page = "hello from the fixture flake\n";
    assert_eq!(user.ok(&["exec", "--image", "minimal", "--", "cat", "/srv/www/index.html"]), page);
    assert_eq!(user.gc_roots(), [registered.as_str()]);
    user.ok(&["up", "-d", "web", "--image", "minimal"]);
    let vm = json(&user.ok(&["inspect", "web", "--json"]));
    assert_eq!(vm["spec"]["source"], json(r#"{"kind":"image","image":"minimal"}"#));
    assert_eq!(vm["spec"]["image"], image);
    let own = format!("{}/.local/share/mvm/vms/web/gcroot -> {image}", user.home().display());
    let roots = user.gc_roots();
    assert!(roots.len() == 2 && roots.contains(&own) && roots.contains(&registered), "{roots:?}");

    // The image goes, and the VM keeps it.
    let removed = user.run(&["image", "rm", "minimal"]);
    assert!(removed.status.success() && text(&removed.stderr).contains("web"), "{}", text(&removed.stderr));
    assert!(!registration(&user, "minimal").exists());
    assert_eq!(user.gc_roots(), [own]);
    assert!(listed(&user, "minimal")["local"].is_null());
    assert_eq!(user.ok(&["exec", "web", "--", "cat", "/srv/www/index.html"]), page);
    user.ok(&["down", "web"]);
    user.ok(&["start", "-d", "web"]);
    assert_eq!(user.ok(&["exec", "web", "--", "cat", "/srv/www/index.html"]), page);
    refuses(&user, &["image", "rm", "minimal"], &refusal(3, &["minimal", "not been fetched"], "--here"));
    user.ok(&["down", "web", "--rm"]);
    user.assert_never_was();
}

#[test]
fn names_and_where_images_come_from() {
    User::of_each_nix().into_iter().for_each(names_and_where_images_come_from_with);
}

fn names_and_where_images_come_from_with(user: User) {
    let folder = settle(&user);
    let other = format!("path:{}#guest", folder.display());
    let system = format!("{}-linux", std::env::consts::ARCH);
    let built = json(&user.ok(&["image", "fetch", &other, "--name", "mine", "--json"]));
    let image = built["path"].as_str().unwrap();
    let origin = format!("path:{}#catalog.{system}.guest", folder.display());
    assert_eq!((&built["name"], &built["origin"]["flake"]), (&"mine".into(), &origin.as_str().into()), "{built:#}");
    assert_eq!(built["image"]["name"], "guest");
    assert_eq!(user.gc_roots(), [root_of(&user, "mine", image)]);
    assert!(listed(&user, "mine")["catalog"].is_null());

    // Again from there, also spelled out, is the same image; from elsewhere it is another one.
    user.ok(&["image", "fetch", &format!("path:{}#catalog.{system}.guest", folder.display()), "--name", "mine"]);
    let words = ["mine", "already", &origin];
    let taken = refusal(4, &words, "mvmctl image rm mine");
    refuses(&user, &["image", "fetch", "minimal", "--name", "mine"], &taken);
    // What is told before the build is: this one could not be built.
    refuses(&user, &["image", "fetch", "postgres", "--name", "mine"], &taken);
    user.ok(&["image", "fetch", "minimal", "--name", "least"]);
    let moved = user.home().join("moved");
    std::fs::rename(&folder, &moved).unwrap();
    configure(&user, "");
    let again = || {
        let mut fetch = user.command(&["image", "fetch", "minimal", "--name", "least"]);
        fetch.env("MVM_FLAKE", format!("path:{}", moved.display()));
        fetch
    };
    let out = run(&mut again());
    assert!(out.status.success(), "another mvm brings the same entry: {}", text(&out.stderr));
    assert_eq!(listed(&user, "least")["catalog"]["name"], "minimal");
    assert!(listed(&user, "minimal")["local"].is_null());
    // What the user says comes before what the installer says.
    configure(&user, "[catalog]\nurl = \"path:/no/such/folder\"\n");
    assert_refused("the user's flake", &run(&mut again()), &refusal(3, &["/no/such/folder"], "spelling"));

    // A folder of the user's own among the images.
    let own = user.home().join(".cache/mvm/images/own");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    symlink(image, &own).unwrap();
    assert_eq!(listed(&user, "own")["local"]["kind"], "folder");
    refuses(&user, &["image", "fetch", &other, "--name", "own"], &refusal(4, &["own", "already"], "--name"));
    refuses(&user, &["image", "rm", "own"], &refusal(2, &["own", "not fetched"], own.to_str().unwrap()));
    assert!(user.ok(&["image", "verify", "own"]).contains("of the right form"));
    std::fs::remove_file(own).unwrap();

    assert!(user.ok(&["image", "list", "--here"]).lines().skip(1).all(|line| line.contains("fetched")));
    user.assert_nothing_left();
    user.ok(&["image", "rm", "mine", "least"]);
    user.assert_never_was();
}

#[test]
fn what_cannot_be_fetched() {
    User::of_each_nix().into_iter().for_each(what_cannot_be_fetched_with);
}

fn what_cannot_be_fetched_with(user: User) {
    let folder = settle(&user);
    let at = |name: &str| format!("{}#{name}", folder.display());
    let other = if cfg!(target_arch = "x86_64") { "aarch64-linux" } else { "x86_64-linux" };
    let plain = user.home().join("plain");
    std::fs::create_dir(&plain).unwrap();
    std::fs::write(
        plain.join("flake.nix"),
        "{ outputs = _: { packages.x86_64-linux.thing = 1; packages.aarch64-linux.thing = 1; }; }",
    )
    .unwrap();
    let plain = format!("{}#thing", plain.display());
    let empty = user.home().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = format!("{}#thing", empty.display());
    let alone = folder.display().to_string();
    for (image, want) in [
        ("postgresql", refusal(3, &["catalog", "postgresql"], "did you mean postgres")),
        ("Zzz", refusal(3, &["catalog", "Zzz"], "mvmctl image list")),
        ("http", refusal(6, &["the fixture's http fails to evaluate"], "")),
        ("node", refusal(9, &[&format!("is for {other}")], "build the image for")),
        ("postgres", refusal(6, &["step 3 of the build", "the compiler says no"], "nix log /nix/store/")),
        (&at("no-manifest"), refusal(9, &["has no image.json"], "image output")),
        (&at("nothing-like-it"), refusal(3, &["nothing-like-it"], "images in its catalog")),
        (&at("nothing-like-it"), refusal(3, &["nothing-like-it"], "minimal")),
        (&plain, refusal(3, &["thing"], "no output `catalog`")),
        (&empty, refusal(3, &["flake.nix"], "flake.nix")),
        (&alone, refusal(2, &["names a flake, but no image"], "#NAME")),
        ("github:me/images", refusal(2, &["names a flake, but no image"], "github:me/images#NAME")),
        (&at("guest^out"), refusal(2, &["names a flake, but no image"], "#NAME")),
        (&at("a b"), refusal(2, &["not an attribute path"], "quote")),
        (&at("\"Odd name\""), refusal(2, &["Odd name"], "--name")),
    ] {
        if image == "http" {
            // Nix's words are all that there is to say of it.
            let out = user.run(&["image", "fetch", image]);
            let said = text(&out.stderr);
            assert!(out.status.code() == Some(6) && said.contains("the fixture's http fails to evaluate"), "{said}");
        } else {
            refuses(&user, &["image", "fetch", image], &want);
        }
        user.assert_never_was();
    }
    refuses(&user, &["image", "fetch", "minimal", "--name", "No"], &refusal(2, &["No", "--name"], "lower-case"));

    let file = user.home().join(".config/mvm/config.toml");
    let file = file.to_str().unwrap();
    let line = format!("{file}:2:");
    for (config, want) in [
        ("", refusal(2, &["which flake"], file)),
        ("[catalog]\nurl = 3\n", refusal(2, &[&line, "url = 3"], "[catalog]")),
        ("[catalog]\nulr = \"x\"\n", refusal(2, &[&line, "ulr"], "[catalog]")),
        ("[catalog]\nurl = \"github:me/mvm#x\"\n", refusal(2, &["flake of this mvmctl", "#x"], "catalog.url")),
        ("[catalog]\nurl = \"./flake\"\n", refusal(2, &["flake of this mvmctl", "relative"], "absolute")),
        ("[catalog]\nurl = \"no flake\"\n", refusal(2, &["flake of this mvmctl", "no flake"], "github:owner")),
    ] {
        configure(&user, config);
        refuses(&user, &["image", "fetch", "minimal"], &want);
        user.assert_never_was();
    }
    configure(&user, &format!("[catalog]\nurl = \"path:{}\"\n", folder.display()));
    let path = user.path_without(&["nix"]);
    let out = run(user.command(&["image", "fetch", "minimal"]).env("PATH", &path).env_remove("MVM_NIX"));
    assert_refused("no nix", &out, &refusal(6, &["Nix is not installed"], "https://nixos.org/download"));
    user.assert_never_was();
}

#[test]
fn images_that_are_not_here() {
    let user = User::new();
    for args in [&["up", "-d", "--image", "http"][..], &["exec", "--image", "http", "--", "true"]] {
        refuses(&user, args, &refusal(3, &["http", "not been fetched"], "mvmctl image fetch http"));
    }
    for (args, hint) in [
        (&["up", "-d", "--image", "htpp"][..], "did you mean http"),
        (&["image", "info", "redsi"], "did you mean redis"),
        (&["image", "verify", "redsi"], "did you mean redis"),
        (&["image", "rm", "redsi"], "did you mean redis"),
    ] {
        refuses(&user, args, &refusal(3, &["there is no image named"], hint));
    }
    refuses(&user, &["image", "verify", "http"], &refusal(3, &["http"], "mvmctl image fetch http"));
    assert!(text(&user.run(&["image", "verify"]).stderr).contains("no image has been fetched"));
    user.assert_never_was();
}

#[test]
fn a_fetch_that_is_killed() {
    for user in User::of_each_nix() {
        let folder = settle(&user);
        // While it builds.
        let held = Held::new(flake::held(&user));
        let fetch = spawn(&mut user.command(&["image", "fetch", "worker"]));
        let builder = held.next("the build");
        Process::open(fetch.id()).unwrap().signal(Signal::KILL);
        end_of(fetch);
        builder.gone();
        all_gone(&user);
        assert!(listed(&user, "worker")["local"].is_null());
        user.assert_never_was();

        // When it is built and has no name yet.
        let stand_in = Held::new(user.home().join("held"));
        let nix = stand_in.stand_in(user.nix().to_str().unwrap(), "images/minimal/gcroot", true);
        let fetch = spawn(user.command(&["image", "fetch", "minimal"]).env("MVM_NIX", &nix));
        let registering = stand_in.next("the registration");
        Process::open(fetch.id()).unwrap().signal(Signal::KILL);
        end_of(fetch);
        registering.gone();
        all_gone(&user);
        assert!(registration(&user, "minimal").join("origin.json").exists(), "it was killed in the middle");
        assert!(listed(&user, "minimal")["local"].is_null());
        let up = ["up", "-d", "--image", "minimal"];
        refuses(&user, &up, &refusal(3, &["minimal", "not been fetched"], "mvmctl image fetch minimal"));

        // The next one has all that was built, and whoever comes next sweeps what is left.
        let again = spawn(user.command(&["image", "fetch", "minimal"]).env("MVM_NIX", &nix));
        let registering = stand_in.next("the registration");
        Process::open(again.id()).unwrap().signal(Signal::INT);
        let status = end_of(again);
        assert_eq!(status.code(), Some(130));
        registering.gone();
        assert!(!registration(&user, "minimal").exists());
        user.ok(&["ls"]);
        user.assert_never_was();
        let again = user.run(&["image", "fetch", &format!("{}#minimal", folder.display())]);
        let said = text(&again.stderr);
        assert!(again.status.success() && !said.contains("building"), "{said}");
        user.assert_nothing_left();
    }
}

fn spawn(command: &mut Command) -> std::process::Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn damaged_images_are_found() {
    User::of_each_nix().into_iter().for_each(damaged_images_are_found_with);
}

fn damaged_images_are_found_with(user: User) {
    let folder = settle(&user);
    let image = user.ok(&["image", "fetch", &format!("{}#own", folder.display())]);
    let image = Path::new(image.trim_end());
    assert_eq!(user.ok(&["image", "verify"]), "NAME  RESULT\nown   as it was built\n");

    // Gone from the store, in spite of its root.
    let link = registration(&user, "own").join("gcroot");
    std::fs::remove_file(&link).unwrap();
    let again = format!("mvmctl image fetch '{}#catalog", folder.display());
    symlink("/etc", &link).unwrap();
    assert_eq!(verdict(&user, &again).last().unwrap(), "/etc is not a path of Nix's store");
    std::fs::remove_file(&link).unwrap();
    symlink("/nix/store/00000000000000000000000000000000-gone", &link).unwrap();
    let gone = refusal(9, &["own", "gone from Nix's store"], &again);
    refuses(&user, &["up", "-d", "--image", "own"], &gone);
    assert_eq!(verdict(&user, &again), ["/nix/store/00000000000000000000000000000000-gone is gone from the store"]);
    assert!(user.ok(&["image", "list"]).lines().any(|line| line.starts_with("own ") && line.contains("damaged")));
    user.ok(&["image", "fetch", &format!("{}#own", folder.display())]);
    assert_eq!(json(&user.ok(&["image", "verify", "own", "--json"]))[0]["faults"], json("[]"));

    // One byte in the middle of its root, which nothing but its content tells.
    let root = image.join("rootfs.ext4");
    let writable = |mode| std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode)).is_ok();
    if writable(0o644) {
        let mut bytes = std::fs::read(&root).unwrap();
        bytes[20 << 20] ^= 1;
        std::fs::write(&root, bytes).unwrap();
        writable(0o444);
        let faults = verdict(&user, "nix build --repair");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(image.to_str().unwrap()) && faults[0].contains("other content"), "{faults:?}");
    } else {
        println!("not run: this machine's store cannot be damaged by its users");
    }
    user.assert_nothing_left();
    user.ok(&["image", "rm", "own"]);
    user.assert_never_was();
    // In nobody else's store path.
    let deleted = Command::new("nix-store").arg("--delete").arg(image).output().unwrap();
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
}

/// What `image verify` finds of the one image; it must fail with this hint.
fn verdict(user: &User, hint: &str) -> Vec<String> {
    let out = user.run(&["image", "verify", "--json"]);
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(9), "{stderr}");
    let (_, said) = stderr.split_once("hint: ").unwrap();
    assert!(said.contains(hint), "no {hint:?} in {said}");
    let faults = json(&text(&out.stdout))[0]["faults"].clone();
    faults.as_array().unwrap().iter().map(|fault| fault.as_str().unwrap().to_owned()).collect()
}

/// Whether mounts can be made that nobody else sees.
fn can_mount() -> bool {
    let can = Command::new("unshare").args(["--mount", "--map-root-user", "true"]).output();
    let can = can.is_ok_and(|out| out.status.success());
    if !can {
        println!("not run: this machine lets its users mount nothing");
    }
    can
}

/// Runs a script of the shell, with `$0` and the environment of `mvmctl`, which `$mvmctl` is, where it may mount.
fn where_mounts_are_ours(user: &User, script: &str, argument: &Path) -> std::process::Output {
    let mvmctl = user.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-euc", script]).arg(argument);
    command.env("mvmctl", mvmctl.get_program());
    for (name, value) in mvmctl.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    run(&mut command)
}

#[test]
fn read_only_folders() {
    if !can_mount() {
        return;
    }
    let user = User::new();
    settle(&user);
    for folder in [".local/share/mvm", ".local/share/mvm/images", ".local/share/mvm/gcroots"] {
        let path = user.home().join(folder);
        std::fs::create_dir_all(&path).unwrap();
        let read_only = |command: &str| {
            let script = format!(r#"mount -t tmpfs -o ro none "$0"; exec "$mvmctl" {command}"#);
            where_mounts_are_ours(&user, &script, &path)
        };
        assert_refused(folder, &read_only("image fetch worker"), &refusal(8, &[folder], "written to"));
        user.assert_never_was();
        // To look at what there is nothing need be written.
        let out = read_only("image list");
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
}

/// In a store of its own, which begins empty: what the machine's has is everybody's.
const COLLECT: &str = r#"
mount --bind "$0" /nix
says() { "$mvmctl" exec web -- cat /srv/www/index.html; }
image=$("$mvmctl" image fetch minimal)
nix-store --gc
[ "$("$mvmctl" image verify minimal | wc -l)" = 2 ]
"$mvmctl" up -d web --image minimal
"$mvmctl" image rm minimal
nix-store --gc
says
"$mvmctl" down web
nix-store --gc
"$mvmctl" start -d web
says
"$mvmctl" image fetch minimal
"$mvmctl" down web --rm
nix-store --gc
[ -e "$image/image.json" ]
"$mvmctl" image rm minimal
nix-store --gc
[ ! -e "$image" ]
# A store is read-only, and it has to be removed with the user.
chmod -R u+w /nix
"#;

#[test]
fn a_garbage_collection_takes_what_nobody_keeps() {
    if !can_mount() {
        return;
    }
    let user = User::new();
    settle(&user);
    let store = user.home().join("nix");
    std::fs::create_dir(&store).unwrap();
    let out = where_mounts_are_ours(&user, COLLECT, &store);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{}: {stdout}\n{stderr}", out.status);
    assert_eq!(stdout.matches("hello from the fixture flake\n").count(), 2, "{stdout}");
    std::fs::remove_dir_all(store).unwrap();
    user.assert_never_was();
}
