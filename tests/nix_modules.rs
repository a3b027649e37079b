//! Images made from guest modules: from options to a guest that does what they say.
//!
//! The options are evaluated with nixpkgs' lib, so these run where `MVM_TEST_NIXPKGS_LIB` names one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::{Path, PathBuf};
use support::{User, flake};

/// The fixture with its inputs, in a user's home. `None`, and a word of it, where there is no lib.
fn install(user: &User) -> Option<PathBuf> {
    let lib = std::env::var_os("MVM_TEST_NIXPKGS_LIB").map(PathBuf::from).or_else(|| {
        let nixpkgs = std::env::var_os("MVM_TEST_NIXPKGS")?;
        Some(Path::new(&nixpkgs).join("lib"))
    });
    let Some(lib) = lib else {
        println!("not run: set MVM_TEST_NIXPKGS_LIB to the folder lib of a nixpkgs");
        return None;
    };
    let guest = flake::install(user);
    let tools = user.home().join("tools");
    let folder = user.home().join("modules");
    std::fs::create_dir(&folder).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/flakes/modules");
    for entry in fixture.read_dir().unwrap() {
        let entry = entry.unwrap();
        let mut content = std::fs::read_to_string(entry.path()).unwrap();
        for (input, place) in [("tools", &tools), ("nixpkgs-lib", &lib), ("guest", &guest)] {
            content = content.replace(
                &format!("\"path:/override-the-input-{input}\""),
                &format!("\"path:{}\"", place.canonicalize().unwrap().display()),
            );
        }
        std::fs::write(folder.join(entry.file_name()), content).unwrap();
    }
    Some(folder)
}

#[test]
fn a_guest_is_what_its_options_say() {
    // With modules in an initrd, and without an initrd at all.
    for user in [User::with_stock_kernel(), User::new()] {
        let Some(folder) = install(&user) else { return };
        let flake = format!("{}#web", folder.display());
        let key = user.home().join("key");
        std::fs::write(&key, "of the web").unwrap();
        let key = format!("key={}", key.display());
        // With more drives than a machine without ACPI has room for.
        let more = ["-v", "a:/a:16M", "-v", "b:/b:16M", "-v", "c:/c:16M"];
        user.ok(&[&["up", "-d", "web", "--flake", &flake, "--secret", &key][..], &more].concat());
        // Its health check passes: the server runs as its user, from a store path that only its command names.
        user.ok(&["wait", "web"]);
        let vm: serde_json::Value = serde_json::from_str(&user.ok(&["inspect", "web", "--json"])).unwrap();
        assert_eq!((&vm["spec"]["memoryMiB"], &vm["spec"]["vcpus"]), (&192.into(), &1.into()), "{vm:#}");
        let port = vm["spec"]["ports"][0].as_str().unwrap();
        assert!(port.ends_with(":8080"), "{port}");

        let run = |script: &str| user.ok(&["exec", "web", "--", "sh", "-c", script]);
        assert_eq!(run("wget -q -O - http://127.0.0.1:8080/"), "hello from a guest module\n");
        assert_eq!(run("cat /var/lib/web/user; stat -c '%U %a' /var/lib/web"), "web\nweb 750\n");
        assert_eq!(
            run("stat -c '%n %a %U %G' /etc/secretive '/etc/page copy'").lines().collect::<Vec<_>>(),
            ["/etc/secretive 640 root readers", "/etc/page copy 600 web web"]
        );
        assert_eq!(
            run("hostname; stat -c '%U %G %a' /srv/pages; ls -d /a /b /c"),
            "site\nweb readers 750\n/a\n/b\n/c\n"
        );
        assert_eq!(
            run("grep -c ' ext4 rw' /proc/mounts; stat -L -c '%U %a' /etc/web/key; cat /etc/web/key"),
            "4\nweb 400\nof the web"
        );
        assert_eq!(run("cat /etc/motd /etc/page/index.html"), "welcome\nhello from a guest module\n");
        assert_eq!(run("hello you; echo $MVM_FIXTURE"), "hello, you\nmodules\n");
        assert_eq!(run("grep -c ^10.9.8.7 /etc/hosts; id -Gn web"), "1\nweb readers\n");
        // Odd names survive, and whether equal files are one is not left to the host's store.
        assert_eq!(run("cat $ODD/link $ODD/*; stat -c '%h %U' $ODD/one"), "one\none\none\none\none\n1 root\n");
        user.ok(&["down", "web", "--rm", "--volumes"]);
        user.assert_never_was();
    }
}

#[test]
fn a_sealed_guest_lets_nobody_in() {
    let user = User::new();
    let Some(folder) = install(&user) else { return };
    user.ok(&["up", "-d", "closed", "--flake", &format!("{}#closed", folder.display())]);
    for args in [&["exec", "closed", "--", "true"][..], &["cp", "closed:/etc/passwd", "."]] {
        let stderr = user.fails(8, args);
        assert!(stderr.contains("policy"), "{args:?}: {stderr}");
    }
    user.ok(&["down", "closed"]);
    assert!(user.ok(&["logs", "closed"]).contains("powered off cleanly"));
    assert!(!user.home().join(".local/share/mvm/vms/closed/rw.ext4").exists());
    user.ok(&["rm", "closed"]);
    user.assert_never_was();
}

#[test]
fn options_that_contradict_each_other_are_told() {
    let user = User::new();
    let Some(folder) = install(&user) else { return };
    let closed = folder.join("closed.nix");
    let text = std::fs::read_to_string(&closed).unwrap();
    std::fs::write(&closed, text.replace("sealed = true;", "sealed = true; access.exec = true;")).unwrap();
    let stderr = user.fails(6, &["build", &format!("{}#closed", folder.display())]);
    assert!(stderr.contains("the image is sealed, but access.exec is open"), "{stderr}");
    user.assert_never_was();
}
