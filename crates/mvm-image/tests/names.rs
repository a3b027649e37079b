//! Images by name: folders of the user's, and those that were fetched.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::Home;
use mvm_core::{Diagnostic, ErrorKind, ImageName};
use mvm_image::{FetchedImages, ImageError, ImageOrigin, LocalKind, local_image, local_images, resolve_image};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

#[test]
fn names_and_paths_of_images() {
    let home = Home::new();
    let images = home.dirs.images();
    for name in ["web", "src", "builtin-1", ".draft-x", "a\nb"] {
        fs::create_dir_all(images.join(name)).unwrap();
        fs::write(images.join(name).join("image.json"), "{}").unwrap();
    }
    fs::create_dir_all(images.join("half")).unwrap();
    let all = local_images(&home.dirs).unwrap();
    let all: Vec<_> = all.iter().map(|image| (image.name.as_str(), &image.kind)).collect();
    assert_eq!(all, [("builtin-1", &LocalKind::BuiltIn), ("src", &LocalKind::Folder), ("web", &LocalKind::Folder)]);
    let resolve = |text: &str| resolve_image(&home.dirs, OsStr::new(text)).map(|image| image.folder);
    assert_eq!(resolve("web").unwrap(), images.join("web"));
    assert_eq!(resolve("/absolute/folder").unwrap(), Path::new("/absolute/folder"));
    assert_eq!(resolve("./web").unwrap(), std::env::current_dir().unwrap().join("web"));
    // A folder that is no image does not hide one; tests run in their crate's folder.
    assert_eq!(resolve("src").unwrap(), images.join("src"));
    // Where there is none of the name, the folder is meant, and told what it lacks.
    assert_eq!(resolve("tests").unwrap(), std::env::current_dir().unwrap().join("tests"));
    for name in ["wbe", ".draft-x", "half", ""] {
        let error = resolve(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint().unwrap().contains("web"), "{error}");
    }
    assert!(resolve("wbe").unwrap_err().hint().unwrap().contains("did you mean web?"));
    let error = resolve("postgres").unwrap_err();
    assert!(matches!(&error, ImageError::NotFetched { name } if name == "postgres"), "{error}");
    assert!(error.hint().unwrap().contains("mvmctl image fetch postgres"));
}

fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

fn of_flake(flake: &str) -> ImageOrigin {
    ImageOrigin::Flake { flake: flake.into() }
}

fn of_catalog(entry: &str, flake: &str) -> ImageOrigin {
    ImageOrigin::Catalog { entry: entry.into(), flake: flake.into() }
}

/// Registers a folder, as Nix would by its link.
fn fetch(images: &FetchedImages, as_name: &str, origin: &ImageOrigin, folder: &Path) -> Result<PathBuf, ImageError> {
    let link = images.lock()?.claim(&name(as_name), origin)?;
    let _ = fs::remove_file(&link);
    symlink(folder, &link).unwrap();
    Ok(link)
}

#[test]
fn what_was_fetched_is_found_and_forgotten() {
    let home = Home::new();
    let images = FetchedImages::new(&home.dirs);
    assert_eq!(images.list().unwrap(), []);
    assert!(!home.dirs.fetched_images().exists(), "to look makes nothing");
    let folder = home.root.path().join("store");
    fs::create_dir(&folder).unwrap();
    let origin = of_catalog("web", "f#web");
    fetch(&images, "web", &origin, &folder).unwrap();
    // It comes before a folder of that name that somebody made since.
    fs::create_dir_all(home.dirs.images().join("web")).unwrap();
    fs::write(home.dirs.images().join("web/image.json"), "{}").unwrap();
    let found = resolve_image(&home.dirs, OsStr::new("web")).unwrap();
    assert_eq!((found.folder, found.kind), (folder.clone(), LocalKind::Fetched(Some(origin))));

    // Gone from the store: it says how to get it again.
    fs::remove_dir(&folder).unwrap();
    let error = local_image(&home.dirs, "web").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageInvalid);
    assert!(error.hint().unwrap().contains("mvmctl image fetch web"), "{error}");
    let lock = images.lock().unwrap();
    lock.remove(&name("web")).unwrap();
    assert!(matches!(lock.remove(&name("web")), Err(ImageError::NotFetched { .. })));
    assert_eq!(images.list().unwrap(), []);
    assert_eq!(fs::read_dir(home.dirs.fetched_images()).unwrap().count(), 0);
}

#[test]
fn a_name_is_renewed_from_where_it_came_from_only() {
    let home = Home::new();
    let images = FetchedImages::new(&home.dirs);
    let folder = home.root.path();
    fetch(&images, "entry", &of_catalog("web", "old#web"), folder).unwrap();
    fetch(&images, "other", &of_flake("f#web"), folder).unwrap();
    for (of, origin, may) in [
        ("entry", of_catalog("web", "new#web"), true),
        ("entry", of_catalog("db", "old#db"), false),
        ("entry", of_flake("old#web"), false),
        ("other", of_flake("f#web"), true),
        ("other", of_flake("g#web"), false),
        ("other", of_catalog("web", "f#web"), false),
        ("third", of_flake("g#web"), true),
    ] {
        let done = images.may_add(&name(of), &origin);
        assert_eq!(done.is_ok(), may, "{of} from {origin:?}");
        if let Err(error) = done {
            assert_eq!(error.kind(), ErrorKind::Busy);
            assert!(error.hint().unwrap().contains(&format!("mvmctl image rm {of}")));
        }
    }
    // One whose origin cannot be read is an image all the same, and nobody's to replace.
    for damage in ["{", "{\"kind\":\"later\"}", ""] {
        fs::write(home.dirs.fetched_image(&name("other")).origin(), damage).unwrap();
        assert_eq!(images.get(&name("other")).unwrap().origin, None);
        assert!(images.may_add(&name("other"), &of_flake("f#web")).is_err());
    }
    fs::remove_file(home.dirs.fetched_image(&name("other")).origin()).unwrap();
    assert_eq!(images.list().unwrap().len(), 2);
}

#[test]
fn what_a_killed_fetch_left_is_swept() {
    let home = Home::new();
    let images = FetchedImages::new(&home.dirs);
    fetch(&images, "whole", &of_flake("f#whole"), home.root.path()).unwrap();
    images.lock().unwrap().claim(&name("half"), &of_flake("f#half")).unwrap();
    let left = || fs::read_dir(home.dirs.fetched_images()).unwrap().count();
    assert_eq!((left(), images.list().unwrap().len()), (2, 1));
    // Its name is nobody's.
    images.may_add(&name("half"), &of_flake("g#other")).unwrap();
    drop(images.lock().unwrap());
    assert_eq!(left(), 1);
}

#[test]
fn nothing_is_forgotten_while_somebody_makes_a_vm_of_it() {
    let home = Home::new();
    let images = FetchedImages::new(&home.dirs);
    fetch(&images, "web", &of_flake("f#web"), home.root.path()).unwrap();
    let (one, other) = (images.hold().unwrap(), images.hold().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let remover = std::thread::spawn(move || {
        let lock = images.lock().unwrap();
        tell.send(()).unwrap();
        lock.remove(&name("web")).unwrap();
    });
    drop(one);
    assert!(told.try_recv().is_err());
    assert!(local_image(&home.dirs, "web").is_ok());
    drop(other);
    remover.join().unwrap();
    assert!(local_image(&home.dirs, "web").is_err());
}
