//! Outputs appear whole or not at all: written into a folder beside the target, then renamed into place.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use calabi_api::{ConfigError, LayerFormat};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use crate::{Error, Pipeline, Sited};

/// A folder beside the output, gone when the run ends, however it ends.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: TempDir,
    /// Held while the run lives: the folder of a dead run is recognised by its free lock.
    _lock: File,
    target: PathBuf,
}

impl Staging {
    /// Refuses targets that must not be written, clears what dead runs left, and makes the folder.
    pub(crate) fn beside(pipeline: &Pipeline, format: &dyn LayerFormat, force: bool) -> Result<Self, Error> {
        let output = &pipeline.model.output;
        let name = output.file_name().ok_or_else(|| {
            Error::from(refuse(output, "is no name for an output").with_help("name a file or a folder"))
        })?;
        check_target(pipeline, format, force)?;
        let parent = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".calabi-");
        clear_leftovers(parent, &prefix);
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(parent)
            .map_err(|e| Error::io("create a folder in", parent, e))?;
        let lock_path = folder.path().join("lock");
        let lock = File::create_new(&lock_path).map_err(|e| Error::io("create", &lock_path, e))?;
        lock.lock().map_err(|e| Error::io("lock", &lock_path, e))?;
        for sub in ["out", "work"] {
            let path = folder.path().join(sub);
            fs::create_dir(&path).map_err(|e| Error::io("create", path, e))?;
        }
        Ok(Self { folder, _lock: lock, target: parent.join(name) })
    }

    /// Where the new model is written.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.path().join("out").join(self.target.file_name().unwrap_or_default())
    }

    /// Where bases wait until the ranks are known.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Moves what was written into place, the file that the model is known by last; returns where it is known by.
    pub(crate) fn publish(self, written: &[PathBuf], force: bool) -> Result<PathBuf, Error> {
        let Some((main, others)) = written.split_last() else { return Ok(self.target) };
        let place = |path: &Path| self.target.with_file_name(path.file_name().unwrap_or_default());
        // Between the renames of several files no old main file may stand beside new others.
        if !others.is_empty() && force && self.target.exists() {
            move_into_place(&self.target, &self.folder.path().join("old"), false)?;
        }
        for other in others {
            move_into_place(other, &place(other), force)?;
        }
        move_into_place(main, &self.target, force)?;
        sync_folder_of(&self.target)?;
        Ok(self.target)
    }

    /// Puts what was written beside its place, marked as failed: a model of several files as a folder of them.
    pub(crate) fn publish_as_failed(self, written: &[PathBuf]) -> Result<PathBuf, Error> {
        let mut name = self.target.file_name().unwrap_or_default().to_owned();
        name.push(".failed");
        let target = self.target.with_file_name(name);
        match written {
            [one] => move_into_place(one, &target, true)?,
            _ => move_into_place(&self.folder.path().join("out"), &target, true)?,
        }
        sync_folder_of(&target)?;
        Ok(target)
    }
}

fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::io("write", folder, e))
}

fn refuse(path: &Sited<PathBuf>, problem: &str) -> ConfigError {
    ConfigError::new(format!("{} {problem}", path.display())).at(path.span.clone())
}

fn check_target(pipeline: &Pipeline, format: &dyn LayerFormat, force: bool) -> Result<(), ConfigError> {
    let (input, output) = (&pipeline.model.input, &pipeline.model.output);
    let Ok(found) = fs::symlink_metadata(&output.value) else { return Ok(()) };
    let other_name = "name another output: the input is never touched";
    if same_place(input, output) {
        return Err(refuse(output, "is the input itself").with_help(other_name));
    }
    if within(input, output) {
        return Err(refuse(output, "is a folder that holds the input").with_help(other_name));
    }
    if !force {
        return Err(refuse(output, "exists already").with_help("name another output, or pass --force to replace it"));
    }
    if found.is_dir() && !format.detect(&output.value) {
        return Err(refuse(output, "is a folder that holds no model: it is not replaced")
            .with_help("name another output, or remove the folder yourself"));
    }
    Ok(())
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

/// Removes the folders of runs that died: nobody holds their lock. What cannot be removed is left.
fn clear_leftovers(parent: &Path, prefix: &OsString) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let named = entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
        let dead = named && File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if dead {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Renames; over what is there only when told to, and then by exchange, so that a folder never vanishes in between.
fn move_into_place(from: &Path, to: &Path, replace: bool) -> Result<(), Error> {
    let exchange = replace && fs::symlink_metadata(to).is_ok();
    let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    let moved = match renameat_with(CWD, from, CWD, to, flags).map_err(std::io::Error::from) {
        Err(error) if unsupported(&error) && (replace || !to.exists()) => fs::rename(from, to),
        other => other,
    };
    moved.map_err(|e| Error::io("create", to, e))
}

/// Some file systems know no renaming with flags.
fn unsupported(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() || code == rustix::io::Errno::NOSYS.raw_os_error())
}
