//! The folder of a work store: what is taken over from runs that died, and how it is cleared.

use std::fs;
use std::path::{Path, PathBuf};

use calabi_api::ConfigError;

use super::blocks::BLOCK;
use super::measured::{SENSITIVITIES, STATISTICS};
use super::shards::SHARD;
use super::states::STATES;
use super::{BEGUN, ENTRY};
use crate::Error;

/// What [`clean`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Decomposed layers, statistics, sensitivities and finished blocks.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes a work store: what runs have kept there, and the folder where nothing else is in it.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let work = folder.path().join("work");
/// # std::fs::create_dir(&work)?;
/// std::fs::write(work.join("notes.txt"), "mine")?;
/// assert_eq!(calabi::clean(&work)?.files, 0);
/// assert!(work.join("notes.txt").exists(), "only what runs have put there is removed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where the folder is not there, or something in it cannot be removed.
pub fn clean(work: &Path) -> Result<Cleaned, Error> {
    if !work.is_dir() {
        let error = ConfigError::new(format!("{} is no folder", work.display()));
        return Err(error.with_help("name the folder that runs were given with --work").into());
    }
    let mut cleaned = Cleaned::default();
    for path in files(work)? {
        let entry = is_entry(&path);
        if entry || is_begun(&path) {
            cleaned.bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
            cleaned.files += 1;
            fs::remove_file(&path).map_err(|e| Error::io("remove", path, e))?;
        }
    }
    // It stays where something else is in it.
    let _ = fs::remove_dir(work);
    Ok(cleaned)
}

/// Moves the entries of a run that died to the store of another; what cannot be moved is left.
pub(crate) fn adopt(dead: &Path, store: &Path) {
    for path in files(dead).unwrap_or_default() {
        if let Some(name) = path.file_name().filter(|_| is_entry(&path)) {
            let _ = fs::rename(&path, store.join(name));
        }
    }
}

/// The bytes of the entries in a store.
pub(crate) fn held(store: &Path) -> u64 {
    let entries = files(store).unwrap_or_default().into_iter().filter(|path| is_entry(path));
    entries.map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len())).sum()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.map_err(|e| Error::io("read", folder, e))
}

fn is_entry(path: &Path) -> bool {
    [ENTRY, STATISTICS, SENSITIVITIES, SHARD, BLOCK, STATES]
        .iter()
        .any(|kind| path.extension().is_some_and(|extension| extension == *kind))
}

/// Whether a run had begun to write this entry.
fn is_begun(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(BEGUN.as_bytes()))
}
