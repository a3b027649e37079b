//! An image folder, opened: every promise of its manifest that can be checked without booting it is checked.

use crate::elf;
use crate::error::ImageError;
use crate::superblock::{self, Superblock};
use mvm_core::{ImageManifest, KernelFormat, labels};
use std::env::consts::ARCH;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Most bytes that an image.json may have.
const MANIFEST_LIMIT: u64 = 1 << 20;
/// Nix's store: an image built by Nix may be made of links to other store paths.
const NIX_STORE: &str = "/nix/store";

/// An image whose files are there and of the right kind.
#[derive(Debug, Clone)]
pub struct Image {
    manifest: ImageManifest,
    folder: PathBuf,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    rootfs: PathBuf,
}

impl Image {
    /// Opens and checks an image.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let folder = match folder.canonicalize() {
            Ok(folder) if folder.is_dir() => folder,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(ImageError::io("open the image folder", folder)(e));
            }
            _ => return Err(ImageError::NoFolder(folder.to_path_buf())),
        };
        let manifest = read_manifest(&folder)?;
        let here = format!("{ARCH}-linux");
        if manifest.system != here {
            return Err(ImageError::System { folder, system: manifest.system, here });
        }
        let fail = |what, path: &Path, why| ImageError::File { folder: folder.clone(), what, path: path.into(), why };
        let find = |what, path: &Path| find_inside(&folder, path).map_err(|why| fail(what, path, why));
        let kernel = find("kernel", &manifest.kernel.path)?;
        let rootfs = find("rootfs", &manifest.rootfs.path)?;
        let initrd = manifest.initrd.as_ref().map(|i| find("initrd", &i.path)).transpose()?;
        check_kernel(&kernel, manifest.kernel.format).map_err(|why| fail("kernel", &kernel, why))?;
        check_rootfs(&rootfs, manifest.rootfs.size_bytes).map_err(|why| fail("rootfs", &rootfs, why))?;
        if let Some(initrd) = &initrd {
            let length = initrd.metadata().map(|m| m.len());
            if !length.as_ref().is_ok_and(|l| *l > 0) {
                return Err(fail("initrd", initrd, length.map_or_else(|e| e.to_string(), |_| "is empty".into())));
            }
        }
        Ok(Self { manifest, folder, kernel, initrd, rootfs })
    }

    /// The manifest.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }
    /// The image's folder, absolute and without links.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// The kernel, absolute.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }
    /// The initrd, absolute.
    pub fn initrd(&self) -> Option<&Path> {
        self.initrd.as_deref()
    }
    /// The root file system, absolute.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }
    /// The bytes of kernel, initrd and root file system together.
    pub fn size(&self) -> u64 {
        let files = [Some(&self.kernel), self.initrd.as_ref(), Some(&self.rootfs)];
        files.into_iter().flatten().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    }
}

fn read_manifest(folder: &Path) -> Result<ImageManifest, ImageError> {
    let name = Path::new("image.json");
    let path = folder.join(name);
    if let Err(e) = fs::symlink_metadata(&path) {
        return Err(match e.kind() {
            io::ErrorKind::NotFound => ImageError::NoManifest(folder.into()),
            _ => ImageError::io("read", path)(e),
        });
    }
    // Opened only after it is known to be a file: to open a FIFO would be to wait.
    let fail = |why| ImageError::File { folder: folder.into(), what: "manifest", path: name.into(), why };
    let path = find_inside(folder, name).map_err(fail)?;
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MANIFEST_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(ImageError::io("read", &path))?;
    if bytes.len() as u64 > MANIFEST_LIMIT {
        return Err(fail(format!("has more than {} KiB", MANIFEST_LIMIT >> 10)));
    }
    ImageManifest::parse(&bytes).map_err(|source| ImageError::Manifest { folder: folder.into(), source })
}

/// The file that a path of the manifest really names; it lies in the folder, or, like the folder, in Nix's store.
fn find_inside(folder: &Path, path: &Path) -> Result<PathBuf, String> {
    let found = folder.join(path).canonicalize().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "does not exist".to_string(),
        _ => format!("cannot be opened: {e}"),
    })?;
    let inside = found.starts_with(folder) || (folder.starts_with(NIX_STORE) && found.starts_with(NIX_STORE));
    if !inside {
        return Err(format!("is a link that leaves the image folder, to {}", found.display()));
    }
    if !found.is_file() {
        return Err("is not a file".into());
    }
    Ok(found)
}

/// What a kernel's first bytes say it is (Linux `Documentation/arch/x86/boot.rst`, `Documentation/arch/arm64/booting.rst`).
pub(crate) fn kernel_format(head: &[u8]) -> Option<KernelFormat> {
    if head.starts_with(b"\x7fELF") {
        Some(KernelFormat::Elf)
    } else if head.get(0x202..0x206) == Some(b"HdrS") {
        Some(KernelFormat::BzImage)
    } else if head.get(56..60) == Some(b"ARM\x64") {
        Some(KernelFormat::Image)
    } else {
        None
    }
}

/// The format of the kernel whose first bytes these are, if it runs on this machine's CPU; else why not.
pub(crate) fn judge_kernel(head: &[u8]) -> Result<KernelFormat, String> {
    let format = kernel_format(head).ok_or("is not a kernel (neither ELF, bzImage nor arm64 Image)")?;
    // `xloadflags` of the boot protocol, bit 0: the kernel has a 64-bit entry.
    let wide = || head.get(0x236).is_some_and(|flags| flags & 1 != 0);
    let cpu = match format {
        KernelFormat::Elf => elf::cpu(head).unwrap_or("another CPU"),
        KernelFormat::BzImage if wide() => "x86_64",
        KernelFormat::BzImage => "32-bit x86",
        KernelFormat::Image => "aarch64",
    };
    if cpu == ARCH { Ok(format) } else { Err(format!("is for {cpu}, and this machine is {ARCH}")) }
}

fn check_kernel(path: &Path, format: KernelFormat) -> Result<(), String> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|f| f.take(0x300).read_to_end(&mut head));
    read.map_err(|e| format!("cannot be read: {e}"))?;
    let found = judge_kernel(&head)?;
    if found != format {
        let word = |f: KernelFormat| serde_json::to_string(&f).unwrap_or_default();
        return Err(format!("has the format {}, but image.json says {}", word(found), word(format)));
    }
    Ok(())
}

fn check_rootfs(path: &Path, size: Option<u64>) -> Result<(), String> {
    let unreadable = |e: io::Error| format!("cannot be read: {e}");
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if let Some(size) = size.filter(|size| *size != length) {
        return Err(format!(
            "has {length} bytes, but image.json says {size}: it is truncated or not the one that was built"
        ));
    }
    const NOT_EXT4: &str = "is not an ext4 file system";
    if length < superblock::RANGE.end {
        return Err(NOT_EXT4.into());
    }
    let mut block = [0; (superblock::RANGE.end - superblock::RANGE.start) as usize];
    file.read_exact_at(&mut block, superblock::RANGE.start).map_err(unreadable)?;
    let found = Superblock::parse(&block).ok_or(NOT_EXT4)?;
    if found.size > length {
        return Err(format!("is truncated: it has {length} of the {} bytes of its file system", found.size));
    }
    if found.label != labels::ROOT.as_bytes() {
        let label = String::from_utf8_lossy(&found.label).into_owned();
        return Err(format!("has the label {label:?}, but guests look for {:?}", labels::ROOT));
    }
    Ok(())
}
