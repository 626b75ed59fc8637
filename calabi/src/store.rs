//! Decomposed layers wait on disk until the ranks are known, factors until they are written: memory is bounded by one layer,
//! not by the model. What was decomposed once is found again, by its content: after a run that was killed, and by runs with
//! other rules.

mod blocks;
mod entry;
mod factors;
mod folder;
mod key;
mod measured;
mod shards;
mod states;
mod values;
mod whole;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use calabi_api::{Basis, Factors, Rank};

use crate::Error;
pub(crate) use blocks::FinishedBlock;
pub(crate) use entry::{Decomposed, Entry};
pub use folder::{Cleaned, clean};
pub(crate) use folder::{adopt, held};
pub(crate) use key::{BlockKey, Hashed, Key};
pub(crate) use measured::{read_divergences, write_divergences};

/// What an entry's file is called after its key.
const ENTRY: &str = "layer";
/// How the name of a file begins that is not whole yet.
const BEGUN: &str = ".entry-";

/// The work store of a run.
#[derive(Debug)]
pub(crate) struct Store {
    /// Where entries are, under the names of their keys.
    entries: PathBuf,
    /// Where factors are, one file a layer: this run's own.
    own: PathBuf,
    /// Whether other runs will look for what this one keeps.
    pub(crate) lasting: bool,
    /// The entries of this run's layers.
    of_layers: Mutex<HashMap<usize, Entry>>,
}

impl Store {
    /// A store with entries and factors in these folders, which exist.
    pub(crate) fn new(entries: PathBuf, own: PathBuf, lasting: bool) -> Self {
        Self { entries, own, lasting, of_layers: Mutex::default() }
    }

    /// The store in a folder that lasts, made where it is not there, or in a run's own.
    pub(crate) fn of(lasting: Option<&Path>, own: &Path) -> Result<Self, Error> {
        if let Some(folder) = lasting {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        }
        Ok(Self::new(lasting.unwrap_or(own).to_owned(), own.to_owned(), lasting.is_some()))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.entries.join(format!("{key}.{ENTRY}"))
    }

    /// What is known under this key, where that is enough for ranks up to `limit`. An entry that is damaged is none.
    pub(crate) fn find(&self, key: &Key, limit: Rank) -> Option<Entry> {
        Entry::open(&self.path(key))
            .ok()
            .filter(|entry| entry.decomposed.spectrum.is_complete() || entry.decomposed.limit >= limit)
    }

    /// Keeps a decomposed layer under its key.
    pub(crate) fn put(&self, layer: usize, key: &Key, decomposed: &Decomposed, basis: &Basis) -> Result<(), Error> {
        let path = self.path(key);
        let entry = Entry::create(&path, decomposed, basis, self.lasting).map_err(|e| Error::io("write", path, e))?;
        self.adopt(layer, entry);
        Ok(())
    }

    /// Takes an entry that was found for a layer's own.
    pub(crate) fn adopt(&self, layer: usize, entry: Entry) {
        self.of_layers().insert(layer, entry);
    }

    fn of_layers(&self) -> MutexGuard<'_, HashMap<usize, Entry>> {
        self.of_layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leading `r` vectors of a layer's basis.
    pub(crate) fn take(&self, layer: usize, r: Rank) -> Result<Basis, Error> {
        let found = self.of_layers().get(&layer).map(|entry| (entry.path.clone(), entry.basis(r)));
        let none = || {
            Err(Error::io("read", &self.entries, std::io::Error::other(format!("nothing is kept of layer {layer}"))))
        };
        found.map_or_else(none, |(path, basis)| basis.map_err(|e| Error::io("read", path, e)))
    }

    fn factors_path(&self, layer: usize) -> PathBuf {
        self.own.join(format!("{layer}.factors"))
    }

    /// Keeps the factors of a layer; former ones of the same layer are gone.
    pub(crate) fn put_factors(&self, layer: usize, made: &Factors) -> Result<(), Error> {
        let path = self.factors_path(layer);
        let write = || {
            let mut file = BufWriter::new(File::create(&path)?);
            factors::write_factors(&mut file, made)?;
            file.flush()
        };
        write().map_err(|e| Error::io("write", &path, e))
    }

    /// The factors of a layer, where there are any.
    pub(crate) fn take_factors(&self, layer: usize) -> Result<Option<Factors>, Error> {
        let path = self.factors_path(layer);
        match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            file => file
                .and_then(|file| factors::read_factors(&mut BufReader::new(file)))
                .map(Some)
                .map_err(|e| Error::io("read", path, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2};

    use super::*;

    #[test]
    fn factors_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), folder.path().to_owned(), false);
        let factors = |bias: Option<Array1<f32>>| Factors {
            left: Array2::from_shape_fn((5, 2), |(i, j)| (i * 2 + j) as f32),
            right: Array2::from_shape_fn((3, 2), |(i, j)| (i + 3 * j) as f32 / 7.0).reversed_axes(),
            bias,
        };
        assert_eq!(store.take_factors(3).unwrap(), None);
        for given in [factors(None), factors(Some(Array1::from_elem(5, 0.1)))] {
            store.put_factors(3, &given).unwrap();
            assert_eq!(store.take_factors(3).unwrap(), Some(given));
        }
    }
}
