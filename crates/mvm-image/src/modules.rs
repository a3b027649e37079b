//! The modules that a stock kernel needs to find its drives and its host, in the order in which they load.

use crate::error::ImageError;
use crate::strip::strip;
use crate::unpack::decompress;
use object::Endianness;
use object::read::elf::ElfFile64;
use object::read::{Object, ObjectSection};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// What a guest needs, in this order, and whether it cannot do without.
const WANTED: [(&str, bool); 8] = [
    // ext4 asks for the checksum by a name that only modprobe could turn into this one.
    ("crc32c_generic", false),
    ("virtio_mmio", true),
    ("virtio_blk", true),
    ("ext4", true),
    ("overlay", true),
    ("vmw_vsock_virtio_transport", true),
    ("virtio_rng", false),
    ("virtio_net", false),
];
/// Most bytes of an index file or a module.
const FILE_LIMIT: u64 = 64 << 20;
/// Most modules that the wanted ones may pull in.
const COUNT_LIMIT: usize = 64;

/// A module, ready to be loaded.
#[derive(Debug)]
pub(crate) struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// The modules of a guest, and every file that was read to find them.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    pub modules: Vec<Module>,
    pub sources: Vec<PathBuf>,
}

/// Reads the modules from `lib/modules/RELEASE`, dependencies first. `slim` removes what no guest needs from them.
pub(crate) fn read(folder: &Path, slim: bool) -> Result<Modules, ImageError> {
    let mut found = Modules::default();
    let builtin = index(folder, "modules.builtin", &mut found.sources)?.unwrap_or_default();
    // depmod writes modules.dep when a package is installed; one that was only unpacked has the list of its build.
    let paths = match index(folder, "modules.dep", &mut found.sources)? {
        Some(text) => text,
        None => index(folder, "modules.order", &mut found.sources)?
            .ok_or_else(|| unusable(folder, "it has neither modules.dep nor modules.order".into()))?,
    };
    let mut set = Set {
        folder,
        slim,
        builtin: builtin.lines().map(module_name).collect(),
        paths: paths
            .lines()
            .filter_map(|line| line.split(':').next())
            .map(|path| (module_name(path), path.trim()))
            .collect(),
        seen: HashSet::new(),
        found,
    };
    for (name, required) in WANTED {
        if set.builtin.contains(name) {
            continue;
        }
        if set.paths.contains_key(name) {
            set.add(name)?;
        } else if required {
            return Err(ImageError::Unusable {
                path: folder.into(),
                why: format!("the kernel lacks {name}, neither built in nor as a module"),
                hint: "use a kernel that is made for virtual machines: Debian's linux-image-cloud, or scripts/build-kernel.sh",
            });
        }
    }
    Ok(set.found)
}

struct Set<'a> {
    folder: &'a Path,
    slim: bool,
    builtin: HashSet<String>,
    paths: HashMap<String, &'a str>,
    seen: HashSet<String>,
    found: Modules,
}

impl Set<'_> {
    /// Adds a module behind what it depends on. A name that was seen is not visited again, so a circle ends too.
    fn add(&mut self, name: &str) -> Result<(), ImageError> {
        let Some(path) = self.paths.get(name) else { return Ok(()) };
        if !self.seen.insert(name.into()) {
            return Ok(());
        }
        if self.seen.len() > COUNT_LIMIT {
            return Err(unusable(self.folder, format!("{name} needs more than {COUNT_LIMIT} modules")));
        }
        let (path, bytes) = self.load(path)?;
        for need in needs_of(&bytes).ok_or_else(|| unusable(&path, "it is not a kernel module".into()))? {
            if !self.builtin.contains(&need) {
                self.add(&need)?;
            }
        }
        let bytes = if self.slim { strip(&bytes).unwrap_or(bytes) } else { bytes };
        self.found.modules.push(Module { name: name.into(), bytes });
        Ok(())
    }

    /// Reads a module by its path in the index. The list of a build names files as they were before they were packed.
    fn load(&mut self, path: &str) -> Result<(PathBuf, Vec<u8>), ImageError> {
        if !Path::new(path).components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(unusable(self.folder, format!("its index names a module outside: {path:?}")));
        }
        let file = ["", ".xz", ".zst", ".gz"]
            .into_iter()
            .map(|suffix| self.folder.join(format!("{path}{suffix}")))
            .find(|file| file.is_file())
            .ok_or_else(|| unusable(self.folder, format!("its index names {path:?}, which is not there")))?;
        let bytes = read_bounded(&file)?;
        let bytes = decompress(&bytes).map_err(|e| unusable(&file, e.to_string()))?;
        self.found.sources.push(file.clone());
        Ok((file, bytes))
    }
}

fn index(folder: &Path, name: &str, sources: &mut Vec<PathBuf>) -> Result<Option<String>, ImageError> {
    let path = folder.join(name);
    match read_bounded(&path) {
        Ok(bytes) => {
            sources.push(path);
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ImageError> {
    let fail = ImageError::io("read", path);
    // Opened only when it is a file: to open a FIFO would be to wait.
    match fs::metadata(path) {
        Ok(m) if m.is_file() => {}
        Ok(_) => return Err(fail(io::Error::other("it is not a file"))),
        Err(e) => return Err(fail(e)),
    }
    let mut bytes = Vec::new();
    match File::open(path).and_then(|f| f.take(FILE_LIMIT + 1).read_to_end(&mut bytes)) {
        Ok(_) if bytes.len() as u64 > FILE_LIMIT => Err(fail(io::ErrorKind::FileTooLarge.into())),
        Ok(_) => Ok(bytes),
        Err(e) => Err(fail(e)),
    }
}

/// The names in a module's `depends=` entry, and what its `softdep=pre:` wants to be there first; `None` where the file
/// is no module. modpost writes `.modinfo`: NUL-terminated `key=value` entries.
fn needs_of(elf: &[u8]) -> Option<Vec<String>> {
    let elf = ElfFile64::<Endianness>::parse(elf).ok()?;
    let info = elf.section_by_name(".modinfo")?;
    let mut needs = Vec::new();
    for entry in info.data().ok()?.split(|b| *b == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else { continue };
        if let Some(names) = entry.strip_prefix("depends=") {
            needs.extend(names.split(',').map(module_name));
        } else if let Some(names) = entry.strip_prefix("softdep=pre:") {
            let names = names.split_once("post:").map_or(names, |(pre, _)| pre);
            needs.extend(names.split_whitespace().map(module_name));
        }
    }
    needs.retain(|n| !n.is_empty());
    Some(needs)
}

fn unusable(path: &Path, why: String) -> ImageError {
    ImageError::Unusable { path: path.into(), why, hint: "install or unpack the kernel package again" }
}

/// `kernel/drivers/block/virtio-blk.ko.xz` → `virtio_blk`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).trim().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::build::elf::{Builder, SectionData};
    use object::elf;
    use proptest::prelude::*;

    /// A module with nothing but its `.modinfo`.
    fn module(info: &str) -> Vec<u8> {
        let mut builder = Builder::new(Endianness::Little, true);
        builder.header.e_type = elf::ET_REL;
        builder.header.e_machine = elf::EM_X86_64;
        for (name, sh_type, data) in [
            (".modinfo", elf::SHT_PROGBITS, SectionData::Data(info.as_bytes().to_vec().into())),
            (".shstrtab", elf::SHT_STRTAB, SectionData::SectionString),
        ] {
            let section = builder.sections.add();
            section.name = name.into();
            section.sh_type = sh_type;
            section.sh_addralign = 1;
            section.data = data;
        }
        let mut out = Vec::new();
        builder.write(&mut out).unwrap();
        out
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(builtin: &str, order: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("modules.builtin"), builtin).unwrap();
            fs::write(dir.path().join("modules.order"), order).unwrap();
            Self(dir)
        }
        fn module(self, path: &str, info: &str) -> Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, module(info)).unwrap();
            self
        }
        fn order(&self) -> Result<Vec<String>, ImageError> {
            Ok(read(self.0.path(), true)?.modules.into_iter().map(|m| m.name).collect())
        }
    }

    #[test]
    fn dependencies_come_first_and_circles_end() {
        let folder = Folder::new(
            "kernel/fs/ext4/ext4.ko\nkernel/fs/overlayfs/overlay.ko\nkernel/lib/lz.ko\n",
            "kernel/a/virtio.ko\nkernel/virtio_ring.ko\nkernel/virtio-mmio.ko\nkernel/virtio_blk.ko\n\
             kernel/vmw_vsock_virtio_transport.ko\nkernel/unused.ko\nkernel/soft.ko\n",
        )
        .module("kernel/a/virtio.ko", "license=GPL\0depends=virtio_ring\0")
        .module("kernel/virtio_ring.ko", "depends=virtio_blk\0name=virtio_ring\0")
        .module("kernel/virtio-mmio.ko", "depends=virtio,virtio_ring\0")
        .module("kernel/virtio_blk.ko", "depends=virtio,virtio_ring,lz\0")
        .module("kernel/vmw_vsock_virtio_transport.ko", "depends=\0softdep=pre: soft gone post: unused\0")
        .module("kernel/soft.ko", "depends=\0");
        let order = folder.order().unwrap();
        let wanted = ["virtio_blk", "virtio_ring", "virtio", "virtio_mmio", "soft", "vmw_vsock_virtio_transport"];
        let mut sorted = order.clone();
        sorted.sort();
        let mut expected = wanted.map(String::from);
        expected.sort();
        assert_eq!(sorted, expected);
        let at = |name: &str| order.iter().position(|n| n == name).unwrap();
        assert!(at("virtio_ring") < at("virtio") && at("virtio") < at("virtio_mmio"), "{order:?}");
        assert!(at("soft") < at("vmw_vsock_virtio_transport"), "{order:?}");
    }

    #[test]
    fn what_the_kernel_lacks_is_named() {
        let error = Folder::new("a/virtio_mmio.ko\na/virtio_blk.ko\na/ext4.ko\na/overlay.ko\n", "").order();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("lacks vmw_vsock_virtio_transport"), "{error}");
    }

    #[test]
    fn damaged_folders_are_refused() {
        let builtin = "a/virtio_mmio.ko\na/ext4.ko\na/overlay.ko\na/vmw_vsock_virtio_transport.ko\n";
        for (order, content, why) in [
            ("virtio_blk.ko\n", None, "which is not there"),
            ("../virtio_blk.ko\n", Some("x"), "outside"),
            ("/etc/virtio_blk.ko\n", Some("x"), "outside"),
            ("virtio_blk.ko\n", Some("x"), "compressed in a way"),
            ("virtio_blk.ko\n", Some("\x7fELF"), "not a kernel module"),
        ] {
            let folder = Folder::new(builtin, order);
            if let Some(content) = content {
                fs::write(folder.0.path().join("virtio_blk.ko"), content).unwrap();
            }
            let error = folder.order().unwrap_err().to_string();
            assert!(error.contains(why), "{order}: {error}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path(), true).unwrap_err().to_string().contains("neither modules.dep"));
    }

    #[test]
    fn names_of_modules() {
        for (path, name) in [
            ("kernel/drivers/char/hw_random/virtio-rng.ko", "virtio_rng"),
            ("kernel/a/b.ko.xz", "b"),
            ("b.ko.zst", "b"),
            ("crc32c", "crc32c"),
            ("", ""),
        ] {
            assert_eq!(module_name(path), name);
        }
    }

    proptest! {
        #[test]
        fn no_module_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..512), at in 0usize..512) {
            let _ = needs_of(&bytes);
            let mut whole = module("depends=a\0");
            bytes.truncate(whole.len().saturating_sub(at));
            let at = at.min(whole.len() - bytes.len());
            whole[at..at + bytes.len()].copy_from_slice(&bytes);
            let _ = needs_of(&whole);
            let _ = strip(&whole);
        }
    }
}
