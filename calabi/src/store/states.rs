//! The hidden states of both models behind a block: what the sequential pass needs to go on.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use calabi_api::{RunError, StateSpace, States};
use ndarray::Array2;

use super::values::{put_f32s, put_length, take_bytes, take_f32s, take_length};
use super::whole::{self, damaged};
use super::{BlockKey, Store};
use crate::Error;

/// What files of states are called after the keys of their blocks.
pub(super) const STATES: &str = "states";

impl Store {
    fn states_path(&self, key: &BlockKey) -> PathBuf {
        self.entries.join(format!("{key}.{STATES}"))
    }

    /// The states of the original and of the compressed model behind a block; none where they are not kept, or damaged.
    pub(crate) fn find_states(&self, key: &BlockKey, space: &StateSpace) -> Option<[States; 2]> {
        let mut from = whole::content(&self.states_path(key)).ok()?;
        Some([read(&mut from, space).ok()?, read(&mut from, space).ok()?])
    }

    /// Keeps states.
    pub(crate) fn put_states(&self, key: &BlockKey, both: [&States; 2]) -> Result<(), Error> {
        let path = self.states_path(key);
        let written =
            whole::create(&path, self.lasting, |to| both.into_iter().try_for_each(|states| write(to, states)));
        written.map(drop).map_err(|e| Error::io("write", path, e))
    }

    /// Removes states that nothing goes on from any more, where they are.
    pub(crate) fn remove_states(&self, key: &BlockKey) {
        let _ = std::fs::remove_file(self.states_path(key));
    }
}

fn write(to: &mut dyn Write, states: &States) -> std::io::Result<()> {
    put_length(to, states.count())?;
    for sample in 0..states.count() {
        let values = states.get(sample).map_err(std::io::Error::other)?;
        let tokens: Option<Vec<u8>> = states.tokens(sample).map(|tokens| tokens.iter().map(|&t| u8::from(t)).collect());
        for length in [values.nrows(), values.ncols(), usize::from(tokens.is_some())] {
            put_length(to, length)?;
        }
        to.write_all(tokens.as_deref().unwrap_or_default())?;
        put_f32s(to, &*values)?;
    }
    Ok(())
}

fn read(from: &mut impl Read, space: &StateSpace) -> Result<States, RunError> {
    let failed = |error: std::io::Error| RunError::Failed(error.to_string());
    let mut states = States::new(space.clone());
    for _ in 0..take_length(from).map_err(failed)? {
        let (values, tokens) = read_sample(from).map_err(failed)?;
        states.push(values, tokens)?;
    }
    Ok(states)
}

/// The states of a sample, and which of its rows are tokens rather than padding.
type Sample = (Array2<f32>, Option<Arc<[bool]>>);

fn read_sample(from: &mut impl Read) -> std::io::Result<Sample> {
    let [rows, cols, masked] = [take_length(from)?, take_length(from)?, take_length(from)?];
    let tokens = if masked == 1 { Some(take_bytes(from, rows)?.iter().map(|&t| t == 1).collect()) } else { None };
    let values = take_f32s(from, rows.checked_mul(cols).ok_or_else(damaged)?)?;
    Ok((Array2::from_shape_vec((rows, cols), values).map_err(std::io::Error::other)?, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_back_as_they_were_and_damaged_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), folder.path().to_owned(), false);
        let key = BlockKey::of(&super::super::Hashed::new());
        let matrix = |seed: usize| Array2::from_shape_fn((3, 2), |(i, j)| (seed * 10 + 2 * i + j) as f32 / 7.0);
        let space = StateSpace::default();
        let [mut original, mut compressed] = [States::new(space.clone()), States::new(space.clone())];
        original.push(matrix(0), Some(Arc::from([true, true, false]))).unwrap();
        compressed.push(matrix(1), None).unwrap();
        compressed.push(matrix(2), None).unwrap();
        assert!(store.find_states(&key, &space).is_none());
        store.put_states(&key, [&original, &compressed]).unwrap();
        let [first, second] = store.find_states(&key, &space).unwrap();
        assert_eq!((first.count(), first.tokens(0)), (1, Some([true, true, false].as_slice())));
        assert_eq!((second.count(), second.tokens(0)), (2, None));
        assert_eq!((&*first.get(0).unwrap(), &*second.get(1).unwrap()), (&matrix(0), &matrix(2)));
        let mut spoilt = std::fs::read(store.states_path(&key)).unwrap();
        spoilt[70] ^= 1;
        std::fs::write(store.states_path(&key), spoilt).unwrap();
        assert!(store.find_states(&key, &space).is_none());
        store.remove_states(&key);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
