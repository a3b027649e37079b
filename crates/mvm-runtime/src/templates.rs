//! Which templates there are, and what was last built of each. The presence of a folder says that a name is taken. Whoever
//! builds or edits a template shares the lock of its folder, so that nobody removes it meanwhile.

use crate::files;
use crate::folders::{self, Failed};
use mvm_core::{Diagnostic, Dirs, ErrorKind, Template, TemplateDirs, TemplateName, TemplateTextError};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Most bytes that a template may have.
const LIMIT: u64 = 64 << 10;

/// The templates of one user.
#[derive(Debug, Clone)]
pub struct Templates {
    dirs: Dirs,
}

/// A template as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct StoredTemplate {
    /// Its name.
    pub name: TemplateName,
    /// What it says.
    pub template: Template,
    /// What was last built of it, where that is there still.
    pub build: Option<TemplateBuild>,
}

/// A template by its name, or what is wrong with it.
pub type ListedTemplate = (TemplateName, Result<StoredTemplate, TemplateError>);

/// The last build of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateBuild {
    /// The flake ref with its output: it tells a build of what the template says now from an older one.
    pub flake: String,
    /// The image folder.
    pub image: PathBuf,
    /// When, in seconds since the epoch.
    #[serde(default)]
    pub at: u64,
}

/// A copy of a template for an editor, gone when it is dropped.
#[derive(Debug)]
pub struct TemplateDraft {
    folder: tempfile::TempDir,
    /// Against the removal of the template, and of the draft.
    _held: (File, File),
}

/// Why a template cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// No such template.
    #[error("there is no template named {0:?}")]
    NotFound(String),
    /// The name is taken.
    #[error("a template named {0:?} exists already")]
    Taken(String),
    /// Somebody builds or edits it.
    #[error("the template {0:?} is being built or edited")]
    InUse(String),
    /// It is not what it was when it was read.
    #[error("the template {0:?} was changed by somebody else meanwhile")]
    Changed(String),
    /// Its file is no template.
    #[error("{}: {source}", .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Its name, for advice.
        name: String,
        /// What is wrong, and in which line.
        source: TemplateTextError,
    },
    /// Larger than any template.
    #[error("{} has more than {} KiB", .0.display(), LIMIT >> 10)]
    TooLong(PathBuf),
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

impl From<Failed> for TemplateError {
    fn from(Failed { action, path, source }: Failed) -> Self {
        Self::Io { action, path, source }
    }
}

impl Diagnostic for TemplateError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Taken(_) | Self::InUse(_) | Self::Changed(_) => ErrorKind::Busy,
            Self::Text { .. } | Self::TooLong(_) => ErrorKind::Usage,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
                _ => ErrorKind::Unexpected,
            },
        }
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound(_) => "`mvmctl template list` shows the templates there are".into(),
            Self::Taken(name) => format!(
                "choose another name, change it with `mvmctl template edit {name}`, or remove it with `mvmctl template rm {name}`"
            ),
            Self::InUse(_) => "wait for the other command, or end it".into(),
            Self::Changed(name) => format!("look at it with `mvmctl template info {name}`, and edit it again"),
            Self::Text { name, source, .. } => {
                format!("put it right with `mvmctl template edit {name}`; {}", source.hint().unwrap_or_default())
            }
            Self::TooLong(_) => "a template is a short text: put another file in its place".into(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => "the disk is full: free some space and try again".into(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "check who owns it and its mode; MVM_SHARE_DIR chooses another folder".into()
                }
                _ => return None,
            },
        })
    }
}

impl StoredTemplate {
    /// The last build, where it is one of this flake ref.
    pub fn build_of(&self, flake: &str) -> Option<&TemplateBuild> {
        self.build.as_ref().filter(|build| build.flake == flake)
    }
}

impl TemplateDraft {
    /// The file to edit.
    pub fn file(&self) -> PathBuf {
        // Its name tells editors what it is.
        self.folder.path().join("template.toml")
    }

    /// What it says now.
    pub fn read(&self) -> Result<Vec<u8>, TemplateError> {
        read_text(&self.file())
    }
}

impl Templates {
    /// The templates in these folders.
    pub fn new(dirs: Dirs) -> Self {
        Self { dirs }
    }

    /// The files of one template.
    pub fn files(&self, name: &TemplateName) -> TemplateDirs {
        self.dirs.template(name)
    }

    /// Makes a template of a text: its folder appears whole, or not at all.
    pub fn create(&self, name: &TemplateName, text: &str) -> Result<(), TemplateError> {
        let files = self.files(name);
        Template::parse(text.as_bytes()).map_err(wrong_text(name, &files))?;
        self.sweep();
        let made = folders::appear(files.folder(), |draft| {
            files::write(&draft.join(files.file().file_name().unwrap_or_default()), text.as_bytes())
        });
        match made {
            Err(failed) if failed.source.kind() == io::ErrorKind::AlreadyExists => {
                Err(TemplateError::Taken(name.to_string()))
            }
            done => Ok(done?),
        }
    }

    /// Reads a template.
    pub fn get(&self, name: &TemplateName) -> Result<StoredTemplate, TemplateError> {
        let files = self.files(name);
        let template = Template::parse(&self.text(name)?).map_err(wrong_text(name, &files))?;
        // A link and a note that do not belong together, or of which one is damaged, are as good as no build.
        let build = files::read_json::<TemplateBuild>(&files.build()).ok().filter(|build| {
            std::fs::read_link(files.gc_root()).is_ok_and(|target| target == build.image) && build.image.exists()
        });
        Ok(StoredTemplate { name: name.clone(), template, build })
    }

    /// What the user wrote, be it a template or not.
    pub fn text(&self, name: &TemplateName) -> Result<Vec<u8>, TemplateError> {
        let files = self.files(name);
        match read_text(&files.file()) {
            Err(_) if !files.folder().is_dir() => Err(TemplateError::NotFound(name.to_string())),
            done => done,
        }
    }

    /// Every template, by name: those that are damaged with what is wrong. What is no template's folder is passed over.
    pub fn list(&self) -> Result<Vec<ListedTemplate>, TemplateError> {
        self.sweep();
        let folder = self.dirs.templates();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Failed::to("read", &folder)(e).into()),
        };
        let mut names: Vec<TemplateName> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter_map(|name| TemplateName::new(name).ok())
            .collect();
        names.sort();
        let found = names.into_iter().map(|name| {
            let template = self.get(&name);
            (name, template)
        });
        // What was removed in between is not there.
        Ok(found.filter(|(_, template)| !matches!(template, Err(TemplateError::NotFound(_)))).collect())
    }

    /// Puts another text in the place of the one that was read.
    ///
    /// # Errors
    /// A text that is no template, and a template that says something else by now: it stays as it is then.
    pub fn replace(&self, name: &TemplateName, before: &[u8], text: &[u8]) -> Result<(), TemplateError> {
        let files = self.files(name);
        Template::parse(text).map_err(wrong_text(name, &files))?;
        let _held = self.hold(name)?;
        let lock = self.dirs.templates_lock();
        let _alone = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .and_then(|file| Ok(rustix::fs::flock(&file, FlockOperation::LockExclusive).map(|()| file)?))
            .map_err(Failed::to("lock", &lock))?;
        if self.text(name)? != before {
            return Err(TemplateError::Changed(name.to_string()));
        }
        Ok(files::write(&files.file(), text).map_err(Failed::to("write", &files.file()))?)
    }

    /// A copy for an editor.
    pub fn draft(&self, name: &TemplateName) -> Result<TemplateDraft, TemplateError> {
        self.sweep();
        let held = self.hold(name)?;
        let folder = self.dirs.templates();
        let kept = folders::share(&folder).map_err(Failed::to("lock", &folder))?;
        let draft = TemplateDraft { folder: folders::draft_in(&folder)?, _held: (held, kept) };
        files::write(&draft.file(), &self.text(name)?).map_err(Failed::to("write", &draft.file()))?;
        Ok(draft)
    }

    /// Keeps a template from being removed for as long as the file is kept.
    pub fn hold(&self, name: &TemplateName) -> Result<File, TemplateError> {
        self.lock(name, FlockOperation::LockShared)
    }

    /// Notes what was built. The GC root has to lead to it already.
    pub fn note_build(&self, name: &TemplateName, build: &TemplateBuild) -> Result<(), TemplateError> {
        let path = self.files(name).build();
        Ok(files::write_json(&path, build).map_err(Failed::to("write", &path))?)
    }

    /// Removes a template with its GC root.
    pub fn remove(&self, name: &TemplateName) -> Result<(), TemplateError> {
        let _alone = self.lock(name, FlockOperation::NonBlockingLockExclusive)?;
        Ok(folders::vanish(self.files(name).folder())?)
    }

    fn lock(&self, name: &TemplateName, how: FlockOperation) -> Result<File, TemplateError> {
        let files = self.files(name);
        let folder = files.folder();
        // What is no folder is no template, and not ours to remove.
        let only_folders = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
        let file = match File::options().read(true).custom_flags(only_folders).open(folder) {
            Ok(file) => file,
            Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => {
                return Err(TemplateError::NotFound(name.to_string()));
            }
            Err(e) => return Err(Failed::to("open", folder)(e).into()),
        };
        match rustix::fs::flock(&file, how) {
            // It may have been removed while we waited.
            Ok(()) if !folders::is_at(&file, folder) => Err(TemplateError::NotFound(name.to_string())),
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(TemplateError::InUse(name.to_string())),
            Err(e) => Err(Failed::to("lock", folder)(e.into()).into()),
        }
    }

    fn sweep(&self) {
        folders::sweep(&self.dirs.templates(), folders::is_left);
    }
}

fn wrong_text(name: &TemplateName, files: &TemplateDirs) -> impl FnOnce(TemplateTextError) -> TemplateError {
    let (name, path) = (name.to_string(), files.file());
    move |source| TemplateError::Text { path, name, source }
}

fn read_text(path: &Path) -> Result<Vec<u8>, TemplateError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(Failed::to("read", path))?;
    if bytes.len() as u64 > LIMIT {
        return Err(TemplateError::TooLong(path.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn templates() -> (tempfile::TempDir, Templates) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().as_os_str().to_owned();
        let dirs = Dirs::from_vars(|name| (name == "HOME").then(|| path.clone())).unwrap();
        (home, Templates::new(dirs))
    }

    fn name(text: &str) -> TemplateName {
        TemplateName::new(text).unwrap()
    }

    const TEXT: &str = "flake = \"nixpkgs\"\n";

    #[test]
    fn a_name_is_given_once_and_is_free_again() {
        let (_home, templates) = templates();
        let web = name("web");
        assert!(matches!(templates.get(&web), Err(TemplateError::NotFound(_))));
        templates.create(&web, TEXT).unwrap();
        assert!(matches!(templates.create(&web, TEXT), Err(TemplateError::Taken(_))));
        assert_eq!(templates.get(&web).unwrap().template.flake, "nixpkgs");
        templates.remove(&web).unwrap();
        assert!(matches!(templates.remove(&web), Err(TemplateError::NotFound(_))));
        assert!(templates.list().unwrap().is_empty());
        templates.create(&web, TEXT).unwrap();
    }

    #[test]
    fn what_is_no_template_is_not_made() {
        let (home, templates) = templates();
        assert!(matches!(templates.create(&name("web"), "flak = 1"), Err(TemplateError::Text { .. })));
        assert_eq!(home.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn one_that_is_damaged_hides_no_other() {
        let (_home, templates) = templates();
        for each in ["a", "b", "c"] {
            templates.create(&name(each), TEXT).unwrap();
        }
        let file = templates.files(&name("b")).file();
        std::fs::write(&file, "flake = \"x\"\nmemry = 1\n").unwrap();
        std::fs::create_dir(file.parent().unwrap().with_file_name("Not A Name")).unwrap();
        let list = templates.list().unwrap();
        let fine: Vec<_> = list.iter().map(|(name, template)| (name.as_str(), template.is_ok())).collect();
        assert_eq!(fine, [("a", true), ("b", false), ("c", true)]);
        let said = list[1].1.as_ref().unwrap_err().to_string();
        assert!(said.contains("b/template.toml: line 2:") && said.contains("memry"), "{said}");
        // One whose file is gone is damaged; the name is still taken, and can be freed.
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(templates.get(&name("b")), Err(TemplateError::Io { .. })));
        templates.remove(&name("b")).unwrap();
        std::fs::write(templates.files(&name("a")).file(), vec![b'#'; LIMIT as usize + 1]).unwrap();
        assert!(matches!(templates.get(&name("a")), Err(TemplateError::TooLong(_))));
    }

    #[test]
    fn a_build_counts_where_its_root_leads_to_it() {
        let (home, templates) = templates();
        let web = name("web");
        templates.create(&web, TEXT).unwrap();
        let image = home.path().join("image");
        let build = TemplateBuild { flake: "nixpkgs#a".into(), image: image.clone(), at: 7 };
        templates.note_build(&web, &build).unwrap();
        assert_eq!(templates.get(&web).unwrap().build, None, "there is no root");
        symlink(&image, templates.files(&web).gc_root()).unwrap();
        assert_eq!(templates.get(&web).unwrap().build, None, "there is no image");
        std::fs::create_dir(&image).unwrap();
        let stored = templates.get(&web).unwrap();
        assert_eq!(stored.build.as_ref(), Some(&build));
        assert_eq!((stored.build_of("nixpkgs#a"), stored.build_of("nixpkgs#b")), (Some(&build), None));
        std::fs::write(templates.files(&web).build(), "{").unwrap();
        assert_eq!(templates.get(&web).unwrap().build, None, "the note is damaged");
    }

    #[test]
    fn who_edits_does_not_undo_what_another_did() {
        let (_home, templates) = templates();
        let web = name("web");
        templates.create(&web, TEXT).unwrap();
        let before = templates.text(&web).unwrap();
        templates.replace(&web, &before, b"flake = \"mine\"\n").unwrap();
        assert!(matches!(templates.replace(&web, &before, b"flake = \"late\"\n"), Err(TemplateError::Changed(_))));
        let now = templates.text(&web).unwrap();
        assert!(matches!(templates.replace(&web, &now, b"flake = 1\n"), Err(TemplateError::Text { .. })));
        assert_eq!(templates.text(&web).unwrap(), b"flake = \"mine\"\n");
    }

    #[test]
    fn what_is_used_is_not_removed_and_what_was_left_is_swept() {
        let (_home, templates) = templates();
        let web = name("web");
        templates.create(&web, TEXT).unwrap();
        let draft = templates.draft(&web).unwrap();
        assert_eq!(draft.read().unwrap(), TEXT.as_bytes());
        let left = draft.file();
        assert!(matches!(templates.remove(&web), Err(TemplateError::InUse(_))));
        assert_eq!(templates.list().unwrap().len(), 1);
        assert!(left.exists(), "it is somebody's");
        let TemplateDraft { folder, _held } = draft;
        let _killed = folder.keep();
        drop(_held);
        templates.list().unwrap();
        assert!(!left.exists());
        templates.remove(&web).unwrap();
    }
}
