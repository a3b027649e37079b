//! Which VMs exist, and which of them live. The presence of a folder says that a name is taken; a lock on that folder,
//! which a supervisor holds, says that the VM lives. Nothing else is believed.

use crate::backend::{self, BackendError};
use crate::files;
use crate::folders::{self, Failed, begins, is_at, share, sweep};
use mvm_core::{Diagnostic, Dirs, ErrorKind, ExitReason, Hypervisor, VmDirs, VmName, VmRecord, VmSpec, VmState};
use mvm_protocol::ChannelKeys;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// How the names of the GC roots of the last `build` begin.
const LAST_BUILD: &str = ".last-build";

/// The VMs of one user.
#[derive(Debug, Clone)]
pub struct Registry {
    dirs: Dirs,
}

/// A VM as it was when it was looked at.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// As asked for.
    pub spec: VmSpec,
    /// As its supervisor last wrote; a dead supervisor's claims are corrected.
    pub record: VmRecord,
}

/// Why the registry could not do it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No such VM.
    #[error("there is no VM named {0:?}")]
    NotFound(String),
    /// The name is taken.
    #[error("a VM named {0:?} exists already")]
    Taken(String),
    /// A supervisor holds it.
    #[error("the VM {0:?} is running")]
    Running(String),
    /// Its folder cannot be read or written.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Diagnostic for RegistryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Taken(_) | Self::Running(_) => ErrorKind::Busy,
            Self::Io { source, .. } if is_denied(source) => ErrorKind::Denied,
            Self::Io { .. } => ErrorKind::Unexpected,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound(_) => Some("`mvmctl ls -a` shows the VMs there are".into()),
            Self::Taken(name) => Some(format!(
                "choose another --name, start it with `mvmctl start {name}`, or remove it with `mvmctl rm {name}`"
            )),
            Self::Running(name) => Some(format!("stop it first with `mvmctl down {name}`")),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("the disk is full: free some space and try again".into())
            }
            Self::Io { source, .. } if is_denied(source) => {
                Some("check who owns it and its mode, and that its disk can be written to".into())
            }
            Self::Io { .. } => None,
        }
    }
}

impl From<Failed> for RegistryError {
    fn from(Failed { action, path, source }: Failed) -> Self {
        Self::Io { action, path, source }
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn io_error<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> RegistryError + 'p {
    move |source| RegistryError::Io { action, path: path.to_path_buf(), source }
}

impl Registry {
    /// The registry in these folders.
    pub fn new(dirs: Dirs) -> Self {
        Self { dirs }
    }

    /// The folders.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// The folders of one VM.
    pub fn vm(&self, name: &VmName) -> VmDirs {
        self.dirs.vm(name)
    }

    /// Makes a VM: its folder appears whole, with spec and keys, or not at all.
    /// `furnish` may put more into the folder before it appears.
    pub fn create(
        &self,
        spec: &VmSpec,
        furnish: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<VmDirs, RegistryError> {
        self.sweep();
        let vm = self.vm(&spec.name);
        let made = folders::appear(vm.share(), |draft| {
            let name_of = |path: PathBuf| draft.join(path.file_name().unwrap_or_default());
            let keys = ChannelKeys::generate().map_err(|e| io::Error::other(e.to_string()))?;
            files::write_json(&name_of(vm.keys()), &keys)?;
            files::write_json(&name_of(vm.spec()), spec)?;
            furnish(draft)
        });
        match made {
            Ok(()) => Ok(vm),
            Err(failed) if failed.source.kind() == io::ErrorKind::AlreadyExists => {
                Err(RegistryError::Taken(spec.name.to_string()))
            }
            Err(failed) => Err(failed.into()),
        }
    }

    /// Reads a VM.
    pub fn get(&self, name: &VmName) -> Result<Snapshot, RegistryError> {
        let vm = self.vm(name);
        let spec: VmSpec = match files::read_json(&vm.spec()) {
            Ok(spec) => spec,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(RegistryError::NotFound(name.to_string())),
            Err(e) => return Err(io_error("read", &vm.spec())(e)),
        };
        let mut record: VmRecord = files::read_json(&vm.state()).unwrap_or_else(|_| VmRecord::new(VmState::Created));
        if record.state.is_live()
            && let Some(_still) = idle(&vm)?
        {
            // It may have ended in order between the look at its state and the look at its lock.
            record = files::read_json(&vm.state()).unwrap_or_else(|_| VmRecord::new(VmState::Created));
            if record.state.is_live() {
                record.state = VmState::Failed;
                record.exit = Some(ExitReason::SupervisorDied);
                (record.supervisor_pid, record.vmm_pid) = (None, None);
                record.ports.clear();
                settle(&vm, &record);
            }
        }
        Ok(Snapshot { spec, record })
    }

    /// Every VM, by name. Folders that are no VM's are passed over.
    pub fn list(&self) -> Result<Vec<Snapshot>, RegistryError> {
        self.sweep();
        let vms = self.dirs.vms();
        let entries = match std::fs::read_dir(&vms) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io_error("read", &vms)(e)),
        };
        let mut names: Vec<VmName> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter_map(|n| VmName::new(n).ok())
            .collect();
        names.sort();
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            match self.get(&name) {
                // Removed in between.
                Err(RegistryError::NotFound(_)) => {}
                other => found.push(other?),
            }
        }
        Ok(found)
    }

    /// Whether a supervisor holds the VM.
    pub fn is_running(&self, name: &VmName) -> Result<bool, RegistryError> {
        is_locked(&self.vm(name))
    }

    /// The GC root of the last `build` that named none.
    pub fn last_build(&self) -> PathBuf {
        self.dirs.gc_roots().join(LAST_BUILD)
    }

    /// Takes the VM's lock, as its supervisor does for as long as it lives.
    pub fn lock(&self, name: &VmName) -> Result<File, RegistryError> {
        let vm = self.vm(name);
        let path = vm.share();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(RegistryError::NotFound(name.to_string())),
            Err(e) => return Err(io_error("open", path)(e)),
        };
        let take = |how| rustix::fs::flock(&file, how);
        let taken = match take(FlockOperation::NonBlockingLockExclusive) {
            // Someone who only looks holds a shared lock for an instant: with that one we can share, and then wait.
            Err(rustix::io::Errno::WOULDBLOCK) => take(FlockOperation::NonBlockingLockShared)
                .and_then(|()| take(FlockOperation::Unlock))
                .and_then(|()| take(FlockOperation::LockExclusive)),
            done => done,
        };
        match taken {
            // It may have been removed while we waited.
            Ok(()) if !is_at(&file, path) => Err(RegistryError::NotFound(name.to_string())),
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(RegistryError::Running(name.to_string())),
            Err(e) => Err(io_error("lock", path)(e.into())),
        }
    }

    /// Shares the folder of GC roots of builds for as long as the file is kept: what lies there while nobody does was
    /// left by a build that was killed.
    pub fn building(&self) -> Result<File, RegistryError> {
        let roots = self.dirs.gc_roots();
        files::private_dir(&roots).map_err(io_error("make", &roots))?;
        share(&roots).map_err(io_error("lock", &roots))
    }

    /// Removes a VM that does not run, and everything it owns. What its backend keeps elsewhere and could not remove is
    /// told; the backend's next start of any VM does it then.
    pub async fn remove(&self, name: &VmName) -> Result<Option<BackendError>, RegistryError> {
        let _lock = self.lock(name)?;
        let left = self.forget_locked(name).await.err();
        self.remove_locked(name)?;
        Ok(left)
    }

    /// Removes what the backend of a VM keeps beside the VM's folders. The caller holds its lock.
    pub(crate) async fn forget_locked(&self, name: &VmName) -> Result<(), BackendError> {
        backend::forget(&self.dirs, name, self.last_hypervisor(name)).await
    }

    /// Ends what VMs may have left running whose supervisors died: all but what could not notice has ended by itself.
    /// Best effort: their next start does it too.
    pub async fn settle_backends(&self, vms: &[Snapshot]) {
        for Snapshot { spec, record } in vms.iter().filter(|vm| vm.record.exit == Some(ExitReason::SupervisorDied)) {
            let Ok(Some(_still)) = idle(&self.vm(&spec.name)) else { continue };
            if let Err(error) = backend::settle(&self.dirs, &spec.name, record.hypervisor).await {
                tracing::debug!(%error, vm = %spec.name, "cannot look for what its supervisor left");
            }
        }
    }

    /// What a VM ran on last, or is to run on: that has its layer.
    pub(crate) fn last_hypervisor(&self, name: &VmName) -> Option<Hypervisor> {
        let vm = self.vm(name);
        let ran = files::read_json::<VmRecord>(&vm.state()).ok().and_then(|record| record.hypervisor);
        ran.or_else(|| files::read_json::<VmSpec>(&vm.spec()).ok()?.hypervisor)
    }

    /// Removes a VM whose lock the caller holds.
    pub(crate) fn remove_locked(&self, name: &VmName) -> Result<(), RegistryError> {
        let vm = self.vm(name);
        files::remove_runtime(&vm).map_err(io_error("remove", vm.runtime()))?;
        for dir in [vm.cache(), vm.logs()] {
            files::remove_dir(dir).map_err(io_error("remove", dir))?;
        }
        Ok(folders::vanish(vm.share())?)
    }

    /// Removes a VM that does not run, with its volumes; or the volumes alone, where a VM of that name was removed before.
    /// What the backend could not remove is given as in [`Self::remove`].
    pub async fn remove_with_volumes(&self, name: &VmName) -> Result<Option<BackendError>, RegistryError> {
        match self.lock(name) {
            Ok(_lock) => {
                // While its folder is there, nobody else begins to use them.
                self.remove_volumes(name)?;
                let left = self.forget_locked(name).await.err();
                self.remove_locked(name)?;
                Ok(left)
            }
            Err(RegistryError::NotFound(_)) if self.volumes(name).is_ok_and(|volumes| !volumes.is_empty()) => {
                let vms = self.dirs.vms();
                files::private_dir(&vms).map_err(io_error("make", &vms))?;
                // Whoever makes a VM shares this lock.
                let folder = File::open(&vms).map_err(io_error("open", &vms))?;
                rustix::fs::flock(&folder, FlockOperation::LockExclusive)
                    .map_err(|e| io_error("lock", &vms)(e.into()))?;
                if self.vm(name).share().exists() {
                    return Err(RegistryError::Taken(name.to_string()));
                }
                self.remove_volumes(name)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The volumes that there are of a VM, whether it exists or not: their names, sorted.
    pub fn volumes(&self, name: &VmName) -> Result<Vec<String>, RegistryError> {
        let vm = self.vm(name);
        let unreadable = || io_error("read", vm.volumes());
        let entries = match std::fs::read_dir(vm.volumes()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unreadable())?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.map_err(unreadable())?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".ext4"));
            names.extend(name.filter(|name| !name.starts_with('.')).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Removes the volumes of a VM but those that were there before, after a start that failed. Nobody may run it.
    pub fn keep_volumes(&self, name: &VmName, before: &[String]) -> Result<(), RegistryError> {
        let vm = self.vm(name);
        for volume in self.volumes(name)?.iter().filter(|volume| !before.contains(volume)) {
            let path = vm.volume(volume);
            files::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        mvm_image::remove_volume_drafts(vm.volumes());
        // What is not ours stays, and the folder with it.
        let _ = std::fs::remove_dir(vm.volumes());
        Ok(())
    }

    /// Removes all volumes of a VM. The caller sees to it that nobody uses them.
    pub(crate) fn remove_volumes(&self, name: &VmName) -> Result<(), RegistryError> {
        let vm = self.vm(name);
        match vm.volumes().exists() {
            true => Ok(folders::vanish(vm.volumes())?),
            false => Ok(()),
        }
    }

    /// Removes what commands that were killed left half made or half removed.
    fn sweep(&self) {
        sweep(&self.dirs.vms(), folders::is_left);
        sweep(&self.dirs.volumes(), folders::is_left);
        // The root of the last `build` stays until the next one.
        sweep(&self.dirs.gc_roots(), |name| !begins(name, LAST_BUILD));
    }
}

/// Tidies up after a supervisor that died, while the caller sees to it that no other begins. Two may do so at once.
/// The config drive holds the guest's key, so it goes as it does after an end in order, and whatever was half written
/// with it. Best effort: a start does all of it again, and a reader without the right to write still gets the truth.
fn settle(vm: &VmDirs, record: &VmRecord) {
    let done = files::remove_runtime(vm)
        .and_then(|()| files::remove_sockets(&vm.runner()))
        .and_then(|()| files::keep_only(&vm.state()))
        .and_then(|()| files::remove_file(&mvm_image::draft_of(&vm.writable_layer())))
        .and_then(|()| files::write_json(&vm.state(), record));
    if let Err(error) = done {
        tracing::warn!(%error, "what a dead supervisor left cannot be tidied up");
    }
}

/// Whether someone holds the lock.
fn is_locked(vm: &VmDirs) -> Result<bool, RegistryError> {
    Ok(vm.share().exists() && idle(vm)?.is_none())
}

/// The shared lock, which can be had only where no supervisor holds the VM, and none begins while it is kept.
/// `None` where the VM lives, or is gone.
fn idle(vm: &VmDirs) -> Result<Option<File>, RegistryError> {
    let path = vm.share();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("open", path)(e)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(io_error("lock", path)(e.into())),
    }
}
