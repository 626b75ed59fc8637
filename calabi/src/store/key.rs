//! What an entry of the work store is known by: a hash of all that its content depends on.

use std::fmt;

use bytemuck::NoUninit;
use calabi_api::{Decomposer, Rank, Shape};
use ndarray::{ArrayRef, ArrayView2, Dimension};

use crate::metric::Metric;

/// The version of what entries hold: another one, and nothing is found.
const VERSION: u8 = 2;

/// A hash of the weight, the metric, the decomposer with its settings, and the arithmetic of this program on this processor;
/// and of the largest rank that is asked for, where what is found depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(blake3::Hash);

impl Key {
    pub(crate) fn of(
        weight: ArrayView2<'_, f32>,
        metric: Option<&Metric>,
        decomposer: &dyn Decomposer,
        known: Rank,
    ) -> Self {
        let mut hash = Hashed::new();
        hash.0.update(&[VERSION]);
        hash.text(&calabi_svd::arithmetic());
        hash.text(&format!("{decomposer:?}"));
        hash.numbers(&weight);
        let complete = Shape::of(weight).is_some_and(|shape| decomposer.is_complete(shape, known));
        let mut depends = !complete;
        match metric {
            Some(metric) => {
                hash.text(metric.hash().to_hex().as_str());
                depends |= !metric.tells_losses();
            }
            None => hash.text("no metric"),
        }
        if depends {
            hash.text(&known.to_string());
        }
        Self(hash.finish())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A hash of all that the factors of a block depend on, the blocks before it included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockKey(blake3::Hash);

impl BlockKey {
    pub(crate) fn of(hash: &Hashed) -> Self {
        Self(hash.finish())
    }
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A hash that grows.
pub(crate) struct Hashed(blake3::Hasher);

impl Hashed {
    pub(crate) fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    pub(crate) fn finish(&self) -> blake3::Hash {
        self.0.finalize()
    }

    /// The content of a file.
    pub(crate) fn file(&mut self, path: &std::path::Path) -> std::io::Result<()> {
        let mut own = blake3::Hasher::new();
        own.update_reader(std::fs::File::open(path)?)?;
        self.0.update(own.finalize().as_bytes());
        Ok(())
    }

    /// A text, told apart from whatever follows.
    pub(crate) fn text(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }

    /// The shape and the entries of an array, as this machine holds them.
    pub(crate) fn numbers<T: Copy + NoUninit, D: Dimension>(&mut self, numbers: &ArrayRef<T, D>) {
        for &length in numbers.shape() {
            self.0.update(&(length as u64).to_le_bytes());
        }
        let numbers = numbers.as_standard_layout();
        self.0.update(bytemuck::cast_slice(numbers.as_slice().unwrap_or_default()));
    }
}
