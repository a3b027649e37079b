//! `mvmctl dev` where the machine to work in is a VM.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;
#[path = "support/terminal.rs"]
mod terminal;

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use support::User;
use terminal::Terminal;

/// The built-in image, assembled by its first use.
fn image(user: &User) -> PathBuf {
    assert!(user.run(&["exec", "--", "true"]).status.success());
    let images = fs::read_dir(user.home().join(".cache/mvm/images")).unwrap();
    let mut names = images.map(|entry| entry.unwrap().path());
    names.find(|path| path.join("image.json").is_file()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_vm_with_the_project_in_it() {
    let user = User::new();
    let project = user.home().join("pro ject");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("file"), "of the host").unwrap();
    let command = |args: &[&str]| {
        let mut command = user.command(args);
        command.current_dir(&project).stdin(Stdio::null());
        command
    };
    let run = |args: &[&str]| command(args).output().unwrap();
    let state = || {
        let status: serde_json::Value = serde_json::from_slice(&run(&["dev", "status", "--json"]).stdout).unwrap();
        assert_eq!((status["kind"].as_str(), status["name"].as_str()), (Some("vm"), Some("dev")));
        status["state"].as_str().unwrap().to_owned()
    };

    assert_eq!(state(), "absent");
    let output = run(&["dev", "up"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("hint: `mvmctl image fetch dev`"), "{}", said(&output));
    assert_eq!(run(&["dev", "up", "--disk", "20"]).status.code(), Some(2));
    assert_eq!(run(&["dev", "down"]).status.code(), Some(3));
    assert_eq!(state(), "absent");

    let image = image(&user);
    let output = run(&["dev", "up", "--image", image.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(state(), "ready");
    let inside = "/root/pro ject/file";
    assert_eq!(run(&["exec", "dev", "--", "cat", inside]).stdout, b"of the host");

    // What was changed in it stays, whoever comes again.
    assert!(run(&["exec", "dev", "--", "sh", "-c", &format!("printf guest > '{inside}'")]).status.success());
    let output = run(&["dev", "up"]);
    assert!(output.status.success() && said(&output).contains("is there already"), "{}", said(&output));
    let output = run(&["dev", "up", "--cpus", "2"]);
    assert!(output.status.code() == Some(2) && said(&output).contains("--cpus"), "{}", said(&output));
    assert!(run(&["dev", "down"]).status.success());
    assert_eq!(state(), "stopped");

    // Alone it starts what is stopped, and leads into the project.
    let mut terminal = Terminal::spawn(&mut command(&["dev"]), 24, 80);
    terminal.type_in("echo $(pwd): $(cat file); exit 4\n");
    terminal.until("/root/pro ject: guest");
    assert_eq!(terminal.end().0.code(), Some(4));
    assert!(run(&["down", "dev", "--rm"]).status.success());
    assert_eq!(state(), "absent");
}
