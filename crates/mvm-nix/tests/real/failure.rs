//! Builds that fail: one clear error with advice, and the builder's last lines.

use crate::world::{World, other_system, this_system, worlds};
use mvm_core::{Diagnostic, ErrorKind, Fault};
use mvm_nix::{BuildEvent, Nix, NixError, NixFailure, Trouble};

async fn failure(world: &World, text: &str) -> NixFailure {
    match world.fails(text).await {
        NixError::Failed(failure) => *failure,
        other => panic!("{}: {text}: {other}", world.label),
    }
}

#[tokio::test]
async fn a_failing_builder_is_quoted() {
    for world in worlds() {
        let failure = failure(&world, "./flake#fails").await;
        assert_eq!(failure.last_lines, ["line 1", "line 2", "line 3", "the last words"], "{}", world.label);
        assert!(failure.derivation.as_deref().unwrap().ends_with("-mvm-test-fails.drv"), "{}", world.label);
        assert!(failure.message.contains("exit code 7"), "{}: {}", world.label, failure.message);
        assert!(failure.hint().unwrap().contains("nix log /nix/store/"), "{}", world.label);
        let fault = Fault::from(failure);
        assert_eq!(fault.kind, ErrorKind::BuildFailed);
        assert!(fault.message.contains("the last words") && !fault.message.contains('\u{1b}'), "{}", fault.message);
        assert_eq!(world.gc_roots().len(), 0);
    }
}

#[tokio::test]
async fn three_thousand_lines_are_seen_and_twenty_kept() {
    for world in worlds() {
        let mut lines = 0;
        let result = world
            .nix
            .build(&world.request("./flake#talks"), |event| {
                lines += usize::from(matches!(event, BuildEvent::Log { .. }))
            })
            .await;
        let Err(NixError::Failed(failure)) = result else { panic!("{}: {result:?}", world.label) };
        assert_eq!((lines, failure.last_lines.len()), (3000, 20), "{}", world.label);
        assert_eq!(failure.last_lines[19], "line 3000");
    }
}

#[tokio::test]
async fn a_missing_attribute_lists_what_is_there() {
    for world in worlds() {
        let failure = failure(&world, "./flake#nothing-here").await;
        assert_eq!(
            (failure.trouble, failure.kind()),
            (Some(Trouble::NoAttribute), ErrorKind::NotFound),
            "{}",
            world.label
        );
        assert!(failure.message.contains("nothing-here"));
        let hint = failure.hint().unwrap();
        assert!(hint.contains("has these packages") && hint.contains("endless"), "{}: {hint}", world.label);

        std::fs::create_dir(world.folder.join("bare")).unwrap();
        std::fs::write(world.folder.join("bare/flake.nix"), "{ outputs = _: { }; }").unwrap();
        let hint = self::failure(&world, "./bare").await.hint().unwrap();
        assert!(hint.contains("neither packages nor NixOS configurations"), "{}: {hint}", world.label);
    }
}

#[tokio::test]
async fn a_missing_image_lists_the_catalog() {
    for world in worlds() {
        let system = this_system();
        let other = other_system();
        for (name, outputs, hints) in [
            ("with", format!("catalog.{system}.db = 1;"), ["images in its catalog", "db"]),
            ("other", format!("catalog.{other}.db = 1;"), ["no images in its catalog for", other]),
            ("without", format!("packages.{system}.box = 1;"), ["no output `catalog`", "box"]),
            ("nothing", String::new(), ["no output `catalog`", "nix flake show"]),
        ] {
            let folder = world.folder.join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("flake.nix"), format!("{{ outputs = _: {{ {outputs} }}; }}")).unwrap();
            let failure = failure(&world, &format!("./{name}#catalog.{system}.web")).await;
            assert_eq!(failure.trouble, Some(Trouble::NoAttribute), "{}: {}", world.label, failure.message);
            let hint = failure.hint().unwrap();
            assert!(hints.iter().all(|words| hint.contains(words)), "{}: {hint}", world.label);
        }
    }
}

#[tokio::test]
async fn a_missing_flake_is_said_without_nix() {
    for world in worlds() {
        std::fs::create_dir(world.folder.join("empty")).unwrap();
        // A program that cannot be started shows that none is.
        let nobody = Nix::at("/no/such/nix");
        for text in ["./absent", "./empty", "path:./absent", "path:./empty"] {
            let error = nobody.build(&world.request(text), |_| ()).await.unwrap_err();
            assert!(matches!(error, NixError::FlakeRef(_)), "{text}: {error}");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{text}");
            assert!(error.hint().is_some(), "{text}");
        }
        let error = nobody.build(&world.request("./flake"), |_| ()).await.unwrap_err();
        assert!(matches!(error, NixError::Start { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_syntax_error_names_its_line() {
    for world in worlds() {
        std::fs::create_dir(world.folder.join("broken")).unwrap();
        std::fs::write(world.folder.join("broken/flake.nix"), "{\n  outputs = { self }: { packages = ; };\n}\n")
            .unwrap();
        let failure = failure(&world, "./broken").await;
        assert_eq!(failure.trouble, Some(Trouble::Syntax), "{}", failure.message);
        assert!(failure.message.contains("flake.nix:2:"), "{}: {}", world.label, failure.message);
    }
}

#[tokio::test]
async fn a_foreign_system_needs_a_builder() {
    for world in worlds() {
        assert_eq!(failure(&world, "./flake#alien").await.trouble, Some(Trouble::OtherSystem), "{}", world.label);
        let mut request = world.request("./flake");
        request.system = Some(other_system().to_owned());
        let error = world.nix.build(&request, |_| ()).await.unwrap_err();
        let NixError::Failed(failure) = error else { panic!("{error}") };
        assert_eq!(failure.trouble, Some(Trouble::OtherSystem), "{}: {}", world.label, failure.message);
        assert!(failure.installable.ends_with(&format!("#packages.{}.default", other_system())));
    }
}

#[tokio::test]
async fn a_file_in_the_place_of_the_link_stays() {
    for world in worlds() {
        std::fs::create_dir(world.folder.join("roots")).unwrap();
        std::fs::write(world.link(), "mine").unwrap();
        let failure = failure(&world, "./flake").await;
        assert_eq!(failure.trouble, Some(Trouble::LinkTaken), "{}: {}", world.label, failure.message);
        assert_eq!(std::fs::read_to_string(world.link()).unwrap(), "mine");
    }
}

#[tokio::test]
async fn a_path_with_blanks_is_built_or_explained() {
    for world in worlds() {
        world.write_flake("with blank", "");
        match world.nix.build(&world.request("./with blank"), |_| ()).await {
            Ok(output) => assert_eq!(output.path.name(), "mvm-test-ok"),
            Err(NixError::Failed(failure)) => {
                assert!(world.nix.version().await.unwrap().number < (2, 26, 0), "{}", failure.message);
                assert_eq!(failure.trouble, Some(Trouble::Url), "{}", failure.message);
            }
            Err(other) => panic!("{other}"),
        }
    }
}
