//! What cannot work: one clear error with advice, the exit code of docs/exit-codes.md, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use support::refusal::{assert_refused, refusal, refuses, run};
use support::{User, flake, text};

#[test]
fn values_that_cannot_be() {
    let user = User::new();
    let above = "16T";
    for (args, want) in [
        (&["--name", "Bad_Name"][..], refusal(2, &["Bad_Name", "--name"], "lower-case")),
        (&["../etc"], refusal(2, &["../etc"], "lower-case")),
        (&["--memory", "3M"], refusal(2, &["3M", "--memory", "64M"], "512M")),
        (&["--memory", "3P"], refusal(2, &["3P", "--memory", "16T"], "512M")),
        (&["--memory", "much"], refusal(2, &["much", "--memory"], "512M")),
        (&["--memory", above], refusal(2, &[above, "this machine has"], "--memory 512M")),
        (&["--hypervisor", "vbox"], refusal(2, &["vbox", "--hypervisor"], "qemu")),
        (&["-p", "80"], refusal(2, &["80", "--port"], "8080:80")),
        (&["-p", "1:99999"], refusal(2, &["99999", "--port"], "8080:80")),
        (&["--image", "/no/such/folder"], refusal(3, &["/no/such/folder"], "image.json")),
        (&["--image", "nameless"], refusal(3, &["nameless"], "image.json")),
    ] {
        refuses(&user, &[&["up", "-d"][..], args].concat(), &want);
    }
    user.assert_never_was();
}

/// What nobody can have read must not look like a success.
#[test]
fn an_answer_that_cannot_be_written() {
    let user = User::new();
    for args in [&["image", "list"][..], &["image", "list", "--json"], &["ls", "--json"], &["template", "list"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let out = user.command(args).stdout(full).stdin(Stdio::null()).output().unwrap();
        let stderr = text(&out.stderr);
        assert!(out.status.code() == Some(1) && stderr.contains("cannot write to stdout"), "{args:?}: {stderr}");
        // But somebody who has read enough may go.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = user.command(args).stdout(writer).stdin(Stdio::null()).output().unwrap();
        assert!(out.stderr.is_empty(), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn flakes_that_cannot_be_built() {
    User::of_each_nix().into_iter().for_each(flakes_that_cannot_be_built_with);
}

fn flakes_that_cannot_be_built_with(user: User) {
    let flake = flake::install(&user);
    let at = |attribute: &str| format!("{}#{attribute}", flake.display());
    let nowhere = user.home().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let empty = user.home().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let last_lines = ["last lines of mvm-fixture-fails:\n", "  step 3 of the build\n", "  the compiler says no"];
    for (flake, want) in [
        (nowhere.to_owned(), refusal(3, &[nowhere], "")),
        (empty.display().to_string(), refusal(3, &["flake.nix"], "")),
        ("no-such-registry-name".into(), refusal(3, &["no-such-registry-name"], "./NAME")),
        (at("no-such-package"), refusal(3, &["no-such-package"], "escaping-path")),
        (at("fails"), refusal(6, &last_lines, "nix log /nix/store/")),
    ] {
        refuses(&user, &["up", "-d", "--name", "web", "--flake", &flake], &want);
        user.assert_never_was();
        refuses(&user, &["build", &flake], &want);
        user.assert_never_was();
    }
}

#[test]
fn flakes_that_are_no_image() {
    User::of_each_nix().into_iter().for_each(flakes_that_are_no_image_with);
}

fn flakes_that_are_no_image_with(user: User) {
    let flake = flake::install(&user);
    let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
    let again = "build it again";
    for (attribute, want) in [
        ("no-manifest", refusal(9, &["has no image.json"], "image output")),
        ("unknown-schema", refusal(9, &["schema 99"], "mvmctl")),
        ("escaping-path", refusal(9, &["../../etc/passwd"], "rebuild the image")),
        ("truncated-rootfs", refusal(9, &["rootfs", "is truncated", "8388608"], again)),
        ("not-ext4", refusal(9, &["rootfs", "is not an ext4 file system"], again)),
        ("wrong-kernel-format", refusal(9, &["kernel", "is not a kernel"], again)),
        ("wrong-cpu", refusal(9, &["kernel", &format!("is for {other}")], again)),
        ("wrong-system", refusal(9, &[&format!("is for {other}-linux")], "build the image for")),
        // What is a derivation but no image.
        ("rootfs", refusal(9, &["has no image.json"], "image output")),
    ] {
        let flake = format!("{}#{attribute}", flake.display());
        refuses(&user, &["up", "-d", "--name", "web", "--flake", &flake], &want);
        user.assert_never_was();
        let link = user.home().join("result");
        refuses(&user, &["build", &flake, "-o", link.to_str().unwrap()], &want);
        user.assert_never_was();
        assert!(link.symlink_metadata().is_err());
    }
}

#[test]
fn without_nix() {
    let user = User::new();
    let flake = format!("{}#guest", flake::install(&user).display());
    let path = user.path_without(&["nix"]);
    let want = refusal(6, &["Nix is not installed"], "https://nixos.org/download");
    for args in [&["up", "-d", "--flake", &flake][..], &["build", &flake]] {
        assert_refused("no nix", &run(user.command(args).env("PATH", &path).env_remove("MVM_NIX")), &want);
    }
    let want = refusal(6, &["MVM_NIX", "/no/such/nix"], "unset it");
    assert_refused("MVM_NIX", &run(user.command(&["build", &flake]).env("MVM_NIX", "/no/such/nix")), &want);
    user.assert_never_was();
}

#[test]
fn without_what_runs_a_vm() {
    let user = User::new();
    let up = || user.command(&["up", "-d", "--name", "web"]);
    let no_device = std::fs::File::options().read(true).write(true).open("/dev/vhost-vsock").is_err();

    let path = user.path_without(&["qemu-system-x86_64", "qemu-system-aarch64"]);
    let out = run(up().env("PATH", &path).env_remove("MVM_QEMU"));
    assert_refused("no QEMU", &out, &refusal(5, &["qemu-system-", "not on PATH"], "apt-get install"));
    user.assert_never_was();

    let out = run(up().env("MVM_QEMU", "/no/such/qemu"));
    assert_refused("MVM_QEMU", &out, &refusal(5, &["MVM_QEMU", "/no/such/qemu"], "unset it"));
    user.assert_never_was();

    // A QEMU that ends at once: its words are shown, since its log goes with the VM.
    let broken = user.home().join("qemu");
    std::fs::write(&broken, "#!/bin/sh\necho 'no such machine: microvm' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    let out = run(up().env("MVM_QEMU", &broken));
    let stderr = assert_refused("a broken QEMU", &out, &refusal(5, &["ended at once", "3"], "above"));
    assert!(stderr.contains("hypervisor: no such machine: microvm\n"), "{stderr}");
    user.assert_never_was();

    // Where the kernel has a device of its own, the program is not needed.
    if no_device {
        let path = user.path_without(&["vhost-device-vsock"]);
        let out = run(up().env("PATH", &path).env_remove("MVM_VHOST_DEVICE_VSOCK"));
        let want = refusal(5, &["vhost-device-vsock", "not on PATH"], "cargo install --locked vhost-device-vsock");
        assert_refused("no vhost-device-vsock", &out, &want);
        user.assert_never_was();
    }
}

#[test]
fn a_port_in_use() {
    let user = User::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = format!("{}:80", address.port());
    let address = address.to_string();
    let words = [address.as_str(), "in use"];
    refuses(&user, &["up", "-d", "-p", "0:81", "-p", &port], &refusal(4, &words, "another program listens"));
    user.assert_never_was();

    // A VM that exists already stays, and starts when the port is free again.
    drop(taken);
    user.ok(&["up", "-d", "web", "-p", &port]);
    user.ok(&["down", "web"]);
    let taken = TcpListener::bind(&address).unwrap();
    refuses(&user, &["start", "-d", "web"], &refusal(4, &words, "another program listens"));
    user.assert_nothing_left();
    drop(taken);
    user.ok(&["start", "-d", "web"]);
    user.ok(&["rm", "-f", "web"]);
    user.assert_never_was();
}

/// Runs `mvmctl up` where `folder` is a disk of its own with next to no room. What it leaves there is told on stderr.
fn on_a_full_disk(user: &User, folder: &str) -> Output {
    let folder = user.home().join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let script = r#"mount -t tmpfs -o size=64k none "$0" && { "$@"; code=$?; find "$0" -mindepth 1 ! -name .lock >&2; exit $code; }"#;
    let up = user.command(&["up", "-d", "--name", "web"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script]).arg(&folder);
    command.arg(up.get_program()).args(up.get_args());
    for (name, value) in up.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    run(&mut command)
}

#[test]
fn a_full_disk() {
    if !Command::new("unshare").args(["--mount", "--map-root-user", "true"]).output().is_ok_and(|o| o.status.success())
    {
        println!("not run: this machine lets its users mount nothing");
        return;
    }
    let user = User::new();
    for (folder, error) in [
        (".cache/mvm/vms", &["config.ext4", "No space left on device"][..]),
        (".local/share/mvm/vms", &["rw.ext4", "No space left on device"]),
        (".cache/mvm/images", &[".cache/mvm/images"]),
    ] {
        assert_refused(folder, &on_a_full_disk(&user, folder), &refusal(1, error, "the disk is full"));
        user.assert_never_was();
    }
}

/// An image whose first process is this script.
fn image_with_init(user: &User, script: &str) -> PathBuf {
    let flake = flake::install(user);
    let (built, image) = (user.home().join("result"), user.home().join("image"));
    user.ok(&["build", &format!("{}#guest", flake.display()), "-o", built.to_str().unwrap()]);
    let initrd = user.home().join("initrd");
    std::fs::create_dir_all(initrd.join("bin")).unwrap();
    std::fs::create_dir(&image).unwrap();
    for file in ["image.json", "kernel", "rootfs.ext4"] {
        std::fs::copy(built.join(file), image.join(file)).unwrap();
    }
    std::fs::remove_file(built).unwrap();
    std::fs::copy(user.home().join("tools/bin/busybox"), initrd.join("bin/busybox")).unwrap();
    std::fs::write(initrd.join("init"), format!("#!/bin/busybox sh\n{script}\n")).unwrap();
    std::fs::set_permissions(initrd.join("init"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let pack = "printf '%s\\n' . bin bin/busybox init | cpio --quiet -o -H newc -R 0:0";
    let packed = Command::new("sh").args(["-c", pack]).current_dir(&initrd).output().unwrap();
    assert!(packed.status.success(), "{}", text(&packed.stderr));
    std::fs::write(image.join("initrd.cpio"), packed.stdout).unwrap();
    image
}

#[test]
fn a_guest_that_never_answers() {
    let user = User::new();
    let image = image_with_init(&user, "echo these are my last words\nexec busybox sleep 100000");
    let want = refusal(7, &["did not become ready within 5 s"], "--boot-timeout");
    let up = ["up", "-d", "--name", "web", "--boot-timeout", "5", "--image", image.to_str().unwrap()];
    let stderr = refuses(&user, &up, &want);
    assert!(stderr.contains("console: these are my last words\n"), "{stderr}");
    user.assert_never_was();
}

#[test]
fn a_guest_that_ends_at_once() {
    let user = User::new();
    let image = image_with_init(&user, "echo I give up\nexit 7");
    let want = refusal(10, &["ended before it was ready"], "above");
    let stderr = refuses(&user, &["up", "-d", "--name", "web", "--image", image.to_str().unwrap()], &want);
    assert!(stderr.contains("console: I give up\n"), "{stderr}");
    user.assert_never_was();
}

#[test]
fn an_image_that_proposes_more_memory_than_there_is() {
    let user = User::new();
    let image = image_with_init(&user, "exit 1");
    let path = image.join("image.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["defaults"]["memoryMiB"] = (16 << 20).into();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let want = refusal(2, &["16T", "this machine has"], "--memory 512M");
    refuses(&user, &["up", "-d", "--name", "web", "--image", image.to_str().unwrap()], &want);
    user.assert_never_was();
}

#[test]
fn a_name_that_is_taken() {
    let user = User::new();
    let flake = format!("{}#guest", flake::install(&user).display());
    // Two who want the same name at once: one of them gets it, whoever.
    let two = [(); 2].map(|()| {
        let mut up = user.command(&["up", "-d", "--name", "web"]);
        up.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let mut ended = two.map(|up| up.wait_with_output().unwrap());
    ended.sort_by_key(|out| out.status.code());
    assert_eq!(ended[0].status.code(), Some(0), "{}", text(&ended[0].stderr));
    assert_eq!(ended[1].status.code(), Some(4), "{}", text(&ended[1].stderr));

    refuses(&user, &["up", "-d", "web"], &refusal(4, &["web", "running"], "mvmctl down web"));
    refuses(&user, &["up", "-d", "web", "--flake", &flake], &refusal(4, &["web"], "mvmctl down web"));
    assert_eq!(user.ok(&["exec", "web", "--", "echo", "alive"]), "alive\n");
    user.ok(&["down", "web"]);
    refuses(&user, &["up", "-d", "web", "--flake", &flake], &refusal(4, &["web", "exists"], "mvmctl rm web"));
    refuses(&user, &["up", "-d", "web", "--memory", "128M"], &refusal(2, &["web", "--memory"], "mvmctl start web"));
    assert_eq!(user.gc_roots(), Vec::<String>::new());
    user.ok(&["rm", "web"]);
    user.assert_never_was();
}
