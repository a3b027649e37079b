//! Finding a kernel for guests on this machine.

use crate::error::ImageError;
use crate::image::{judge_kernel, kernel_format};
use mvm_core::{Dirs, KernelFormat};
use std::cmp::Ordering;
use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A kernel and, where it needs them, its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// The kernel's file.
    pub file: PathBuf,
    /// Its release, as `uname -r` says it in the guest, where it can be told from outside.
    pub release: Option<String>,
    /// `lib/modules/RELEASE`; none where everything is built in.
    pub modules: Option<PathBuf>,
    /// The configuration that it was built with, where that lies beside it.
    pub config: Option<PathBuf>,
}

impl GuestKernel {
    /// The kernel to use, the first that fits of: `MVM_KERNEL` (a file or a folder), our own in the kernel cache, an
    /// unpacked Debian one there, NixOS's, the running one of `/boot`, the newest one of `/boot`.
    pub fn find(dirs: &Dirs) -> Result<Self, ImageError> {
        let given = std::env::var_os("MVM_KERNEL").filter(|v| !v.is_empty());
        let running = rustix::system::uname().release().to_string_lossy().into_owned();
        Self::search(dirs, given.as_deref(), Path::new("/"), &running)
    }

    fn search(dirs: &Dirs, given: Option<&OsStr>, root: &Path, running: &str) -> Result<Self, ImageError> {
        if let Some(given) = given.map(Path::new) {
            // What the user chose may have everything built in whatever its format.
            return Self::of_layout(given, &root.join("lib/modules"), false).map_err(|why| ImageError::Unusable {
                path: given.into(),
                why: format!("MVM_KERNEL {why}"),
                hint: "name a vmlinux, vmlinuz or Image file for this CPU, or the folder of an unpacked kernel package",
            });
        }
        let kernels = dirs.kernels();
        let own = newest_first(&kernels, |n| n.starts_with("mvm-") && n.ends_with(&format!("-{ARCH}")));
        let debian = newest_first(&kernels, |n| n.starts_with("debian-"));
        let nixos = ["run/booted-system", "run/current-system"].map(|p| root.join(p));
        let running = root.join("boot").join(format!("vmlinuz-{running}"));
        let mut boot = newest_first(&root.join("boot"), |n| n.starts_with("vmlinuz-") && !n.contains("rescue"));
        boot.retain(|p| *p != running);
        let mut places = vec![
            "$MVM_KERNEL (not set)".to_string(),
            format!("{}/mvm-*-{ARCH}", kernels.display()),
            format!("{}/debian-*", kernels.display()),
        ];
        for place in own.into_iter().chain(debian).chain(nixos).chain([running]).chain(boot) {
            match Self::of_layout(&place, &root.join("lib/modules"), true) {
                Ok(found) => return Ok(found),
                Err(why) => places.push(format!("{} ({why})", place.display())),
            }
        }
        places.push(format!("{}/vmlinuz-*", root.join("boot").display()));
        Err(ImageError::Missing {
            what: "a kernel for the guest",
            places,
            hint: "run scripts/dev-setup.sh, which unpacks Debian's cloud kernel, or set MVM_KERNEL to a kernel or its folder",
        })
    }

    /// The kernel at a path: a file, or a folder in one of the layouts that kernels come in. `stock` says that a kernel
    /// without a folder of modules is useless.
    fn of_layout(path: &Path, system_modules: &Path, stock: bool) -> Result<Self, String> {
        if !path.is_dir() {
            return Self::of_file(path, system_modules, stock);
        }
        // Ours: a folder with a kernel that has everything built in.
        for name in ["vmlinux", "Image", "bzImage"] {
            let file = path.join(name);
            if file.is_file() {
                judge_file(&file)?;
                let release = fs::read_to_string(path.join("release")).ok();
                let release = release.and_then(|r| as_release(r.trim()));
                return Ok(Self { file, release, modules: None, config: existing(path.join("config")) });
            }
        }
        // NixOS: a link to the kernel, and the modules beside it.
        let file = path.join("kernel");
        if file.is_file() {
            judge_file(&file)?;
            let modules = newest_first(&path.join("kernel-modules/lib/modules"), |_| true).into_iter().next();
            let modules = modules.ok_or("has no kernel-modules")?;
            let release = modules.file_name().and_then(OsStr::to_str).and_then(as_release);
            return Ok(Self { file, release, modules: Some(modules), config: None });
        }
        // A Debian package, unpacked: boot/ and lib/.
        let boot = if path.join("boot").is_dir() { path.join("boot") } else { path.to_path_buf() };
        let file = newest_first(&boot, |n| n.starts_with("vmlinuz")).into_iter().next();
        let file = file.ok_or("holds no kernel (vmlinux, Image, bzImage, kernel or boot/vmlinuz-*)")?;
        Self::of_file(&file, system_modules, stock)
    }

    fn of_file(file: &Path, system_modules: &Path, stock: bool) -> Result<Self, String> {
        let head = judge_file(file)?;
        let suffix =
            file.file_name().and_then(OsStr::to_str).and_then(|n| n.split_once('-')).map(|(_, release)| release);
        let release = release_of(&head).or_else(|| suffix.and_then(as_release));
        let beside = file.parent().and_then(Path::parent).map(|root| root.join("lib/modules"));
        let modules = release.as_ref().and_then(|release| {
            beside.into_iter().chain([system_modules.into()]).map(|d| d.join(release)).find(|d| d.is_dir())
        });
        if stock && modules.is_none() {
            return Err(match release {
                Some(release) => format!("has no modules in lib/modules/{release}"),
                None => "has no release by which to find its modules".into(),
            });
        }
        let config = release.as_ref().map(|r| file.with_file_name(format!("config-{r}")));
        let config = config.into_iter().chain([file.with_file_name("config")]).find_map(existing);
        Ok(Self { file: file.into(), release, modules, config })
    }
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

/// The first bytes of a kernel for this CPU; else why it is none.
fn judge_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut head = Vec::new();
    match fs::metadata(path) {
        Ok(m) if m.is_file() => {}
        Ok(_) => return Err("is not a file".into()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err("does not exist".into()),
        Err(e) => return Err(format!("cannot be read: {e}")),
    }
    let read = File::open(path).and_then(|file| file.take(64 << 10).read_to_end(&mut head));
    read.map_err(|e| format!("cannot be read: {e}"))?;
    judge_kernel(&head)?;
    Ok(head)
}

/// The kernel release in a bzImage's header (boot protocol: `kernel_version`).
fn release_of(head: &[u8]) -> Option<String> {
    if kernel_format(head) != Some(KernelFormat::BzImage) {
        return None;
    }
    let at = u16::from_le_bytes([*head.get(0x20e)?, *head.get(0x20f)?]) as usize + 0x200;
    let text: Vec<u8> = head.get(at..)?.iter().copied().take(64).take_while(u8::is_ascii_graphic).collect();
    as_release(std::str::from_utf8(&text).ok()?)
}

/// A release becomes a path: one component, nothing else.
fn as_release(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= 64 && !text.starts_with('.');
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-~".contains(&b));
    (fits && plain).then(|| text.to_string())
}

/// What a folder holds, as far as wanted, highest version first.
fn newest_first(dir: &Path, keep: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())))
        .filter(|(name, _)| keep(name))
        .collect();
    found.sort_by(|(a, _), (b, _)| by_version(b, a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// Compares names with numbers in them as people do: 6.9 comes before 6.10.
fn by_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let number = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
        let (m, n) = (number(a), number(b));
        if m > 0 && n > 0 {
            let trim = |s: &[u8]| s.iter().position(|c| *c != b'0').unwrap_or(s.len());
            let (x, y) = (&a[trim(&a[..m])..m], &b[trim(&b[..n])..n]);
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[m..], &b[n..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, rest)), Some((y, other))) if x == y => (a, b) = (rest, other),
            (x, y) => return x.map(|(c, _)| c).cmp(&y.map(|(c, _)| c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head of a kernel of this CPU, with a release where its format has room for one.
    fn kernel(release: &str) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        if ARCH == "x86_64" {
            bytes[0x202..0x206].copy_from_slice(b"HdrS");
            bytes[0x236] = 1;
            bytes[0x20e..0x210].copy_from_slice(&0x400u16.to_le_bytes());
            bytes[0x600..0x600 + release.len()].copy_from_slice(release.as_bytes());
        } else {
            bytes[56..60].copy_from_slice(b"ARM\x64");
        }
        bytes
    }

    struct Machine {
        root: tempfile::TempDir,
        dirs: Dirs,
    }

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let home = root.path().join("home");
            let dirs = Dirs::from_vars(|n| (n == "HOME").then(|| home.clone().into())).unwrap();
            Self { root, dirs }
        }
        fn put(&self, path: &Path, bytes: &[u8]) -> PathBuf {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            path
        }
        fn boot(&self, release: &str, modules: bool) -> PathBuf {
            if modules {
                fs::create_dir_all(self.root.path().join("lib/modules").join(release)).unwrap();
            }
            self.put(&Path::new("boot").join(format!("vmlinuz-{release}")), &kernel(release))
        }
        fn find(&self, given: Option<&Path>) -> Result<GuestKernel, ImageError> {
            GuestKernel::search(&self.dirs, given.map(Path::as_os_str), self.root.path(), "6.2-running")
        }
    }

    #[test]
    fn each_place_wins_over_those_behind_it() {
        let machine = Machine::new();
        let newest = machine.boot("6.10-new", true);
        machine.boot("6.9-old", true);
        machine.boot("6.11-without-modules", false);
        assert_eq!(machine.find(None).unwrap().file, newest);
        let running = machine.boot("6.2-running", true);
        let found = machine.find(None).unwrap();
        assert_eq!((found.file, found.release.as_deref()), (running, Some("6.2-running")));
        assert_eq!(found.modules, Some(machine.root.path().join("lib/modules/6.2-running")));

        let nixos = machine.put(Path::new("run/current-system/kernel"), &kernel("6.3"));
        machine.put(Path::new("run/current-system/kernel-modules/lib/modules/6.3/modules.dep"), b"");
        assert_eq!(machine.find(None).unwrap().file, nixos);

        let kernels = machine.dirs.kernels();
        let debian = kernels.join("debian-6.1/boot/vmlinuz-6.1-cloud");
        machine.put(&debian, &kernel("6.1-cloud"));
        machine.put(&kernels.join("debian-6.1/lib/modules/6.1-cloud/modules.dep"), b"");
        let found = machine.find(None).unwrap();
        assert_eq!(found.file, debian);
        assert_eq!(found.modules, Some(kernels.join("debian-6.1/lib/modules/6.1-cloud")));

        let own = machine.put(&kernels.join(format!("mvm-6.1.9-{ARCH}/bzImage")), &kernel("x"));
        machine.put(&own.with_file_name("release"), b"6.1.9-mvm\n");
        machine.put(&own.with_file_name("config"), b"");
        machine.put(&kernels.join("mvm-6.2-vax/bzImage"), &kernel("x"));
        let found = machine.find(None).unwrap();
        assert_eq!((found.file, found.modules, found.release), (own.clone(), None, Some("6.1.9-mvm".into())));
        assert_eq!(found.config, Some(own.with_file_name("config")));

        let given = machine.put(Path::new("elsewhere/my-kernel"), &kernel(""));
        assert_eq!(machine.find(Some(&given)).unwrap().file, given);
        assert_eq!(machine.find(Some(&kernels.join("debian-6.1"))).unwrap().file, debian);
    }

    #[test]
    fn where_there_is_none_every_place_is_named() {
        let machine = Machine::new();
        machine.boot("6.11", false);
        let error = machine.find(None).unwrap_err().to_string();
        for word in ["MVM_KERNEL", "debian-*", "current-system", "6.11 (has no modules", "6.2-running (does not exist"]
        {
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn a_choice_is_never_replaced_by_another() {
        let machine = Machine::new();
        machine.boot("6.2-running", true);
        let text = machine.put(Path::new("notes.txt"), b"not a kernel");
        for (given, why) in [
            (text.as_path(), "neither ELF"),
            (Path::new("/nonexistent/kernel"), "does not exist"),
            (&machine.root.path().join("home"), "holds no kernel"),
        ] {
            fs::create_dir_all(machine.root.path().join("home")).unwrap();
            let error = machine.find(Some(given)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let mut other = vec![0; 4096];
        other[..6].copy_from_slice(b"\x7fELF\x02\x01");
        other[18] = if ARCH == "x86_64" { 183 } else { 62 };
        let error = machine.find(Some(&machine.put(Path::new("vmlinux"), &other))).unwrap_err().to_string();
        assert!(error.contains("is for "), "{error}");
    }

    #[test]
    fn versions_in_order() {
        for (low, high) in [("6.9", "6.10"), ("6.1.9-2", "6.1.10-1"), ("6.1", "6.1.1"), ("a-09", "a-10"), ("", "1")] {
            assert_eq!(by_version(low, high), Ordering::Less, "{low} {high}");
            assert_eq!(by_version(high, low), Ordering::Greater, "{low} {high}");
        }
        assert_eq!(by_version("6.1", "6.1"), Ordering::Equal);
    }

    #[test]
    fn releases_are_one_component() {
        for bad in ["", "..", "../x", "a/b", ".hidden", "a b", "a\0"] {
            assert_eq!(as_release(bad), None, "{bad:?}");
        }
        assert_eq!(as_release("6.1.0-56-cloud-amd64").as_deref(), Some("6.1.0-56-cloud-amd64"));
    }

    proptest! {
        #[test]
        fn no_header_panics(at: u16, bytes: Vec<u8>) {
            let mut head = kernel("r");
            head[0x20e..0x210].copy_from_slice(&at.to_le_bytes());
            head.extend(bytes);
            let _ = release_of(&head);
        }
    }
}
