//! Symmetric tridiagonal matrices: how a symmetric matrix becomes one, its eigenvalues, and eigenvectors of the leading ones.

mod divide;
mod packed;
mod panel;
mod reduce;
#[cfg(test)]
mod tests;
mod values;
mod vectors;

pub(crate) use packed::{BLOCK, ROWS};
pub(crate) use reduce::{Lower, Reduction, WIDTH, reduce_panel};

/// A symmetric tridiagonal matrix `T`, `n × n`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tridiagonal {
    /// `n` entries.
    pub(crate) diagonal: Vec<f64>,
    /// `n − 1` entries.
    pub(crate) below: Vec<f64>,
}

impl Tridiagonal {
    pub(crate) fn size(&self) -> usize {
        self.diagonal.len()
    }

    /// A bound on the magnitude of its eigenvalues: the largest sum of magnitudes of a row (Gershgorin).
    fn norm(&self) -> f64 {
        let beside = |i: Option<usize>| i.and_then(|i| self.below.get(i)).map_or(0.0, |b| b.abs());
        let row = |(i, d): (usize, &f64)| d.abs() + beside(i.checked_sub(1)) + beside(Some(i));
        self.diagonal.iter().enumerate().map(row).fold(0.0, f64::max)
    }
}
