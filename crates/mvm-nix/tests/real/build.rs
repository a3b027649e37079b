//! Builds that succeed: outputs, events, GC roots, arguments.

use crate::world::{this_system, worlds};
use mvm_nix::{Activity, BuildEvent, Place, ProgressState, StorePath};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_build_has_events_an_output_and_a_gc_root() {
    for world in worlds() {
        let version = world.nix.version().await.unwrap();
        let (mut events, mut progress, mut seen) = (Vec::new(), ProgressState::default(), Vec::new());
        let output = world
            .nix
            .build(&world.request("./flake"), |event| {
                if progress.apply(event) {
                    seen.push(progress.snapshot());
                }
                events.push(event.clone());
            })
            .await
            .unwrap_or_else(|e| panic!("{version}: {e}"));

        let path = output.path.to_absolute_path();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "content\n", "{version}");
        assert_eq!(output.path.name(), "mvm-test-ok");
        assert_eq!(output.derivation.as_ref().unwrap().name(), "mvm-test-ok.drv");
        assert!(
            events.iter().any(|e| matches!(e, BuildEvent::Start { activity: Activity::Build { .. }, .. })),
            "{version}"
        );
        let logged: Vec<_> = events
            .iter()
            .filter_map(|e| if let BuildEvent::Log { line, .. } = e { Some(line.as_str()) } else { None })
            .collect();
        assert_eq!(logged, ["one line", "not UTF-8: \u{fffd}"], "{version}");
        assert!(seen.iter().any(|p| p.derivation.as_deref() == Some("mvm-test-ok")), "{version}");
        assert!(seen.iter().any(|p| p.phase.as_deref() == Some("buildPhase")), "{version}");
        assert_eq!(seen.last().unwrap().builds.done, 1, "{version}");

        let link = world.link();
        assert_eq!(std::fs::read_link(&link).unwrap().to_str().unwrap(), path);
        assert_eq!(output.root.target().as_ref(), Some(&output.path));
        assert_eq!(world.gc_roots(), [format!("{} -> {path}", link.display())], "{version}");
        output.root.release().unwrap();
        assert_eq!(world.gc_roots(), [""; 0], "{version}");
        assert!(!link.exists());
    }
}

#[tokio::test]
async fn refs_of_every_kind_are_built() {
    for world in worlds() {
        std::os::unix::fs::symlink("flake", world.folder.join("linked")).unwrap();
        std::fs::create_dir(world.folder.join("flake/below")).unwrap();
        let system = this_system();
        let folder = world.folder.display();
        for (text, content) in [
            (r#"./flake#"dotted.name""#.to_owned(), "dotted\n"),
            (format!("./flake#packages.{system}.default"), "content\n"),
            ("./linked".into(), "content\n"),
            ("./flake/flake.nix".into(), "content\n"),
            ("./flake/below".into(), "content\n"),
            ("path:./flake#default".into(), "content\n"),
            (format!("path:{folder}/flake"), "content\n"),
        ] {
            let output = world
                .nix
                .build(&world.request(&text), |_| ())
                .await
                .unwrap_or_else(|e| panic!("{}: {text}: {e}", world.label));
            assert_eq!(std::fs::read_to_string(output.path.to_absolute_path()).unwrap(), content, "{text}");
        }
        // The link that a build made is a store path: nothing is evaluated again.
        let request =
            mvm_nix::BuildRequest { out_link: world.folder.join("roots/second"), ..world.request("./roots/link") };
        assert!(matches!(request.flake.clone().locate().unwrap().place(), Place::Store(_)));
        let output = world.nix.build(&request, |_| ()).await.unwrap();
        assert_eq!((output.path.name(), output.derivation), ("mvm-test-ok", None));
        assert_eq!(world.gc_roots().len(), 2, "{}", world.label);
        for link in ["roots/link", "roots/second"] {
            mvm_nix::GcRoot::at(world.folder.join(link)).release().unwrap();
        }
        assert_eq!(world.gc_roots().len(), 0, "{}", world.label);
    }
}

#[tokio::test]
async fn flakes_in_git_are_built() {
    for world in worlds() {
        let folder = world.write_flake("repo", "");
        let git = |args: &[&str]| {
            let done = std::process::Command::new("git").arg("-C").arg(&folder).args(args).output().unwrap();
            assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        git(&["init", "-q"]);
        let error = world.fails("./repo").await;
        let hint = mvm_core::Diagnostic::hint(&error).unwrap();
        assert!(hint.contains("add flake.nix`"), "{}: {error}: {hint}", world.label);
        git(&["add", "."]);
        // The same of any other file.
        std::fs::write(folder.join("more.nix"), "{ }").unwrap();
        let text = std::fs::read_to_string(folder.join("flake.nix")).unwrap();
        std::fs::write(folder.join("flake.nix"), text.replace("{\n      nixos", "import ./more.nix // {\n      nixos"))
            .unwrap();
        let error = world.fails("./repo").await;
        let hint = mvm_core::Diagnostic::hint(&error).unwrap();
        assert!(hint.contains("add more.nix`") && !hint.contains("flake.nix"), "{}: {error}: {hint}", world.label);
        git(&["add", "."]);
        for text in ["./repo", "git+file:./repo"] {
            let output = world.nix.build(&world.request(text), |_| ()).await.unwrap();
            assert_eq!(output.path.name(), "mvm-test-ok");
        }
    }
}

#[tokio::test]
async fn further_arguments_reach_nix() {
    for world in worlds() {
        world.write_flake("with-input", "inputs.extra = { url = \"path:/nonexistent\"; flake = false; };");
        std::fs::create_dir(world.folder.join("extra")).unwrap();
        let mut request = world.request("./with-input#from-input");
        request.offline = true;
        request.refresh = true;
        let extra = format!("path:{}/extra", world.folder.display());
        request.extra_args = ["--override-input", "extra", &extra, "--no-write-lock-file"].map(Into::into).into();
        let output = world.nix.build(&request, |_| ()).await.unwrap_or_else(|e| panic!("{}: {e}", world.label));
        assert!(
            std::fs::read_to_string(output.path.to_absolute_path()).unwrap().contains("-source"),
            "{}",
            world.label
        );
        let names = world.nix.packages(&request.flake, &this_system(), &request.extra_args).await.unwrap();
        assert!(names.contains(&"from-input".to_owned()) && names.contains(&"dotted.name".to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn all_outputs_are_known_and_released_together() {
    for world in worlds() {
        let output = world.nix.build(&world.request("./flake#two"), |_| ()).await.unwrap();
        assert_eq!(output.path.name(), "mvm-test-two", "{}", world.label);
        if world.nix.version().await.unwrap().number >= (2, 26, 0) {
            let output = world.nix.build(&world.request("./flake#two^*"), |_| ()).await.unwrap();
            assert_eq!(output.outputs["dev"].name(), "mvm-test-two-dev");
            assert_eq!(world.gc_roots().len(), 2, "{}", world.label);
        }
        output.root.release().unwrap();
        assert_eq!(world.gc_roots().len(), 0, "{}", world.label);
    }
}

#[tokio::test]
async fn content_is_compared_with_what_was_built() {
    for world in worlds() {
        let output = world.nix.build(&world.request("./flake"), |_| ()).await.unwrap();
        assert_eq!(world.nix.verify(&output.path).await.unwrap(), [""; 0], "{}", world.label);
        // A path that Nix does not know is no path that was changed.
        let unknown = StorePath::from_absolute_path(b"/nix/store/00000000000000000000000000000000-unknown").unwrap();
        let error = world.nix.verify(&unknown).await.unwrap_err();
        assert!(error.to_string().contains("is not valid"), "{}: {error}", world.label);

        let path = output.path.to_absolute_path();
        let writable = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).is_ok();
        if !writable(0o644) {
            println!("not run: this machine's store cannot be damaged by its users");
            continue;
        }
        // No other world has this path.
        std::fs::write(&path, "contend\n").unwrap();
        writable(0o444);
        assert_eq!(world.nix.verify(&output.path).await.unwrap(), [path.as_str()], "{}", world.label);
        output.root.release().unwrap();
        let deleted = std::process::Command::new("nix-store").args(["--delete", &path]).output().unwrap();
        assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    }
}
