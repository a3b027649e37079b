//! From a flake to a VM and back, through the program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::{User, flake};

/// How long a service may take to answer after its VM is ready.
const ANSWER: Duration = Duration::from_secs(60);

/// One request to the guest's web server. A connection that is taken before the server listens ends without an answer.
fn get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    // Each side ends its direction by itself: ours goes first, and the answer still comes, with an end.
    stream.shutdown(Shutdown::Write).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

fn get_in_time(address: SocketAddr) -> String {
    let from = Instant::now();
    loop {
        if let Some(answer) = get(address) {
            return answer;
        }
        assert!(from.elapsed() < ANSWER, "nobody answers on {address}");
        std::thread::yield_now();
    }
}

/// The one VM of `ls --json`.
fn listed(user: &User) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&user.ok(&["ls", "-a", "--json"])).unwrap();
    let [vm] = all.as_array().unwrap().as_slice() else { panic!("{all}") };
    vm.clone()
}

/// Where the guest's web server is published.
fn address(vm: &serde_json::Value) -> SocketAddr {
    let port = vm["record"]["ports"][0].as_str().unwrap();
    port.strip_suffix(":8080").unwrap_or_else(|| panic!("{port}")).parse().unwrap()
}

fn assert_serves(user: &User) {
    let vm = listed(user);
    assert_eq!((&vm["spec"]["name"], &vm["record"]["state"]), (&"web".into(), &"ready".into()), "{vm:#}");
    let answer = get_in_time(address(&vm));
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("hello from the fixture flake\n"), "{answer}");
    // What the image sets and what the user sets.
    let shown = user.ok(&["exec", "web", "--", "sh", "-c", "echo $MVM_FIXTURE $COLOUR"]);
    assert_eq!(shown, "guest green\n");
}

#[test]
fn from_a_flake_to_a_service_and_back() {
    User::of_each_nix().into_iter().for_each(there_and_back);
}

fn there_and_back(user: User) {
    let folder = flake::install(&user);
    let flake = format!("{}#guest", folder.display());
    user.ok(&["up", "-d", "--name", "web", "--flake", &flake, "-p", "0:8080", "-e", "COLOUR=green"]);
    user.ok(&["wait", "web"]);
    assert_serves(&user);
    let vm = listed(&user);
    assert_eq!((&vm["spec"]["vcpus"], &vm["spec"]["memoryMiB"]), (&1.into(), &256.into()), "the image's defaults");
    assert_eq!(vm["spec"]["source"]["flake"], flake.as_str());
    let image = vm["spec"]["image"].as_str().unwrap();
    assert!(image.starts_with("/nix/store/") && image.ends_with("-mvm-fixture-guest"), "{image}");
    // One root, the VM's own: it is kept for as long as the VM is there, running or not.
    let roots = [format!("{}/.local/share/mvm/vms/web/gcroot -> {image}", user.home().display())];
    assert_eq!(user.gc_roots(), roots);

    user.ok(&["down", "web"]);
    user.assert_nothing_left();
    assert!(TcpStream::connect(address(&vm)).is_err(), "the port is free again");
    assert_eq!(listed(&user)["record"]["state"], "stopped");
    assert_eq!(user.gc_roots(), roots);

    // Without the flake: what was built is all that it needs.
    std::fs::remove_dir_all(&folder).unwrap();
    user.ok(&["start", "-d", "web"]);
    assert_serves(&user);
    user.ok(&["down", "web", "--rm"]);
    user.assert_never_was();
}

#[test]
fn what_is_built_is_printed_and_kept() {
    let user = User::new();
    let flake = format!("{}#guest", flake::install(&user).display());
    let image = user.ok(&["build", &flake]);
    let image = image.trim_end();
    assert!(image.starts_with("/nix/store/") && image.ends_with("-mvm-fixture-guest"), "{image}");
    assert_eq!(user.gc_roots(), [format!("{}/.local/share/mvm/gcroots/.last-build -> {image}", user.home().display())]);
    let link = user.home().join("result");
    let built = user.ok(&["build", "--flake", &flake, "--json", "-o", link.to_str().unwrap()]);
    let built: serde_json::Value = serde_json::from_str(&built).unwrap();
    assert_eq!(built["path"], image);
    assert_eq!(built["image"]["name"], "guest");
    assert_eq!(std::fs::read_link(&link).unwrap().to_str(), Some(image));
    let roots = user.gc_roots();
    assert_eq!(roots.len(), 2);

    // What is no image does not take its place, neither evaluated nor remembered.
    let rootfs = flake.replace("#guest", "#rootfs");
    for _ in 0..2 {
        let error = user.fails(9, &["build", &rootfs, "-o", link.to_str().unwrap()]);
        assert!(error.contains("has no image.json"), "{error}");
        user.fails(9, &["build", &rootfs]);
        assert_eq!(user.gc_roots(), roots);
    }

    // The link is an image like any other.
    user.ok(&["up", "-d", "linked", "--image", link.to_str().unwrap()]);
    assert_eq!(user.ok(&["exec", "linked", "--", "cat", "/srv/www/index.html"]), "hello from the fixture flake\n");
    user.ok(&["rm", "-f", "linked"]);
    assert_eq!(user.gc_roots().len(), 2, "what the user keeps is the user's");
    user.assert_nothing_left();
}
