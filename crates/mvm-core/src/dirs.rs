//! Every path that mvm keeps on disk, in one place. Nobody else joins a path.

use crate::{Diagnostic, ErrorKind, ImageName, TemplateName, VmName};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folders of mvm, after the XDG base directory specification (version 0.8).
///
/// | folder | default | override | holds |
/// |---|---|---|---|
/// | cache | `~/.cache/mvm` | `MVM_CACHE_DIR` | images, kernels, runtime state of VMs |
/// | config | `~/.config/mvm` | `MVM_CONFIG_DIR` | `config.toml` |
/// | state | `~/.local/state/mvm` | `MVM_STATE_DIR` | logs |
/// | share | `~/.local/share/mvm` | `MVM_SHARE_DIR` | the registry: specs, keys and writable layers of VMs; volumes; templates; images that were fetched |
/// | runtime | `$XDG_RUNTIME_DIR/mvm`, else `run` in the cache folder | `MVM_RUNTIME_DIR` | sockets |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    cache: PathBuf,
    config: PathBuf,
    state: PathBuf,
    share: PathBuf,
    runtime: PathBuf,
}

/// Why the folders could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirsError {
    /// Neither `HOME` nor the override is there.
    #[error("cannot tell where the {0} folder is: HOME is not set")]
    NoHome(&'static str),
    /// A variable holds a relative path.
    #[error("{variable} is {value:?}, which is not an absolute path")]
    Relative {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: PathBuf,
    },
}

impl Diagnostic for DirsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("set HOME, or MVM_CACHE_DIR, MVM_CONFIG_DIR, MVM_STATE_DIR, MVM_SHARE_DIR and MVM_RUNTIME_DIR".into())
    }
}

impl Dirs {
    /// The folders of this process's environment.
    pub fn from_env() -> Result<Self, DirsError> {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// The folders of a given environment.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, DirsError> {
        let set = |name: &str| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = |name, ours: &'static str, xdg: &str, home: &str| match set(ours) {
            Some(value) if value.is_absolute() => Ok(value),
            Some(value) => Err(DirsError::Relative { variable: ours, value }),
            // The specification says to pass over relative XDG paths.
            None => match (set(xdg).filter(|p| p.is_absolute()), set("HOME").filter(|p| p.is_absolute())) {
                (Some(base), _) => Ok(base.join("mvm")),
                (None, Some(base)) => Ok(base.join(home).join("mvm")),
                (None, None) => Err(DirsError::NoHome(name)),
            },
        };
        let cache = folder("cache", "MVM_CACHE_DIR", "XDG_CACHE_HOME", ".cache")?;
        let runtime = match set("MVM_RUNTIME_DIR") {
            Some(value) if value.is_absolute() => value,
            Some(value) => return Err(DirsError::Relative { variable: "MVM_RUNTIME_DIR", value }),
            None => match set("XDG_RUNTIME_DIR").filter(|p| p.is_absolute()) {
                Some(base) => base.join("mvm"),
                None => cache.join("run"),
            },
        };
        Ok(Self {
            config: folder("config", "MVM_CONFIG_DIR", "XDG_CONFIG_HOME", ".config")?,
            state: folder("state", "MVM_STATE_DIR", "XDG_STATE_HOME", ".local/state")?,
            share: folder("share", "MVM_SHARE_DIR", "XDG_DATA_HOME", ".local/share")?,
            cache,
            runtime,
        })
    }

    /// `config.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// Assembled images, each a folder named by its content.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// The lock of whoever brings an image to where a backend wants it.
    pub fn import_lock(&self) -> PathBuf {
        self.images().join(".import")
    }

    /// Guest kernels, each a folder.
    pub fn kernels(&self) -> PathBuf {
        self.cache.join("kernels")
    }

    /// Pre-made empty writable layers, named by size.
    pub fn layers(&self) -> PathBuf {
        self.cache.join("layers")
    }

    /// What probing this machine told, valid for one boot of the host.
    pub fn probes(&self) -> PathBuf {
        self.cache.join("probes")
    }

    /// Evaluations of flakes that are remembered, each a file; 0700.
    pub fn evaluations(&self) -> PathBuf {
        self.cache.join("evaluations")
    }

    /// GC roots of builds that no VM uses yet.
    pub fn gc_roots(&self) -> PathBuf {
        self.share.join("gcroots")
    }

    /// The GC root of an image that is built for a new VM, until the VM has its own. Another `up` of the same name, of which
    /// only one will make the VM, has another.
    pub fn building_vm(&self, name: &VmName) -> PathBuf {
        self.gc_roots().join(format!("{name}.up-{}", std::process::id()))
    }

    /// The GC root of a template's image while it is built. No VM's build has such a name.
    pub fn building_template(&self, name: &TemplateName) -> PathBuf {
        self.gc_roots().join(format!("{name}.template-{}", std::process::id()))
    }

    /// One folder a template.
    pub fn templates(&self) -> PathBuf {
        self.share.join("templates")
    }

    /// The lock of who changes a template.
    pub fn templates_lock(&self) -> PathBuf {
        self.templates().join(".lock")
    }

    /// The files of one template.
    pub fn template(&self, name: &TemplateName) -> TemplateDirs {
        TemplateDirs { folder: self.templates().join(name.as_str()) }
    }

    /// The GC root of an image that is being fetched. No VM's build has such a name.
    pub fn fetching(&self, name: &ImageName) -> PathBuf {
        self.gc_roots().join(format!("{name}.fetch-{}", std::process::id()))
    }

    /// Images that were fetched: one folder each.
    pub fn fetched_images(&self) -> PathBuf {
        self.share.join("images")
    }

    /// The files of one image that was fetched.
    pub fn fetched_image(&self, name: &ImageName) -> FetchedDirs {
        FetchedDirs { folder: self.fetched_images().join(name.as_str()) }
    }

    /// The registry: one folder a VM.
    pub fn vms(&self) -> PathBuf {
        self.share.join("vms")
    }

    /// Volumes: one folder a VM, which outlives it.
    pub fn volumes(&self) -> PathBuf {
        self.share.join("volumes")
    }

    /// The folders of one VM.
    pub fn vm(&self, name: &VmName) -> VmDirs {
        VmDirs {
            share: self.vms().join(name.as_str()),
            volumes: self.volumes().join(name.as_str()),
            cache: self.cache.join("vms").join(name.as_str()),
            logs: self.state.join("logs").join(name.as_str()),
            runtime: self.runtime.join("vms").join(name.as_str()),
        }
    }
}

/// The folders and files of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDirs {
    share: PathBuf,
    volumes: PathBuf,
    cache: PathBuf,
    logs: PathBuf,
    runtime: PathBuf,
}

impl VmDirs {
    /// The folder whose presence says that the name is taken. Its supervisor holds it (flock) for as long as it lives.
    pub fn share(&self) -> &Path {
        &self.share
    }
    /// The folder of its volumes: user data, which outlives it.
    pub fn volumes(&self) -> &Path {
        &self.volumes
    }
    /// The file of a volume. Its name is one that [`crate::Volume::check_all`] accepts.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes.join(format!("{name}.ext4"))
    }
    /// The folder of what can be made again.
    pub fn cache(&self) -> &Path {
        &self.cache
    }
    /// The folder of logs.
    pub fn logs(&self) -> &Path {
        &self.logs
    }
    /// The folder of sockets; 0700.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }
    /// The VM as asked for.
    pub fn spec(&self) -> PathBuf {
        self.share.join("spec.json")
    }
    /// The keys of the guest channel; 0600.
    pub fn keys(&self) -> PathBuf {
        self.share.join("keys.json")
    }
    /// The writable layer: user data.
    pub fn writable_layer(&self) -> PathBuf {
        self.share.join("rw.ext4")
    }
    /// Where a NixOS configuration's own runner works: the volumes that it makes are user data.
    pub fn runner(&self) -> PathBuf {
        self.share.join("runner")
    }
    /// The GC root that keeps a Nix-built image.
    pub fn gc_root(&self) -> PathBuf {
        self.share.join("gcroot")
    }
    /// What the supervisor last wrote of itself.
    pub fn state(&self) -> PathBuf {
        self.cache.join("state.json")
    }
    /// The config drive of the current start; 0600.
    pub fn config_drive(&self) -> PathBuf {
        self.cache.join("config.ext4")
    }
    /// The drive with the secrets of the current start, until the guest has them; 0600.
    pub fn secrets_drive(&self) -> PathBuf {
        self.runtime.join("secrets.ext4")
    }
    /// The guest's serial console.
    pub fn console_log(&self) -> PathBuf {
        self.logs.join("console.log")
    }
    /// What the VMM, its helpers and the supervisor say.
    pub fn hypervisor_log(&self) -> PathBuf {
        self.logs.join("hypervisor.log")
    }
    /// The supervisor's control socket; 0600.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }
    /// The guest channel, where it is a Unix socket; 0600.
    pub fn vsock_socket(&self) -> PathBuf {
        self.runtime.join("v.sock")
    }
}

/// The folder and files of one template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateDirs {
    folder: PathBuf,
}

impl TemplateDirs {
    /// The folder whose presence says that the name is taken.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// What the user wrote: flake and resources.
    pub fn file(&self) -> PathBuf {
        self.folder.join("template.toml")
    }
    /// The GC root that keeps the image of the last build.
    pub fn gc_root(&self) -> PathBuf {
        self.folder.join("image")
    }
    /// Of what the last build was made, and when.
    pub fn build(&self) -> PathBuf {
        self.folder.join("build.json")
    }
}

/// The files that are kept of an image that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedDirs {
    folder: PathBuf,
}

impl FetchedDirs {
    /// The folder of all of them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// The link to the image in Nix's store, which is also its GC root. While it is there the image has been fetched.
    pub fn gc_root(&self) -> PathBuf {
        self.folder.join("gcroot")
    }
    /// Where the image came from.
    pub fn origin(&self) -> PathBuf {
        self.folder.join("origin.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn dirs(vars: &[(&str, &str)]) -> Result<Dirs, DirsError> {
        let vars: HashMap<_, _> = vars.iter().map(|(k, v)| (k.to_string(), OsString::from(v))).collect();
        Dirs::from_vars(|name| vars.get(name).cloned())
    }

    #[test]
    fn home_alone_is_enough() {
        let dirs = dirs(&[("HOME", "/h")]).unwrap();
        assert_eq!(dirs.images(), Path::new("/h/.cache/mvm/images"));
        assert_eq!(dirs.config_file(), Path::new("/h/.config/mvm/config.toml"));
        let vm = dirs.vm(&VmName::new("a").unwrap());
        assert_eq!(vm.spec(), Path::new("/h/.local/share/mvm/vms/a/spec.json"));
        assert_eq!(vm.console_log(), Path::new("/h/.local/state/mvm/logs/a/console.log"));
        assert_eq!(vm.control_socket(), Path::new("/h/.cache/mvm/run/vms/a/control.sock"));
        let template = dirs.template(&TemplateName::new("t").unwrap());
        assert_eq!(template.file(), Path::new("/h/.local/share/mvm/templates/t/template.toml"));
    }

    #[test]
    fn overrides_win_and_must_be_absolute() {
        let got = dirs(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("MVM_CACHE_DIR", "/c")]).unwrap();
        assert_eq!(got.images(), Path::new("/c/images"));
        let got = dirs(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("XDG_RUNTIME_DIR", "/r")]).unwrap();
        assert_eq!(got.images(), Path::new("/x/mvm/images"));
        assert_eq!(got.vm(&VmName::new("a").unwrap()).runtime(), Path::new("/r/mvm/vms/a"));
        assert!(matches!(dirs(&[("HOME", "/h"), ("MVM_STATE_DIR", "s")]), Err(DirsError::Relative { .. })));
    }

    #[test]
    fn without_home_it_says_so() {
        assert_eq!(dirs(&[]), Err(DirsError::NoHome("cache")));
        assert_eq!(dirs(&[("HOME", "")]), Err(DirsError::NoHome("cache")));
    }
}
