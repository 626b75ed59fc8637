//! What an entry of the work store is known by: a hash of all that its content depends on.

use std::fmt;

use calabi_api::{Decomposer, Rank};
use ndarray::ArrayView2;

use crate::metric::Metric;

/// The version of what entries hold: another one, and nothing is found.
const VERSION: u8 = 1;

/// A hash of the weight, the metric, the decomposer with its settings, and the arithmetic of this program on this processor;
/// and of the largest rank whose losses are known, where they are found with vectors.
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
        hash.numbers(weight.shape().iter().map(|&length| length as u64), u64::to_le_bytes);
        hash.numbers(weight.iter().copied(), f32::to_le_bytes);
        match metric {
            Some(metric) => {
                hash.text(metric.hash().to_hex().as_str());
                if decomposer.is_complete() && !metric.tells_losses() {
                    hash.text(&known.to_string());
                }
            }
            None => hash.text("no metric"),
        }
        Self(hash.finish())
    }
}

impl fmt::Display for Key {
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
    pub(super) fn file(&mut self, path: &std::path::Path) -> std::io::Result<()> {
        let mut own = blake3::Hasher::new();
        own.update_reader(std::fs::File::open(path)?)?;
        self.0.update(own.finalize().as_bytes());
        Ok(())
    }

    /// A text, told apart from whatever follows.
    pub(crate) fn text(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }

    /// Numbers, of which there are as many as what was hashed before says.
    pub(crate) fn numbers<T, const N: usize>(&mut self, numbers: impl Iterator<Item = T>, bytes: fn(T) -> [u8; N]) {
        let mut buffer = Vec::with_capacity(1 << 14);
        for number in numbers {
            if buffer.len() + N > buffer.capacity() {
                self.0.update(&buffer);
                buffer.clear();
            }
            buffer.extend(bytes(number));
        }
        self.0.update(&buffer);
    }
}
