//! Flake refs as users write them, made absolute and safe to hand to `nix`.
//!
//! The grammar is Nix's own ("Flake references" in the Nix manual): a folder, a URL or a registry name,
//! then `?query`, `#attribute` and `^outputs`. Parsing looks at nothing but the text; `FlakeRef::locate`
//! looks at the disk.

use mvm_core::{Diagnostic, ErrorKind};
use nix_derivation::StorePath;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longer refs are refused: no folder, URL or attribute path comes near.
const MAX_LENGTH: usize = 4096;

/// What a URL's path keeps as it is (RFC 3986 "unreserved", and the slash).
const URL_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where modules/microvm/guest.nix puts the image of a NixOS configuration.
const IMAGE: &str = "config.system.build.mvmImage";

/// Something that `nix build` can build: a flake and an attribute of it, or a store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlakeRef {
    pub(crate) written: String,
    pub(crate) place: Place,
    pub(crate) query: Option<String>,
    pub(crate) attribute: Option<String>,
    pub(crate) outputs: Option<String>,
}

/// Where a flake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder, absolute. Nix looks upwards from it for a `flake.nix`, and takes a Git work tree as one.
    Folder(PathBuf),
    /// A URL without its query, as in `github:owner/repo`.
    Url {
        /// The URL; a local one is absolute.
        url: String,
        /// The folder that a `path:` or `git+file:` URL names.
        folder: Option<PathBuf>,
    },
    /// A name that Nix looks up in its registries, as in `nixpkgs` or `nixpkgs/nixos-25.05`.
    Registry(String),
    /// A path in the Nix store: nothing to evaluate.
    Store(StorePath),
}

/// Why a flake ref was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlakeRefError {
    /// Nothing was written.
    #[error("the flake ref is empty")]
    Empty,
    /// It would be read as an option.
    #[error("flake ref {0:?} begins with `-`")]
    LeadingDash(String),
    /// Too long to be meant.
    #[error("the flake ref has {0} bytes; {MAX_LENGTH} are allowed")]
    TooLong(usize),
    /// A control character or a blank at an end.
    #[error("flake ref {text:?} has the character {character:?} in it")]
    Character {
        /// The ref as written.
        text: String,
        /// What does not belong there.
        character: char,
    },
    /// The part after `#` is no attribute path.
    #[error("{attribute:?} is not an attribute path: {reason}")]
    Attribute {
        /// The part after `#`.
        attribute: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Neither a folder, nor a URL, nor a registry name.
    #[error("{text:?} is not a flake ref: {reason}")]
    Form {
        /// The ref as written.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A folder whose path a flake ref cannot express.
    #[error("the path {0:?} cannot be part of a flake ref")]
    Unspeakable(PathBuf),
    /// A relative folder where there is nothing that it could be relative to.
    #[error("flake ref {0:?} is relative")]
    Relative(String),
    /// An output is named twice: by the ref and by a profile.
    #[error("the profile {profile:?} is an output of a flake, but {text:?} is one already")]
    Profile {
        /// The ref as written.
        text: String,
        /// The profile.
        profile: String,
    },
    /// `~` and no home folder.
    #[error("flake ref {0:?} begins with `~`, but there is no home folder")]
    NoHome(String),
    /// A local flake whose folder does not exist.
    #[error("no such folder: {}", .0.display())]
    NoFolder(PathBuf),
    /// A local flake whose folder is something else.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// No name of a NixOS configuration.
    #[error("flake ref {0:?} names no NixOS configuration")]
    NoConfiguration(String),
    /// A folder without `flake.nix`.
    #[error("there is no flake.nix in {}", .folder.display())]
    NoFlake {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A folder that cannot be looked into.
    #[error("cannot look into {}: {reason}", .folder.display())]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// The system's words.
        reason: String,
    },
}

impl Diagnostic for FlakeRefError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoFolder(_) | Self::NotAFolder(_) | Self::NoFlake { .. } => ErrorKind::NotFound,
            Self::Unreadable { .. } => ErrorKind::Denied,
            _ => ErrorKind::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::LeadingDash(text) => format!("for a folder of this name write `./{text}`"),
            Self::Attribute { .. } => {
                "separate names by dots and quote those that have dots in them, as in `.#packages.x86_64-linux.\"my.image\"`".into()
            }
            Self::Relative(_) => "write an absolute path, or a URL as `github:owner/repo`".into(),
            Self::Profile { profile, .. } => format!("give the flake alone and the profile, or only the ref `FLAKE#{profile}`"),
            Self::Unspeakable(_) => "move the flake to a folder whose path is UTF-8, has no `?` and `#` and does not end in a blank".into(),
            Self::NoFolder(_) => "check the spelling; relative paths begin at the current folder".into(),
            Self::NotAFolder(_) => "name the folder that holds flake.nix".into(),
            Self::NoFlake { folder } => {
                format!("name the folder that holds flake.nix, or make one: `nix flake init` in {}", folder.display())
            }
            Self::NoConfiguration(_) => "write it as `.#NAME`, with a NAME of the flake's nixosConfigurations".into(),
            Self::Unreadable { .. } => "check the folder's permissions".into(),
            _ => "flake refs look like `.`, `./folder#attribute`, `github:owner/repo?dir=sub#attribute`, `nixpkgs#hello`".into(),
        })
    }
}

impl FlakeRef {
    /// Reads a flake ref. Relative folders begin at `cwd` (absolute), `~` is `home`.
    pub fn parse(text: &str, cwd: &Path, home: Option<&Path>) -> Result<Self, FlakeRefError> {
        check_text(text)?;
        let (base, fragment) = match text.split_once('#') {
            Some((base, fragment)) => (base, Some(fragment)),
            None => (text, None),
        };
        let (location, query) = match base.split_once('?') {
            Some((location, query)) => (location, Some(query.to_owned()).filter(|q| !q.is_empty())),
            None => (base, None),
        };
        if query.as_deref().is_some_and(|q| q.contains(char::is_whitespace)) {
            let reason = "a query has no blanks; write %20";
            return Err(FlakeRefError::Form { text: text.to_owned(), reason });
        }
        let written = text.to_owned();
        if fragment.is_none()
            && let (path, outputs) = split_outputs(location)
            && let Ok(store) = StorePath::from_absolute_path(path.as_bytes())
        {
            let outputs = outputs.map(checked_outputs).transpose()?;
            return Ok(Self { written, place: Place::Store(store), query: None, attribute: None, outputs });
        }
        let (attribute, outputs) = split_outputs(fragment.unwrap_or_default());
        let attribute = Some(attribute).filter(|a| !a.is_empty()).map(checked_attribute).transpose()?;
        let outputs = outputs.map(checked_outputs).transpose()?;
        let place = place(text, location, cwd, home)?;
        Ok(Self { written, place, query, attribute, outputs })
    }

    /// Reads a flake ref that has to mean the same wherever it is read, since a file keeps it.
    ///
    /// # Errors
    /// As [`FlakeRef::parse`], and what is relative.
    pub fn parse_absolute(text: &str, home: Option<&Path>) -> Result<Self, FlakeRefError> {
        let read = Self::parse(text, Path::new("."), home)?;
        match &read.place {
            Place::Folder(folder) | Place::Url { folder: Some(folder), .. } if folder.is_relative() => {
                Err(FlakeRefError::Relative(text.to_owned()))
            }
            _ => Ok(read),
        }
    }

    /// Where the flake is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The attribute path after `#`, as written.
    pub fn attribute(&self) -> Option<&str> {
        self.attribute.as_deref()
    }

    /// The ref as the user wrote it.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Another attribute of the same flake. A store path has none and stays as it is.
    pub fn with_attribute(&self, attribute: &str) -> Result<Self, FlakeRefError> {
        if matches!(self.place, Place::Store(_)) {
            return Ok(self.clone());
        }
        let attribute = Some(checked_attribute(attribute)?);
        Ok(Self { attribute, outputs: None, ..self.clone() })
    }

    /// A named output of a flake that is given alone: `REF` and `web` are `REF#web`.
    ///
    /// # Errors
    /// A ref that names an output itself or is none of a flake; a profile that is no attribute path.
    pub fn with_profile(&self, profile: &str) -> Result<Self, FlakeRefError> {
        if self.attribute.is_some() || self.outputs.is_some() || matches!(self.place, Place::Store(_)) {
            return Err(FlakeRefError::Profile { text: self.written.clone(), profile: profile.to_owned() });
        }
        self.with_attribute(profile)
    }

    /// The same attribute for another system: `image` becomes `packages.SYSTEM.image`, and a ref without
    /// attribute means that system's default package. An attribute path that is spelled out stays as it is.
    pub fn for_system(&self, system: &str) -> Result<Self, FlakeRefError> {
        if matches!(self.place, Place::Store(_)) {
            return Ok(self.clone());
        }
        const SPELLED_OUT: [&str; 6] =
            [".", "packages.", "legacyPackages.", "checks.", "nixosConfigurations.", "devShells."];
        let attribute = match self.attribute.as_deref() {
            Some(a) if SPELLED_OUT.iter().any(|p| a.starts_with(p)) => a.to_owned(),
            other => format!("packages.{system}.{}", other.unwrap_or("default")),
        };
        Ok(Self { attribute: Some(checked_attribute(&attribute)?), ..self.clone() })
    }

    /// For a NixOS configuration as such, `nixosConfigurations.NAME`: the image that mvm's NixOS module makes of it.
    /// Everything else stays as it is.
    pub(crate) fn image_of_configuration(&self) -> Self {
        let is_configuration = |attribute: &&str| matches!(names(attribute)[..], ["nixosConfigurations", _]);
        match self.attribute().filter(is_configuration) {
            Some(attribute) => Self { attribute: Some(format!("{attribute}.{IMAGE}")), ..self.clone() },
            None => self.clone(),
        }
    }

    /// The image of the NixOS configuration that has the name which is asked for; `None` where that is no single name.
    pub(crate) fn as_configuration(&self) -> Option<Self> {
        let name = self.attribute().filter(|attribute| names(attribute).len() == 1)?;
        Some(Self { attribute: Some(format!("nixosConfigurations.{name}.{IMAGE}")), ..self.clone() })
    }

    /// Whether a NixOS configuration of this name is asked for, as such or as what may be one.
    pub(crate) fn names_configuration(&self, name: &str) -> bool {
        let asked = self.attribute().map(names).unwrap_or_default();
        let asked = match asked[..] {
            ["nixosConfigurations", asked, ..] | [asked] => asked,
            _ => return false,
        };
        asked.trim_matches('"') == name
    }

    /// The ref of a path in the store.
    pub(crate) fn of_store_path(path: StorePath) -> Self {
        Self {
            written: path.to_absolute_path(),
            place: Place::Store(path),
            query: None,
            attribute: None,
            outputs: None,
        }
    }

    /// The argument for `nix build`.
    pub fn installable(&self) -> String {
        let mut text = self.base();
        if let Some(attribute) = &self.attribute {
            text.push('#');
            text.push_str(attribute);
        }
        if let Some(outputs) = &self.outputs {
            if self.attribute.is_none() && !matches!(self.place, Place::Store(_)) {
                text.push('#');
            }
            text.push('^');
            text.push_str(outputs);
        }
        text
    }

    /// The flake alone: place and query.
    pub fn base(&self) -> String {
        let mut text = match &self.place {
            // UTF-8 is checked where the place is made.
            Place::Folder(path) => path.to_string_lossy().into_owned(),
            Place::Url { url, .. } => url.clone(),
            Place::Registry(name) => name.clone(),
            Place::Store(path) => path.to_absolute_path(),
        };
        if let Some(query) = &self.query {
            text.push('?');
            text.push_str(query);
        }
        text
    }

    /// One parameter of the query, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.query.as_deref()?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
        })
    }
}

impl fmt::Display for FlakeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.installable())
    }
}

fn check_text(text: &str) -> Result<(), FlakeRefError> {
    if text.trim().is_empty() {
        return Err(FlakeRefError::Empty);
    }
    if text.len() > MAX_LENGTH {
        return Err(FlakeRefError::TooLong(text.len()));
    }
    if text.starts_with('-') {
        return Err(FlakeRefError::LeadingDash(text.to_owned()));
    }
    let blank_end = [text.chars().next(), text.chars().next_back()].into_iter().flatten().find(|c| c.is_whitespace());
    match text.chars().find(|c| c.is_control()).or(blank_end) {
        Some(character) => Err(FlakeRefError::Character { text: text.to_owned(), character }),
        None => Ok(()),
    }
}

/// Splits off `^outputs`; a `^` inside quotes belongs to the attribute.
fn split_outputs(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once('^') {
        Some((before, after)) if before.matches('"').count() % 2 == 0 => (before, Some(after)),
        _ => (text, None),
    }
}

fn checked_outputs(outputs: &str) -> Result<String, FlakeRefError> {
    let name = |n: &str| !n.is_empty() && n.chars().all(|c| c.is_ascii_alphanumeric() || "+-._?=".contains(c));
    if outputs == "*" || outputs.split(',').all(name) {
        return Ok(outputs.to_owned());
    }
    Err(FlakeRefError::Attribute {
        attribute: format!("^{outputs}"),
        reason: "after `^` come output names separated by commas, or `*`",
    })
}

fn checked_attribute(attribute: &str) -> Result<String, FlakeRefError> {
    let bad = |reason| Err(FlakeRefError::Attribute { attribute: attribute.to_owned(), reason });
    let (mut quoted, mut length, mut any) = (false, 0usize, false);
    // Newer Nix: a leading dot means "from the root of the outputs".
    for character in attribute.strip_prefix('.').unwrap_or(attribute).chars() {
        match character {
            '"' => {
                quoted = !quoted;
                any = true;
            }
            '.' if !quoted => {
                if length == 0 && !any {
                    return bad("it has an empty name in it");
                }
                (length, any) = (0, false);
            }
            c if !quoted && (c.is_whitespace() || "#^".contains(c)) => {
                return bad("a name with blanks, `#` or `^` needs quotes");
            }
            _ => length += 1,
        }
    }
    if quoted {
        return bad("a quote is not closed");
    }
    if length == 0 && !any {
        return bad("it has an empty name in it");
    }
    Ok(attribute.to_owned())
}

/// The names of an attribute path. Dots within quotes separate nothing.
fn names(attribute: &str) -> Vec<&str> {
    let mut quoted = false;
    let separates = |c: char| {
        quoted ^= c == '"';
        c == '.' && !quoted
    };
    attribute.split(separates).collect()
}

/// A folder that can be written as a flake ref.
pub(crate) fn speakable(path: PathBuf) -> Result<PathBuf, FlakeRefError> {
    match path.to_str() {
        Some(text)
            if !text.contains(|c: char| c == '?' || c == '#' || c.is_control())
                && !text.ends_with(char::is_whitespace) =>
        {
            Ok(path)
        }
        _ => Err(FlakeRefError::Unspeakable(path)),
    }
}

fn place(text: &str, location: &str, cwd: &Path, home: Option<&Path>) -> Result<Place, FlakeRefError> {
    let form = |reason| FlakeRefError::Form { text: text.to_owned(), reason };
    // `components` drops `.` and doubled slashes; `..` stays, since a symlink may stand before it.
    let folder = |path: PathBuf| Ok(Place::Folder(speakable(path.components().collect())?));
    if let Some(rest) = location.strip_prefix('~') {
        let home = home.ok_or_else(|| FlakeRefError::NoHome(text.to_owned()))?;
        return match rest.strip_prefix('/') {
            Some(below) => folder(home.join(below.trim_start_matches('/'))),
            None if rest.is_empty() => folder(home.to_owned()),
            None => Err(form("other users' home folders cannot be named by `~`")),
        };
    }
    if location.is_empty() || location.starts_with(['.', '/']) {
        return folder(cwd.join(location));
    }
    if let Some((scheme, rest)) = location.split_once(':') {
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c));
        if !is_scheme {
            return Err(form("what stands before `:` is not a URL scheme"));
        }
        return url(scheme, rest, cwd).map_err(|error| match error {
            Ok(reason) => form(reason),
            Err(error) => error,
        });
    }
    let mut names = location.split('/');
    let id = names.next().unwrap_or_default();
    let is_id = id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let is_rev = |n: &str| !n.is_empty() && n.chars().all(|c| c.is_ascii_alphanumeric() || "_-.@+".contains(c));
    if !is_id || !names.clone().all(is_rev) {
        return Err(form("it is neither a path beginning with `.`, `/` or `~`, nor a URL, nor a registry name"));
    }
    if names.count() > 2 {
        return Err(form("a registry name is followed by a branch and a revision at most; a folder begins with `./`"));
    }
    Ok(Place::Registry(location.to_owned()))
}

/// A URL made absolute. The error is a reason, or an error of its own.
fn url(scheme: &str, rest: &str, cwd: &Path) -> Result<Place, Result<&'static str, FlakeRefError>> {
    if rest.is_empty() {
        return Err(Ok("nothing follows the scheme"));
    }
    if rest.contains(char::is_whitespace) {
        return Err(Ok("a URL has no blanks; write %20"));
    }
    if ["github", "gitlab", "sourcehut"].contains(&scheme) {
        let parts: Vec<_> = rest.split('/').collect();
        if parts.len() < 2 || parts.iter().any(|p| p.is_empty()) {
            return Err(Ok("after the scheme come owner and repository, as in `github:owner/repo`"));
        }
    }
    if scheme != "path" && scheme != "git+file" {
        return Ok(Place::Url { url: format!("{scheme}:{rest}"), folder: None });
    }
    let encoded = match rest.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute.to_owned(),
        Some(_) => return Err(Ok("a local URL has no host; write three slashes")),
        None if rest.starts_with('/') => rest.to_owned(),
        None => {
            let base = cwd.to_str().ok_or_else(|| Err(FlakeRefError::Unspeakable(cwd.to_owned())))?;
            format!("{}/{}", utf8_percent_encode(base, URL_PATH), rest.trim_start_matches("./"))
        }
    };
    let encoded = encoded.strip_suffix("/.").unwrap_or(&encoded).trim_end_matches('/');
    let encoded = if encoded.is_empty() { "/" } else { encoded };
    let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| Ok("its path is not UTF-8"))?;
    if decoded.contains('\0') {
        return Err(Ok("its path has a zero byte"));
    }
    let slashes = if scheme == "path" { "" } else { "//" };
    Ok(Place::Url { url: format!("{scheme}:{slashes}{encoded}"), folder: Some(PathBuf::from(&*decoded)) })
}

impl FromStr for FlakeRef {
    type Err = FlakeRefError;

    /// Reads a ref with the process's own current and home folder.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let cwd = std::env::current_dir()
            .map_err(|e| FlakeRefError::Unreadable { folder: PathBuf::from("."), reason: e.to_string() })?;
        Self::parse(text, &cwd, std::env::home_dir().filter(|h| h.is_absolute()).as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<FlakeRef, FlakeRefError> {
        FlakeRef::parse(text, Path::new("/work dir/here"), Some(Path::new("/home/me")))
    }

    #[track_caller]
    fn becomes(text: &str, installable: &str) {
        assert_eq!(parse(text).unwrap().installable(), installable, "{text}");
    }

    #[test]
    fn refs_as_users_write_them() {
        becomes(".", "/work dir/here");
        becomes("./", "/work dir/here");
        becomes("#", "/work dir/here");
        becomes("./dir", "/work dir/here/dir");
        becomes("../up#a", "/work dir/here/../up#a");
        becomes(".hidden/x", "/work dir/here/.hidden/x");
        becomes("#image", "/work dir/here#image");
        becomes("/abs/dir#a.b", "/abs/dir#a.b");
        becomes("/abs//dir/./x", "/abs/dir/x");
        becomes("/abs?dir=sub#a", "/abs?dir=sub#a");
        becomes("~/x#y", "/home/me/x#y");
        becomes("~", "/home/me");
        becomes("nixpkgs#hello", "nixpkgs#hello");
        becomes("nixpkgs/nixos-25.05#hello", "nixpkgs/nixos-25.05#hello");
        becomes("flake:nixpkgs#hello", "flake:nixpkgs#hello");
        becomes("github:o/r?ref=x&dir=y#attr", "github:o/r?ref=x&dir=y#attr");
        becomes("github:o/r/branch", "github:o/r/branch");
        becomes("git+ssh://git@host/r.git?ref=main#a", "git+ssh://git@host/r.git?ref=main#a");
        becomes("https://host/x.tar.gz#a", "https://host/x.tar.gz#a");
        becomes("path:/abs#a", "path:/abs#a");
        becomes("path:///abs#a", "path:/abs#a");
        becomes("path:.", "path:/work%20dir/here");
        becomes("path:./x", "path:/work%20dir/here/x");
        becomes("path:x", "path:/work%20dir/here/x");
        becomes("git+file:.", "git+file:///work%20dir/here");
        becomes("git+file:///r?dir=s&ref=main#a", "git+file:///r?dir=s&ref=main#a");
        becomes(r#".#"a.b".c"#, r#"/work dir/here#"a.b".c"#);
        becomes(r#".#"a^b c""#, r#"/work dir/here#"a^b c""#);
        becomes(".#a^out", "/work dir/here#a^out");
        becomes(".#a^dev,out", "/work dir/here#a^dev,out");
        becomes(".#a^*", "/work dir/here#a^*");
        becomes(".#.packages", "/work dir/here#.packages");
    }

    const STORE: &str = "/nix/store/s2kz6w3dx6xmxwccr55yf4lj2x1chxfh-mvm-sample-ok";

    #[test]
    fn store_paths_need_no_evaluation() {
        assert!(matches!(parse(STORE).unwrap().place(), Place::Store(_)));
        becomes(STORE, STORE);
        becomes(&format!("{STORE}.drv^out"), &format!("{STORE}.drv^out"));
        // With an attribute it is a flake that happens to lie in the store.
        assert!(matches!(parse(&format!("{STORE}#a")).unwrap().place(), Place::Folder(_)));
    }

    #[test]
    fn local_urls_know_their_folder() {
        let r = parse("path:/a%20b?dir=s%2Ft").unwrap();
        assert!(matches!(r.place(), Place::Url { folder: Some(f), .. } if f == Path::new("/a b")));
        assert_eq!(r.parameter("dir").as_deref(), Some("s/t"));
        assert_eq!(r.parameter("ref"), None);
    }

    #[test]
    fn a_profile_is_an_output_of_a_flake_that_is_given_alone() {
        let with = |text: &str, profile: &str| parse(text).unwrap().with_profile(profile);
        assert_eq!(with(".", "web").unwrap().installable(), "/work dir/here#web");
        assert_eq!(with("github:o/r?dir=x", "web").unwrap().installable(), "github:o/r?dir=x#web");
        for text in [".#a", ".#^out", STORE] {
            let error = with(text, "web").unwrap_err();
            assert!(matches!(error, FlakeRefError::Profile { .. }), "{text}: {error}");
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
        for profile in ["", "a..b", "a b", "a#b"] {
            assert!(matches!(with(".", profile), Err(FlakeRefError::Attribute { .. })), "{profile}");
        }
    }

    #[test]
    fn what_a_file_keeps_is_not_relative() {
        let read = |text: &str| FlakeRef::parse_absolute(text, Some(Path::new("/home/me")));
        for text in ["", ".", "./x", "../x#a", "#a", "path:.", "path:x", "git+file:x", ".hidden"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(matches!(read("./x"), Err(FlakeRefError::Relative(_))));
        for text in ["/x#a", "path:/x", "git+file:///x", "github:o/r", "nixpkgs", STORE] {
            assert_eq!(read(text).unwrap().installable(), text);
        }
        assert_eq!(read("~/x").unwrap().installable(), "/home/me/x");
    }

    #[test]
    fn systems_are_spelled_out() {
        let on = |t: &str| parse(t).unwrap().for_system("aarch64-linux").unwrap().installable();
        assert_eq!(on("github:o/r"), "github:o/r#packages.aarch64-linux.default");
        assert_eq!(on("github:o/r#image"), "github:o/r#packages.aarch64-linux.image");
        assert_eq!(on("github:o/r#packages.x86_64-linux.image"), "github:o/r#packages.x86_64-linux.image");
        assert_eq!(on(STORE), STORE);
    }

    #[test]
    fn a_nixos_configuration_means_its_image() {
        let image = |t: &str| parse(t).unwrap().image_of_configuration().installable();
        assert_eq!(image("/f#nixosConfigurations.a"), "/f#nixosConfigurations.a.config.system.build.mvmImage");
        assert_eq!(
            image(r#"/f#nixosConfigurations."a.b""#),
            r#"/f#nixosConfigurations."a.b".config.system.build.mvmImage"#
        );
        for other in ["/f", "/f#a", "/f#nixosConfigurations", "/f#nixosConfigurations.a.config.x", STORE] {
            assert_eq!(image(other), other);
        }
        let named = |t: &str| parse(t).unwrap().as_configuration().map(|r| r.installable());
        assert_eq!(named("/f#a").unwrap(), "/f#nixosConfigurations.a.config.system.build.mvmImage");
        for other in ["/f", "/f#a.b", STORE] {
            assert_eq!(named(other), None);
        }
    }

    #[test]
    fn what_is_no_flake_ref_is_refused_with_advice() {
        for text in [
            "",
            "   ",
            "--impure",
            "-",
            "a\nb",
            "./x\u{0}",
            " .",
            ". ",
            "./a#b\u{7}",
            "path:",
            "github:o",
            "github:o/",
            "path:a b",
            "path://host/x",
            "path:/%ff",
            "path:/%00",
            "~other/x",
            "a b",
            "1abc",
            "a:b:c d",
            "a/b/c/d",
            "UP:x",
            "a//b",
            "ünï",
            ".#a..b",
            ".#a.",
            ".#\"a",
            ".#a b",
            ".#a#b",
            ".#a^",
            ".#a^b c",
            ".#a^b^c",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.hint().is_some() && !error.to_string().is_empty(), "{text}");
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
        assert!(matches!(parse(&"x".repeat(5000)), Err(FlakeRefError::TooLong(5000))));
        assert!(matches!(FlakeRef::parse("~/x", Path::new("/"), None), Err(FlakeRefError::NoHome(_))));
        for folder in ["/a?b", "/a#b"] {
            assert!(matches!(FlakeRef::parse(".", Path::new(folder), None), Err(FlakeRefError::Unspeakable(_))));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_stable(text in "\\PC{0,60}|[-./#?^~:\"a-z ]{0,24}") {
            if let Ok(read) = parse(&text) {
                let argument = read.installable();
                prop_assert!(!argument.starts_with('-'));
                prop_assert!(!argument.chars().any(char::is_control));
                let again = parse(&argument).map_err(|e| TestCaseError::fail(format!("{argument:?}: {e}")))?;
                prop_assert_eq!(again.installable(), argument);
            }
        }

        #[test]
        fn parts_come_back(
            place in "(/[a-z.+ ]{0,6}[a-z]){1,3}|github:[a-z]{1,5}/[a-z]{1,5}|[a-z][a-z0-9-]{0,8}",
            query in proptest::option::of("dir=[a-z]{1,5}(&ref=[a-z]{1,5})?"),
            attribute in proptest::option::of("([a-z_][a-z0-9-]{0,4}|\"[a-z. ^#]{0,5}\")(\\.[a-z]{1,4}){0,2}"),
            outputs in proptest::option::of("[a-z]{1,4}(,[a-z]{1,4})?|\\*"),
        ) {
            let mut text = place;
            if let Some(q) = &query { text = format!("{text}?{q}"); }
            if let Some(a) = &attribute { text = format!("{text}#{a}"); }
            if let (Some(_), Some(o)) = (&attribute, &outputs) { text = format!("{text}^{o}"); }
            let read = parse(&text).map_err(|e| TestCaseError::fail(format!("{text:?}: {e}")))?;
            prop_assert_eq!(read.attribute(), attribute.as_deref());
            prop_assert_eq!(read.installable(), text);
        }
    }
}
