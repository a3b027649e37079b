//! Guests with an init of their own: stage 1 hands over to it, and the agent serves beside it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;
#[path = "support/terminal.rs"]
mod terminal;

use std::process::Command;
use std::time::{Duration, Instant};
use support::{User, flake, text};
use terminal::Terminal;

/// How long an agent that was killed may take to be back.
const BACK: Duration = Duration::from_secs(60);

fn sh(user: &User, script: &str) -> String {
    user.ok(&["exec", "own", "--", "sh", "-c", script])
}

fn inspect(user: &User) -> serde_json::Value {
    serde_json::from_str(&user.ok(&["inspect", "own", "--json"])).unwrap()
}

#[test]
fn the_agent_serves_beside_another_init() {
    // Once from an initrd, once from the bare root that the kernel has mounted.
    for user in [User::with_stock_kernel(), User::new()] {
        let flake = format!("{}#own-init", flake::install(&user).display());
        let token = user.home().join("token");
        std::fs::write(&token, "a secret").unwrap();
        let token = format!("token={}", token.display());
        user.ok(&["up", "-d", "own", "--flake", &flake, "--secret", &token]);
        // Its health check passes: what its init mounts is there.
        user.ok(&["wait", "own"]);
        assert_is_handed_over(&user);
        assert_has_what_it_was_given(&user);
        assert_serves(&user);
        assert_keeps_what_it_wrote(&user, &token);
        user.ok(&["down", "own", "--rm", "--volumes"]);
        user.assert_never_was();
    }
}

fn assert_is_handed_over(user: &User) {
    // busybox's init, with its arguments, the kernel's environment, and three streams that lead to the console.
    let init = sh(
        user,
        "cat /proc/1/comm; tr '\\0' '\\n' </proc/1/environ; cd /proc/1/fd; ls; for n in *; do readlink $n; done",
    );
    let console = "/dev/console\n".repeat(3);
    assert_eq!(init, format!("init\nHOME=/\nTERM=linux\n0\n1\n2\n{console}"));
    // Names and machine-id are there for it, and the key is not: the config drive is mounted nowhere.
    let id = inspect(user)["spec"]["machineId"].as_str().unwrap().to_owned();
    let names = sh(user, "hostname; cat /etc/hostname /etc/machine-id; grep -c own /etc/hosts");
    assert_eq!(names, format!("own\nown\n{id}\n1\n"));
    let mounts = sh(user, "cut -d ' ' -f 2,3 /proc/mounts");
    for mount in ["/ overlay", "/proc proc", "/sys sysfs", "/dev devtmpfs", "/dev/pts devpts", "/run tmpfs"] {
        assert!(mounts.lines().any(|line| line == mount), "{mount}: {mounts}");
    }
    // One drive, which is the volume, and no other.
    let drives: Vec<_> = mounts.lines().filter(|line| line.ends_with(" ext4")).collect();
    assert_eq!(drives, ["/srv/data ext4"], "{mounts}");
}

fn assert_has_what_it_was_given(user: &User) {
    // Whose it is, before its init begins; and by now nowhere on the host.
    let seen = sh(user, "stat -c '%u %g %a' /srv/data /run/secrets/token; readlink /etc/app/token; cat /etc/app/token");
    assert_eq!(seen, "1000 1000 750\n0 1000 440\n/run/secrets/token\na secret");
    let found =
        Command::new("find").arg(user.home()).args(["-name", "config.ext4", "-o", "-name", "secrets.ext4"]).output();
    let found = text(&found.unwrap().stdout);
    assert!(found.contains("config.ext4") && !found.contains("secrets.ext4"), "{found}");
}

fn assert_serves(user: &User) {
    let file = user.home().join("file");
    std::fs::write(&file, "kept").unwrap();
    user.ok(&["cp", file.to_str().unwrap(), "own:/root/file"]);
    assert_eq!(user.ok(&["exec", "own", "--", "cat", "/root/file"]), "kept");
    let command = ["console", "own", "--command", "sh", "-c", "tty; exit 3"];
    let (status, said) = Terminal::spawn(&mut user.command(&command), 24, 80).end();
    assert!(status.code() == Some(3) && said.contains("/dev/pts/"), "{status}: {said}");
    // One that is killed is started again by the init, tells the host of itself, and serves on.
    let _ = user.run(&["exec", "own", "--", "sh", "-c", "kill -9 $PPID"]);
    let from = Instant::now();
    while !user.run(&["exec", "own", "--", "true"]).status.success() {
        assert!(from.elapsed() < BACK, "the agent does not come back");
    }
    assert_eq!(inspect(user)["record"]["state"], "ready");
}

fn assert_keeps_what_it_wrote(user: &User, token: &str) {
    // Written a moment before the end, and synced by nobody but the init.
    sh(user, "echo last words >/srv/data/last");
    sh(user, "echo last words >/root/last; mkdir -p /srv/many; for n in $(seq 200); do echo $n >/srv/many/$n; done");
    user.ok(&["down", "own"]);
    user.assert_nothing_left();
    let vm = inspect(user);
    assert_eq!(
        (&vm["record"]["state"], &vm["record"]["exit"]["kind"]),
        (&"stopped".into(), &"requested".into()),
        "{vm:#}"
    );
    // The init has unmounted the volume.
    let volume = user.home().join(".local/share/mvm/volumes/own/data.ext4");
    let checked = Command::new("/sbin/e2fsck").arg("-fn").arg(&volume).output().unwrap();
    assert!(checked.status.success(), "{}", text(&checked.stdout));
    // The journal makes the layer whole, and nothing else is wrong with it.
    let layer = user.home().join(".local/share/mvm/vms/own/rw.ext4");
    let copy = user.home().join("layer");
    // Holes stay holes: the layer is sparse.
    assert!(Command::new("cp").arg(layer).arg(&copy).status().unwrap().success());
    let checked = Command::new("/sbin/e2fsck").arg("-fp").arg(&copy).output().unwrap();
    assert!(matches!(checked.status.code(), Some(0 | 1)), "{}", text(&checked.stdout));

    let start = ["start", "-d", "own", "--secret", token];
    user.ok(&start);
    assert_eq!(
        sh(user, "cat /root/file /root/last /srv/data/last; ls /srv/many | wc -l; cat /srv/many/200 /etc/app/token"),
        "keptlast words\nlast words\n200\n200\na secret"
    );
    // Asked while its agent is not there, it ends in order all the same: the agent announces itself again.
    let _ = user.run(&["exec", "own", "--", "sh", "-c", "kill -9 $PPID"]);
    user.ok(&["down", "own"]);
    let vm = inspect(user);
    assert_eq!(vm["record"]["exit"]["kind"], "requested", "{vm:#}");
    user.ok(&start);
    // A guest that ends by itself says so, and is not taken for one that crashed.
    let _ = user.run(&["exec", "own", "--", "reboot"]);
    let _ = user.run(&["wait", "own", "--until", "stopped"]);
    let vm = inspect(user);
    assert_eq!(
        (&vm["record"]["state"], &vm["record"]["exit"]["kind"]),
        (&"stopped".into(), &"guest-powered-off".into()),
        "{vm:#}"
    );
}

#[test]
fn an_init_that_is_missing_is_told() {
    let user = User::new();
    let flake = format!("{}#missing-init", flake::install(&user).display());
    let stderr = user.fails(10, &["up", "-d", "gone", "--flake", &flake]);
    assert!(stderr.contains("the image's init \"/no/such/init\" cannot be executed: No such file"), "{stderr}");
    user.assert_never_was();
}
