//! What a built-in image is made of: found, read once, and told apart by content.

use super::index::Stamp;
use crate::elf::check_static;
use crate::error::ImageError;
use crate::image::judge_kernel;
use crate::kernel::GuestKernel;
use crate::modules::{self, Module};
use crate::unpack;
use mvm_core::KernelFormat;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Counts changes to how images are assembled.
pub(super) const ASSEMBLY: u32 = 4;
/// Most bytes of a kernel or program.
const LIMIT: u64 = 512 << 20;

/// The static `mvm-guest` of this mvmctl: `MVM_GUEST`, else beside it, else in `../libexec/mvm`.
pub fn find_guest_binary() -> Result<PathBuf, ImageError> {
    const HINT: &str = "build it with scripts/build-guest.sh, or set MVM_GUEST";
    let places = match std::env::var_os("MVM_GUEST").filter(|v| !v.is_empty()) {
        Some(given) => vec![PathBuf::from(given)],
        None => {
            let exe = std::env::current_exe().and_then(|exe| exe.canonicalize()).unwrap_or_default();
            let dir = exe.parent().unwrap_or(Path::new("/"));
            let libexec = dir.parent().unwrap_or(Path::new("/")).join("libexec/mvm/mvm-guest");
            vec![dir.join("mvm-guest"), libexec]
        }
    };
    let found = places.iter().find(|p| p.is_file()).cloned().ok_or_else(|| ImageError::Missing {
        what: "the guest program mvm-guest",
        places: places.iter().map(|p| p.display().to_string()).collect(),
        hint: HINT,
    })?;
    check_static(&found, HINT)?;
    Ok(found)
}

/// A busybox that runs in a guest: `MVM_BUSYBOX`, else the first static one of `PATH` and the usual places.
pub fn find_busybox() -> Result<PathBuf, ImageError> {
    const HINT: &str = "install a static busybox (Debian: `apt-get install busybox-static`), or set MVM_BUSYBOX";
    if let Some(given) = std::env::var_os("MVM_BUSYBOX").filter(|v| !v.is_empty()) {
        let given = PathBuf::from(given);
        check_static(&given, HINT)?;
        return Ok(given);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut unfit = None;
    for dir in std::env::split_paths(&path).chain(["/bin", "/usr/bin"].map(PathBuf::from)) {
        let found = dir.join("busybox");
        if !found.is_file() {
            continue;
        }
        match check_static(&found, HINT) {
            Ok(()) => return Ok(found),
            Err(error) => unfit = unfit.or(Some(error)),
        }
    }
    Err(unfit.unwrap_or(ImageError::Missing {
        what: "busybox",
        places: vec!["$MVM_BUSYBOX".into(), "PATH".into(), "/bin".into(), "/usr/bin".into()],
        hint: HINT,
    }))
}

/// The content of everything that an image is made of.
pub(super) struct Inputs {
    pub guest: Vec<u8>,
    pub busybox: Vec<u8>,
    pub busybox_path: PathBuf,
    pub modules: Vec<Module>,
    pub cmdline: String,
    /// Of every file that was read: the three that were asked for, then those that they brought along.
    pub stamps: Vec<Stamp>,
    kernel: Vec<u8>,
    kernel_path: PathBuf,
}

impl Inputs {
    pub(super) fn read(guest: &Path, busybox: &Path, kernel: &GuestKernel) -> Result<Self, ImageError> {
        let mut stamps = Vec::new();
        let mut read = |path: &Path| {
            let (stamp, bytes) = read_stamped(path)?;
            stamps.push(stamp);
            Ok(bytes)
        };
        let (guest, busybox_bytes, kernel_bytes) = (read(guest)?, read(busybox)?, read(&kernel.file)?);
        let config = match &kernel.config {
            Some(path) => String::from_utf8_lossy(&read(path)?).into_owned(),
            None => String::new(),
        };
        let says = |line: &str| config.lines().any(|l| l == line);
        let modules = match &kernel.modules {
            // A kernel that loads signed modules only refuses them once anything is taken out.
            Some(folder) => modules::read(folder, !says("CONFIG_MODULE_SIG_FORCE=y"))?,
            None => modules::Modules::default(),
        };
        for path in &modules.sources {
            let meta = fs::metadata(path).map_err(ImageError::io("read", path))?;
            stamps.push(Stamp::new(path, &meta));
        }
        // Such a kernel finds its drives without ACPI. Its guest skips ACPI, which saves a tenth of the boot; backends
        // read the word `acpi=off` and leave the tables away too.
        let cmdline = if says("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y") { "acpi=off" } else { "" };
        Ok(Self {
            guest,
            busybox: busybox_bytes,
            busybox_path: busybox.into(),
            modules: modules.modules,
            cmdline: cmdline.into(),
            stamps,
            kernel: kernel_bytes,
            kernel_path: kernel.file.clone(),
        })
    }

    /// What tells this image from others: 32 hex digits over everything that goes into it.
    pub(super) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(&ASSEMBLY.to_le_bytes());
        part(&mvm_protocol::PROTOCOL_VERSION.to_le_bytes());
        part(env!("CARGO_PKG_VERSION").as_bytes());
        for bytes in [&self.guest, &self.busybox, &self.kernel] {
            part(bytes);
        }
        part(self.cmdline.as_bytes());
        for module in &self.modules {
            part(module.name.as_bytes());
            part(&module.bytes);
        }
        digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The kernel as guests get it. A bzImage is unpacked: that saves each guest its own unpacking, and some hypervisors
    /// take nothing else. One that cannot be unpacked here is used as it is.
    pub(super) fn unpacked_kernel(&self) -> Result<(Vec<u8>, KernelFormat), ImageError> {
        let unusable = |why| ImageError::Unusable { path: self.kernel_path.clone(), why, hint: "use another kernel" };
        let format = judge_kernel(&self.kernel).map_err(unusable)?;
        if format != KernelFormat::BzImage {
            return Ok((self.kernel.clone(), format));
        }
        match unpack::vmlinux_from_bzimage(&self.kernel) {
            Ok(vmlinux) => match judge_kernel(&vmlinux) {
                Ok(format) => Ok((vmlinux, format)),
                Err(why) => Err(unusable(why)),
            },
            Err(error) => {
                tracing::info!(%error, kernel = %self.kernel_path.display(), "the kernel is used compressed");
                Ok((self.kernel.clone(), KernelFormat::BzImage))
            }
        }
    }
}

/// A file's bytes with its stamp, taken before: a change while it is read makes the stamp void.
fn read_stamped(path: &Path) -> Result<(Stamp, Vec<u8>), ImageError> {
    let fail = || ImageError::io("read", path);
    let file = File::open(path).map_err(fail())?;
    let stamp = Stamp::new(path, &file.metadata().map_err(fail())?);
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(fail())?;
    if bytes.len() as u64 > LIMIT {
        return Err(fail()(std::io::ErrorKind::FileTooLarge.into()));
    }
    Ok((stamp, bytes))
}
