//! Which places may be written to: nothing that a run reads is ever replaced, and what exists only when told to.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use calabi_api::ConfigError;

/// A place to write to, and what must not be there.
///
/// ```
/// use calabi::Target;
///
/// # let folder = tempfile::tempdir()?;
/// let place = folder.path().join("small.onnx");
/// let target = Target { path: &place, span: None, taken: &[], force: false };
/// assert_eq!(target.check_file()?, target.resolved()?);
/// std::fs::write(&place, "")?;
/// assert!(target.check_file().is_err(), "it exists");
/// assert!(Target { force: true, ..target.clone() }.check_file().is_ok());
/// let taken = [place.clone()];
/// assert!(Target { force: true, taken: &taken, ..target.clone() }.check_file().is_err(), "it is read");
///
/// let whole = Target { path: folder.path(), force: true, ..target };
/// assert!(whole.check_folder(|name| name == "small.onnx").is_ok());
/// assert!(whole.check_folder(|name| name == "config.json").is_err(), "something else is in it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// The place.
    pub path: &'a Path,
    /// Where the pipeline file names it.
    pub span: Option<Range<usize>>,
    /// Files and folders that are read, or written for another purpose.
    pub taken: &'a [PathBuf],
    /// Whether what exists may be replaced.
    pub force: bool,
}

const OTHER_NAME: &str = "name another place: what a run reads is never touched";

impl Target<'_> {
    /// Checks the place, before any work; gives it with its folder resolved, so that no detour hides where it is.
    ///
    /// # Errors
    /// Where it is taken, exists without being forced, or is a folder (see [`Target::check_folder`]).
    pub fn check_file(&self) -> Result<PathBuf, ConfigError> {
        let (place, there) = self.check()?;
        if there.is_some_and(|there| there.is_dir()) {
            return Err(self.refuse("is a folder").with_help("name a file"));
        }
        Ok(place)
    }

    /// The same for a place that may be a folder, which is replaced only where every entry is `ours`.
    ///
    /// # Errors
    /// Where it is taken, exists without being forced, or holds something else.
    pub fn check_folder(&self, ours: impl Fn(&OsStr) -> bool) -> Result<PathBuf, ConfigError> {
        let (place, there) = self.check()?;
        if there.is_some_and(|there| there.is_dir())
            && let Some(other) = foreign_entry(&place, ours)
        {
            let problem = format!("is a folder that holds {}: it is not replaced", other.display());
            return Err(self.refuse(&problem).with_help("name another output, or clear the folder yourself"));
        }
        Ok(place)
    }

    fn check(&self) -> Result<(PathBuf, Option<fs::Metadata>), ConfigError> {
        let place = self.resolved()?;
        let there = match fs::symlink_metadata(&place) {
            Ok(there) => there,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((place, None)),
            Err(error) => return Err(self.refuse(&format!("cannot be looked at: {error}"))),
        };
        for taken in self.taken {
            if same_place(taken, &place) {
                let what = if Some(taken) == self.taken.first() { "the input itself" } else { "in use by this run" };
                return Err(self.refuse(&format!("is {what}")).with_help(OTHER_NAME));
            }
            if within(taken, &place) {
                return Err(self.refuse("is a folder that holds what the run reads").with_help(OTHER_NAME));
            }
        }
        if self.force {
            return Ok((place, Some(there)));
        }
        Err(self.refuse("exists already").with_help("name another place, or pass --force to replace it"))
    }

    /// The place with its folder resolved. A folder that does not exist yet is fine, a detour through one is not.
    ///
    /// # Errors
    /// Where the place has no name, or cannot be reached.
    pub fn resolved(&self) -> Result<PathBuf, ConfigError> {
        let name =
            self.path.file_name().ok_or_else(|| self.refuse("is no name").with_help("name a file or a folder"))?;
        let mut folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut missing = vec![name];
        loop {
            match folder.canonicalize() {
                Ok(whole) if whole.is_dir() => {
                    return Ok(missing.iter().rev().fold(whole, |path, part| path.join(part)));
                }
                Ok(whole) => return Err(self.refuse(&format!("lies below {}, which is no folder", whole.display()))),
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(self.refuse(&format!("cannot be reached: {error}")).with_help("name another place"));
                }
                Err(_) => {}
            }
            match (folder.components().next_back(), folder.parent()) {
                (Some(Component::Normal(part)), Some(parent)) => {
                    missing.push(part);
                    folder = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                }
                _ => {
                    return Err(self
                        .refuse("leads through a folder that is not there")
                        .with_help("name it without `..`"));
                }
            }
        }
    }

    fn refuse(&self, problem: &str) -> ConfigError {
        ConfigError::new(format!("{} {problem}", self.path.display())).at(self.span.clone())
    }
}

/// Whether two paths lead to the same file or folder, through links of either kind.
fn same_place(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Whether `inner` lies within the folder `outer`.
fn within(inner: &Path, outer: &Path) -> bool {
    match (inner.canonicalize(), outer.canonicalize()) {
        (Ok(inner), Ok(outer)) => inner.starts_with(outer),
        _ => false,
    }
}

fn foreign_entry(folder: &Path, ours: impl Fn(&OsStr) -> bool) -> Option<OsString> {
    let entries = fs::read_dir(folder).ok()?;
    entries.flatten().find(|entry| entry.path().is_dir() || !ours(&entry.file_name())).map(|entry| entry.file_name())
}
