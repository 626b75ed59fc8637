//! Outputs appear whole or not at all: written into a folder beside the target, then renamed into place.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use calabi_api::{ConfigError, LayerSource};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use crate::store::adopt;
use crate::target::Target;
use crate::{Error, Pipeline, RunOptions};

/// How often a renaming is tried again that another run with the same output has come in between of.
const RACES_LOST: usize = 100;

/// A folder beside the output, gone when the run ends, however it ends.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: OwnFolder,
    /// Held while the run lives: the folder of a dead run is recognised by its free lock.
    _lock: File,
    target: PathBuf,
    failed: PathBuf,
}

/// A run's folder. The lock goes last: a run that is killed while it clears up is known as dead by the next one.
#[derive(Debug)]
struct OwnFolder(TempDir);

impl OwnFolder {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        clear(self.path());
    }
}

/// Removes what is in the folder of a run, but for its lock. What cannot be removed is left.
fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_name() != "lock") {
        let path = entry.path();
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

/// Where the files of a run go, checked before any work.
#[derive(Debug)]
pub(crate) struct Places {
    output: PathBuf,
    failed: PathBuf,
}

impl Places {
    /// Checks the output, the files beside it, and where a result goes that fails its gates.
    pub(crate) fn check(
        pipeline: &Pipeline,
        source: &dyn LayerSource,
        options: &RunOptions,
    ) -> Result<Self, ConfigError> {
        let (input, output) = (&pipeline.model.input.value, &pipeline.model.output);
        let mut taken = files_read(pipeline, source);
        taken.extend(options.reads.clone());
        let target = Target { path: &output.value, span: output.span.clone(), taken: &taken, force: options.force };
        let places = Self::of(&target, input, source)?;
        if pipeline.verify.is_some() {
            let main = places.output.file_name().unwrap_or_default().as_encoded_bytes();
            let ours_or_data = |name: &OsStr| of_a_model(name, input) || name.as_encoded_bytes().starts_with(main);
            Target { path: &places.failed, ..target }.check_folder(ours_or_data)?;
        }
        Ok(places)
    }

    /// Checks the place of a model made from `input`, and the files beside it.
    pub(crate) fn of(target: &Target<'_>, input: &Path, source: &dyn LayerSource) -> Result<Self, ConfigError> {
        let output = target.check_folder(|name| of_a_model(name, input))?;
        for side in source.side_files(&output) {
            Target { path: &side, ..target.clone() }.check_file()?;
        }
        Ok(Self { failed: with_suffix(&output, ".failed"), output })
    }

    /// Where the output goes, its folder resolved.
    pub(crate) fn output(&self) -> &Path {
        &self.output
    }
}

/// Whether a model made from `input` may have an entry of this name: what `input` has, and what any checkpoint may have.
fn of_a_model(name: &OsStr, input: &Path) -> bool {
    let bytes = name.as_encoded_bytes();
    input.join(name).exists()
        || bytes == b"config.json"
        || bytes == calabi_io::MODELLING_FILE.as_bytes()
        || bytes.ends_with(b".safetensors")
        || bytes.ends_with(b".safetensors.index.json")
}

/// The files that a pipeline reads, the model first.
pub(crate) fn files_read(pipeline: &Pipeline, source: &dyn LayerSource) -> Vec<PathBuf> {
    let mut files = vec![pipeline.model.input.value.clone()];
    files.extend(source.totals().files);
    if let Some(calibration) = &pipeline.calibration {
        let paths = [&calibration.data, &calibration.statistics, &calibration.tokenizer];
        files.extend(paths.into_iter().flatten().map(|path| path.value.clone()));
    }
    if let Some(finetune) = &pipeline.finetune {
        let paths = [Some(&finetune.data), finetune.tokenizer.as_ref()];
        files.extend(paths.into_iter().flatten().map(|path| path.value.clone()));
    }
    files.extend(pipeline.verify.iter().flat_map(|verify| verify.files().cloned()));
    files
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

impl Staging {
    /// Makes the folder beside the output, takes over what dead runs had decomposed, and clears what they left.
    pub(crate) fn beside(places: Places) -> Result<Self, Error> {
        let Places { output: target, failed } = places;
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        let prefix = prefix(&target);
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(parent)
            .map_err(|e| Error::io("create a folder in", parent, e))?;
        let lock = locked(folder.path()).map_err(|e| Error::io("lock", folder.path(), e))?;
        for sub in ["out", "work"] {
            let path = folder.path().join(sub);
            fs::create_dir(&path).map_err(|e| Error::io("create", path, e))?;
        }
        clear_leftovers(parent, &prefix, &folder.path().join("work"));
        Ok(Self { folder: OwnFolder(folder), _lock: lock, target, failed })
    }

    /// Where the new model is written.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.path().join("out").join(self.target.file_name().unwrap_or_default())
    }

    /// Where bases wait until the ranks are known.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Where a model is written that is looked at and removed: alone in a folder that does not exist yet.
    pub(crate) fn trial(&self) -> PathBuf {
        self.folder.path().join("trial").join(self.target.file_name().unwrap_or_default())
    }

    /// Moves what was written into place, the file that the model is known by last; returns where it is known by.
    pub(crate) fn publish(self, written: &[PathBuf], force: bool) -> Result<PathBuf, Error> {
        let Some((main, others)) = written.split_last() else { return Ok(self.target) };
        let place = |path: &Path| self.target.with_file_name(path.file_name().unwrap_or_default());
        // Between the renames of several files no old main file may stand beside new others.
        if !others.is_empty() && force {
            self.take_away_the_old()?;
        }
        for other in others {
            move_into_place(other, &place(other), force)?;
        }
        move_into_place(main, &self.target, force)?;
        sync_folder_of(&self.target)?;
        Ok(self.target)
    }

    fn take_away_the_old(&self) -> Result<(), Error> {
        match try_to_move(&self.target, &self.folder.path().join("old"), false) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("replace", &self.target, error))
            }
            _ => Ok(()),
        }
    }

    /// Puts what was written beside its place, marked as failed: a model of several files as a folder of them.
    pub(crate) fn publish_as_failed(self, written: &[PathBuf]) -> Result<PathBuf, Error> {
        match written {
            [one] => move_into_place(one, &self.failed, true)?,
            _ => move_into_place(&self.folder.path().join("out"), &self.failed, true)?,
        }
        sync_folder_of(&self.failed)?;
        Ok(self.failed)
    }
}

fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::io("write", folder, e))
}

/// A lock that has its name only once it is held: another run may look for free ones at any moment.
fn locked(folder: &Path) -> std::io::Result<File> {
    let unnamed = folder.join("locking");
    let lock = File::create_new(&unnamed)?;
    lock.lock()?;
    fs::rename(unnamed, folder.join("lock"))?;
    Ok(lock)
}

/// How the names of the folders of runs with this output begin.
fn prefix(target: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".calabi-");
    prefix
}

/// The folders of runs that died: nobody holds their lock.
fn leftovers(parent: &Path, prefix: &OsString) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let named = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
    let dead = |folder: &PathBuf| File::open(folder.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
    entries.filter(named).map(|entry| entry.path()).filter(dead)
}

/// What runs that died have left beside this output: the next one uses it, or clears it.
pub(crate) fn left_behind(output: &Path) -> u64 {
    let parent = output.parent().unwrap_or(Path::new("/"));
    leftovers(parent, &prefix(output)).map(|folder| bytes_in(&folder)).sum()
}

/// The bytes of the files in a folder and those below it.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(entry_is) if entry_is.is_dir() => bytes_in(&entry.path()),
        Ok(file) => file.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Removes the folders of runs that died. What they had decomposed goes to `work`. What cannot be removed is left.
fn clear_leftovers(parent: &Path, prefix: &OsString, work: &Path) {
    for folder in leftovers(parent, prefix) {
        adopt(&folder.join("work"), work);
        clear(&folder);
        let _ = fs::remove_dir_all(folder);
    }
}

/// Renames; over what is there only when told to, and then by exchange, so that a folder never vanishes in between.
fn move_into_place(from: &Path, to: &Path, replace: bool) -> Result<(), Error> {
    let mut moved = try_to_move(from, to, replace);
    for _ in 0..RACES_LOST {
        match &moved {
            Err(error) if replace && another_was_faster(error) && from.exists() => moved = try_to_move(from, to, true),
            _ => break,
        }
    }
    moved.map_err(|e| Error::io("create", to, e))
}

fn try_to_move(from: &Path, to: &Path, replace: bool) -> std::io::Result<()> {
    let exchange = replace && fs::symlink_metadata(to).is_ok();
    let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, from, CWD, to, flags).map_err(std::io::Error::from) {
        Err(error) if unsupported(&error) && (replace || !to.exists()) => fs::rename(from, to),
        other => other,
    }
}

/// Whether another run put its output in place, or took an old one away, between the look and the renaming.
fn another_was_faster(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound)
}

/// Some file systems know no renaming with flags.
fn unsupported(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() || code == rustix::io::Errno::NOSYS.raw_os_error())
}

#[cfg(test)]
mod tests {
    use calabi_api::{Cost, FormatError, Layer, LayerSink, LeftAlone, Rank, Replacement, Totals, WriteOptions};
    use ndarray::Array2;

    use super::*;
    use crate::rank::Fixed;

    /// A model of no layers that reads and writes a file beside the one that it is known by.
    #[derive(Debug)]
    struct WithData(Vec<PathBuf>);

    impl LayerSource for WithData {
        fn layers(&self) -> &[Layer] {
            &[]
        }

        fn left_alone(&self) -> &[LeftAlone] {
            &[]
        }

        fn totals(&self) -> Totals {
            Totals { format: "test", cost: Cost::default(), files: self.0.clone() }
        }

        fn read(&self, _: &Layer) -> Result<Array2<f32>, FormatError> {
            Err(FormatError::Misuse("it has no layers".to_owned()))
        }

        fn side_files(&self, path: &Path) -> Vec<PathBuf> {
            vec![with_suffix(path, ".data")]
        }

        fn create(&self, _: &Path, _: &[Replacement<'_>], _: &WriteOptions) -> Result<Box<dyn LayerSink>, FormatError> {
            Err(FormatError::Misuse("it is not written".to_owned()))
        }
    }

    #[test]
    fn outputs_that_are_replaced_at_the_same_moment_all_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("out");
        let race = &|racer: usize| {
            for round in 0..200 {
                let from = folder.path().join(format!("{racer}"));
                fs::write(&from, format!("{racer} {round}")).unwrap();
                move_into_place(&from, &to, true).unwrap();
                let _ = fs::remove_file(if round % 2 == 0 { &to } else { &from });
            }
        };
        std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4).map(|racer| scope.spawn(move || race(racer))).collect();
            for racer in racers {
                racer.join().unwrap();
            }
        });
    }

    #[test]
    fn the_file_beside_the_output_is_checked_as_the_output_is() {
        let folder = tempfile::tempdir().unwrap();
        let [input, data, free] = ["in", "out.data", "free"].map(|name| folder.path().join(name));
        fs::write(&input, "model").unwrap();
        fs::write(&data, "its weights").unwrap();
        let check = |output: &str, files: &[&PathBuf], force| {
            let pipeline = Pipeline::new(&input, folder.path().join(output), Fixed { rank: Rank::ONE });
            let source = WithData(files.iter().map(|&file| file.clone()).collect());
            let options = RunOptions { force, ..RunOptions::default() };
            Places::check(&pipeline, &source, &options).map_err(|error| error.to_string())
        };
        assert!(check("out", &[&input, &data], true).unwrap_err().contains("in use by this run"));
        assert!(check("out", &[&input], false).unwrap_err().contains("exists already"));
        assert!(check("out", &[&input], true).is_ok());
        assert_eq!(check("free", &[&input, &data], false).unwrap().output, free.canonicalize().unwrap_or(free));
    }
}
