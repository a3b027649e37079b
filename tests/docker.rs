//! VMs that are containers, on a real Docker: what is theirs alone. The rest is in tests/conformance.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::docker::Daemon;
use support::events::Process;
use support::{User, text};

const UP: &[&str] = &["up", "-d", "--hypervisor", "docker", "--name", "one", "--memory", "128M"];

/// Asserts that nothing of VMs is left, here or at Docker.
fn nothing_left(user: &User, daemon: &Daemon) {
    user.assert_nothing_left();
    assert_eq!(daemon.containers(), []);
}

fn record(user: &User, vm: &str) -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(&user.ok(&["inspect", vm, "--json"])).unwrap()["record"].clone()
}

fn process(record: &serde_json::Value, field: &str) -> Process {
    Process::open(u32::try_from(record[field].as_u64().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_container_goes_with_its_vm() {
    let Some(daemon) = Daemon::start() else { return };
    let user = User::with_docker(&daemon);
    let up = user.run(UP);
    assert!(up.status.success(), "{}", text(&up.stderr));
    assert!(text(&up.stderr).contains("weaker wall"), "{}", text(&up.stderr));
    user.ok(&["exec", "one", "--", "sh", "-c", "echo kept > /root/file"]);
    user.ok(&["pause", "one"]);
    assert_eq!(daemon.containers()[0].1, "paused");
    // The layer is the VM's until it is removed, and not a day longer.
    user.ok(&["down", "one", "--rm"]);
    nothing_left(&user, &daemon);
    user.ok(UP);
    user.fails(1, &["exec", "one", "--", "cat", "/root/file"]);
    user.ok(&["rm", "--force", "one"]);
    nothing_left(&user, &daemon);
    // One that removes itself.
    user.ok(&[UP, &["--rm"]].concat());
    user.ok(&["down", "one"]);
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    nothing_left(&user, &daemon);
}

#[test]
fn an_image_is_imported_once() {
    let Some(daemon) = Daemon::start() else { return };
    let user = User::with_docker(&daemon);
    let up = |name: &'static str| ["up", "-d", "--hypervisor", "docker", "--name", name, "--memory", "64M"];
    // Two at once import it once.
    let begin = |name| user.command(&up(name)).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    for mut child in [begin("one"), begin("two")] {
        assert!(child.wait().unwrap().success());
    }
    let images = daemon.images();
    assert_eq!(images.len(), 1);
    user.ok(&["down", "--rm", "one", "two"]);
    user.ok(&up("three"));
    assert_eq!(daemon.images(), images);
    user.ok(&["down", "--rm", "three"]);
    // A root that has changed is imported in place of what it was.
    let image = builtin(&user);
    let copy = user.home().join("image");
    std::fs::create_dir(&copy).unwrap();
    for name in ["kernel", "initrd.cpio", "rootfs.ext4", "image.json"] {
        std::fs::write(copy.join(name), std::fs::read(image.join(name)).unwrap()).unwrap();
    }
    let given = copy.to_str().unwrap();
    user.ok(&[&up("four")[..], &["--image", given]].concat());
    user.ok(&["down", "--rm", "four"]);
    let before = daemon.images();
    assert_eq!(before.len(), 2);
    let rootfs = std::fs::File::options().write(true).open(copy.join("rootfs.ext4")).unwrap();
    rootfs.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    user.ok(&[&up("five")[..], &["--image", given]].concat());
    user.ok(&["down", "--rm", "five"]);
    assert_eq!(daemon.images().len(), 2);
    assert_ne!(daemon.images(), before);
    refuses_what_takes_a_drive(&user, &copy);
    // Damage is found while it is read, and nothing half imported stays.
    rootfs.write_all_at(&[0xff; 8192], 4096).unwrap();
    let failed = user.fails(9, &[&up("six")[..], &["--image", given]].concat());
    assert!(failed.contains("cannot be read") && failed.contains("hint:"), "{failed}");
    // An agent of before knows nothing of containers.
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(copy.join("image.json")).unwrap()).unwrap();
    manifest["agent"]["features"].as_array_mut().unwrap().retain(|feature| feature != "container");
    std::fs::write(copy.join("image.json"), manifest.to_string()).unwrap();
    let failed = user.fails(9, &[&up("six")[..], &["--image", given]].concat());
    assert!(failed.contains("cannot run in a container") && failed.contains("--hypervisor"), "{failed}");
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    assert_eq!(daemon.images().len(), 2);
    nothing_left(&user, &daemon);
}

/// An image of this folder that asks for what is a drive in a VM is refused by name.
fn refuses_what_takes_a_drive(user: &User, image: &Path) {
    let path = image.join("image.json");
    let manifest = std::fs::read(&path).unwrap();
    let given = image.to_str().unwrap();
    let mut of: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    of["rootfs"]["readOnly"] = true.into();
    for what in ["the image's read-only root", "the VM's volumes"] {
        std::fs::write(&path, of.to_string()).unwrap();
        let said = user.fails(2, &["up", "-d", "--hypervisor", "docker", "--name", "seven", "--image", given]);
        assert!(said.contains(&format!("docker cannot honour {what}")) && said.contains("\nhint: "), "{said}");
        of["volumes"] = serde_json::json!([{"name": "data", "mountPoint": "/data"}]);
    }
    std::fs::write(path, manifest).unwrap();
    assert!(!user.home().join(".local/share/mvm/volumes/seven").exists());
}

#[test]
fn what_takes_a_drive_is_refused_before_anything_is_made() {
    // Without a daemon: it is not asked.
    let user = User::new();
    let flake = user.home().join("flake");
    std::fs::create_dir(&flake).unwrap();
    // Nothing that could be built.
    std::fs::write(flake.join("flake.nix"), "not Nix").unwrap();
    user.ok(&["template", "create", "site", "--flake", flake.to_str().unwrap(), "--hypervisor", "docker"]);
    for from in [&["--hypervisor", "docker"][..], &["--template", "site"]] {
        for (option, value) in [("--volume", "data:/data"), ("--secret", "token=/etc/hostname")] {
            let said = user.fails(2, &[&["up", "-d", "one"][..], from, &[option, value]].concat());
            assert!(said.contains(&format!("docker cannot honour {option}")) && said.contains("\nhint: "), "{said}");
        }
    }
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    user.assert_nothing_left();
}

#[test]
fn an_import_that_nobody_wants_any_more_ends() {
    let Some(daemon) = Daemon::start() else { return };
    let user = User::with_docker(&daemon);
    // Much to import, and little to make: one large hole.
    user.ok(&["up", "-d", "--hypervisor", "docker", "--name", "one", "--memory", "64M", "--rm"]);
    user.ok(&["down", "one"]);
    let (images, copy) = (daemon.images(), user.home().join("image"));
    std::fs::create_dir_all(user.home().join("root")).unwrap();
    std::fs::create_dir(&copy).unwrap();
    for name in ["kernel", "initrd.cpio"] {
        std::fs::copy(builtin(&user).join(name), copy.join(name)).unwrap();
    }
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(builtin(&user).join("image.json")).unwrap()).unwrap();
    manifest["rootfs"]["sizeBytes"] = (1 << 30).into();
    std::fs::write(copy.join("image.json"), manifest.to_string()).unwrap();
    let file = |path: PathBuf, length| std::fs::File::create(path).unwrap().set_len(length).unwrap();
    file(copy.join("rootfs.ext4"), 1 << 30);
    file(user.home().join("root/hole"), 7 << 30);
    let mut mke2fs = std::process::Command::new("mke2fs");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let args = ["-q", "-F", "-t", "ext4", "-L", "mvm-root", "-d"];
    let made = mke2fs.env("PATH", path).args(args).arg(user.home().join("root")).arg(copy.join("rootfs.ext4"));
    assert!(made.status().unwrap().success());
    let up = ["up", "-d", "--hypervisor", "docker", "--name", "two", "--image", copy.to_str().unwrap()];
    let mut up = user.command(&up).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(up.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("importing")));
    rustix::process::kill_process(rustix::process::Pid::from_child(&up), Signal::INT).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(130));
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
    assert_eq!(daemon.images(), images);
    nothing_left(&user, &daemon);
}

fn builtin(user: &User) -> PathBuf {
    let images = user.home().join(".cache/mvm/images");
    let is_builtin = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("builtin-");
    images.read_dir().unwrap().map(|entry| entry.unwrap().path()).find(is_builtin).unwrap()
}

#[test]
fn an_image_that_nix_built_is_a_container_too() {
    let Some(daemon) = Daemon::start() else { return };
    let user = User::with_docker(&daemon);
    let flake = support::flake::install(&user);
    let up = ["up", "-d", "--hypervisor", "docker", "--name", "web", "-p", "0:8080", "--flake"];
    user.ok(&[&up[..], &[&format!("path:{}", flake.display())]].concat());
    user.ok(&["wait", "web"]);
    // Its service answers on a published port, as a user of its own.
    let port = record(&user, "web")["ports"][0].as_str().unwrap().to_owned();
    let address: std::net::SocketAddr = port.strip_suffix(":8080").unwrap().parse().unwrap();
    let answer = std::iter::repeat_with(|| {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut answer = String::new();
        // One that is taken before the server listens ends without an answer.
        let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
        asked.map(|_| answer).unwrap_or_default()
    });
    let until = std::time::Instant::now() + support::events::DEADLINE;
    let answer = answer.take_while(|_| std::time::Instant::now() < until).find(|answer| !answer.is_empty());
    assert!(answer.unwrap().ends_with("hello from the fixture flake\n"));
    user.ok(&["down", "--rm", "web"]);
    nothing_left(&user, &daemon);
}

#[test]
fn a_container_dies_with_its_supervisor() {
    let Some(daemon) = Daemon::start() else { return };
    let user = User::with_docker(&daemon);
    user.ok(UP);
    user.ok(&[
        "exec",
        "one",
        "--",
        "sh",
        "-c",
        "echo kept > /root/file; setsid sleep 1000 </dev/null >/dev/null 2>&1 &",
    ]);
    let at = record(&user, "one");
    let (pid_1, supervisor) = (process(&at, "vmmPid"), process(&at, "supervisorPid"));
    supervisor.signal(Signal::KILL);
    supervisor.gone();
    pid_1.gone();
    assert!(user.ok(&["ls", "-a"]).contains("failed"));
    user.assert_nothing_left();
    // What it had is there, and it starts again.
    user.ok(&["start", "-d", "one"]);
    assert_eq!(user.ok(&["exec", "one", "--", "cat", "/root/file"]), "kept\n");
    // One that is frozen notices nothing: whoever looks next ends it.
    for looks in [&["ls", "-a"][..], &["start", "-d", "one"]] {
        user.ok(&["pause", "one"]);
        let at = record(&user, "one");
        let pid_1 = process(&at, "vmmPid");
        let supervisor = process(&at, "supervisorPid");
        supervisor.signal(Signal::KILL);
        supervisor.gone();
        user.ok(looks);
        pid_1.gone();
        if looks[0] == "ls" {
            assert_eq!(daemon.containers()[0].1, "exited");
            user.ok(&["start", "-d", "one"]);
        }
    }
    // PID 1 dies, and the supervisor tells.
    let at = record(&user, "one");
    process(&at, "vmmPid").signal(Signal::KILL);
    process(&at, "supervisorPid").gone();
    let said = record(&user, "one")["fault"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("signal 9"), "{said}");
    // `rm` of one that was paused and left.
    user.ok(&["start", "-d", "one"]);
    user.ok(&["pause", "one"]);
    let supervisor = process(&record(&user, "one"), "supervisorPid");
    supervisor.signal(Signal::KILL);
    supervisor.gone();
    user.ok(&["rm", "one"]);
    nothing_left(&user, &daemon);
}

#[test]
fn docker_that_hangs_keeps_no_container_alive() {
    let Some(mut daemon) = Daemon::start() else { return };
    let user = User::with_docker(&daemon);
    user.ok(UP);
    let pid_1 = process(&record(&user, "one"), "vmmPid");
    daemon.signal(Signal::STOP);
    let down = user.command(&["down", "one", "--force"]).spawn().unwrap();
    pid_1.gone();
    daemon.signal(Signal::CONT);
    assert!(down.wait_with_output().unwrap().status.success());
    user.ok(&["rm", "one"]);
    nothing_left(&user, &daemon);
    daemon.stop();
}

#[test]
fn docker_that_goes_away_is_told() {
    let Some(mut daemon) = Daemon::start() else { return };
    let user = User::with_docker(&daemon);
    let doctor: serde_json::Value = serde_json::from_str(&user.ok(&["doctor", "--json"])).unwrap();
    let backends = doctor["backends"].as_array().unwrap();
    let docker = backends.iter().find(|backend| backend["hypervisor"] == "docker").unwrap();
    assert_eq!((&docker["usable"], &docker["accelerator"]), (&true.into(), &"container".into()));
    // Where it is chosen without being named, it stays so: the VM's layer lies in it.
    let named: &[&str] = if doctor["chosen"]["hypervisor"] == "docker" {
        &["up", "-d", "--name", "one", "--memory", "128M"]
    } else {
        UP
    };
    for end in [Daemon::stop as fn(&mut Daemon), Daemon::kill] {
        user.ok(named);
        let at = record(&user, "one");
        let (pid_1, supervisor) = (process(&at, "vmmPid"), process(&at, "supervisorPid"));
        end(&mut daemon);
        supervisor.gone();
        // Killed or not, it leaves no container behind that runs.
        pid_1.gone();
        let now = record(&user, "one");
        assert!(["failed", "stopped"].contains(&now["state"].as_str().unwrap()), "{now}");
        let failed = user.fails(5, &["start", "-d", "one"]);
        assert!(failed.contains("no Docker daemon listens") && failed.contains("DOCKER_HOST"), "{failed}");
        user.assert_nothing_left();
        // A VM can be removed all the same; its container goes when Docker is there again.
        let removed = user.run(&["rm", "one"]);
        assert!(removed.status.success() && text(&removed.stderr).contains("warning:"), "{}", text(&removed.stderr));
        daemon.start_again();
        assert_eq!(daemon.containers().len(), 1);
        user.ok(&["up", "-d", "--hypervisor", "docker", "--name", "other", "--memory", "64M"]);
        user.ok(&["down", "--rm", "other"]);
        nothing_left(&user, &daemon);
    }
}

#[test]
fn a_container_is_kept_in_bounds() {
    let Some(daemon) = Daemon::start() else { return };
    let user = User::with_docker(&daemon);
    user.ok(UP);
    let fails = |script: &str| {
        let out = user.run(&["exec", "one", "--", "sh", "-c", script]);
        assert!(!out.status.success(), "{script}: {}", text(&out.stdout));
    };
    // Nothing that is the host's: a reboot, devices, mounts, names, links, and the folder of its sockets.
    for script in [
        "reboot -f",
        "mknod /root/disk b 8 0",
        "mount -t tmpfs none /mnt",
        "hostname other",
        "touch /proc/sysrq-trigger",
        "touch /run/mvm/file",
        "rm /run/mvm/announce.sock",
        "umount /run/mvm",
        "ip link add type dummy",
    ] {
        fails(script);
    }
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, net_bind_service, sys_chroot (capabilities(7)).
    assert_eq!(user.ok(&["exec", "one", "--", "grep", "CapBnd", "/proc/self/status"]), "CapBnd:\t00000000000404fb\n");
    assert_eq!(user.ok(&["exec", "one", "--", "grep", "NoNewPrivs", "/proc/self/status"]), "NoNewPrivs:\t1\n");
    assert_eq!(user.ok(&["exec", "one", "--", "ls", "/sys/class/net"]), "lo\n");
    // A user of the guest's gets at neither.
    let out = user.run(&["exec", "-u", "1000", "one", "--", "ls", "/run/mvm"]);
    assert!(!out.status.success());
    // Nothing of its keys lies anywhere that the host could forget.
    let keys = std::fs::read_to_string(user.home().join(".local/share/mvm/vms/one/keys.json")).unwrap();
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    let secret = keys.as_object().unwrap().values().find_map(|key| key.as_str().filter(|k| k.len() >= 64)).unwrap();
    let inspected = daemon.get(&format!("/containers/{}/json", daemon.containers()[0].0.trim_start_matches('/')));
    assert!(!inspected.to_string().contains(secret));
    // What needs a drive is refused by name.
    let secret = user.home().join("secret");
    std::fs::write(&secret, "s3cret").unwrap();
    let up = ["up", "-d", "--hypervisor", "docker", "--name", "two"];
    for (option, what) in
        [("--volume=data:/data", "--volume"), (&format!("--secret=key={}", secret.display()), "--secret")]
    {
        let refused = user.fails(2, &[&up[..], &[option]].concat());
        assert!(refused.contains(&format!("docker cannot honour {what}")), "{refused}");
    }
    // More memory than it has ends what takes it, or the VM: never the host's.
    let eats = "x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let out = user.run(&["exec", "one", "--", "sh", "-c", eats]);
    assert!(!out.status.success(), "{}", text(&out.stdout));
    user.ok(&["rm", "--force", "one"]);
    nothing_left(&user, &daemon);
}

#[test]
fn why_docker_cannot_be_used_is_told() {
    let user = User::new();
    let up = |host: &str| {
        let out = user.command(UP).env("DOCKER_HOST", host).stdin(Stdio::null()).output().unwrap();
        assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
        text(&out.stderr)
    };
    let said = up("tcp://127.0.0.1:2375");
    assert!(said.contains("tcp://127.0.0.1:2375") && said.contains("not on this machine"), "{said}");
    let none = user.home().join("none.sock");
    let said = up(&format!("unix://{}", none.display()));
    assert!(said.contains("none.sock") && said.contains("systemctl start docker"), "{said}");
    let dead = user.home().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(up(&format!("unix://{}", dead.display())).contains("no Docker daemon listens"));
    // Somebody who takes connections and is not Docker.
    let other = user.home().join("other.sock");
    let listener = std::os::unix::net::UnixListener::bind(&other).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| drop(stream.unwrap().write_all(b"220 smtp\r\n"))));
    assert!(up(&format!("unix://{}", other.display())).contains("does not answer as it should"));
    for socket in [dead, other] {
        std::fs::remove_file(socket).unwrap();
    }
    user.assert_never_was();
}
