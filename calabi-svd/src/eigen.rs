//! Eigenvalues of a symmetric matrix first, eigenvectors of the leading ones when they are asked for.

use faer::Mat;

use crate::real::Real;
use crate::tridiagonal::{Lower, Reduction};

/// Eigenvectors are transformed back in panels of so many, whatever the rank asked for: a vector's bits never depend on it.
const PANEL: usize = 64;

/// A symmetric matrix reduced to a tridiagonal one, and its eigenvalues: vectors of any rank can be had. Takes `n²` numbers.
#[derive(Debug)]
pub(crate) struct Eigen<T> {
    reduction: Reduction<T>,
    /// All eigenvalues, largest first.
    values: Vec<f64>,
}

impl<T: Real> Eigen<T> {
    /// Takes apart a symmetric matrix, in its own place. None where its eigenvalues do not converge.
    pub(crate) fn of(s: Lower<T>) -> Option<Self> {
        let reduction = Reduction::of(s);
        let values = reduction.tridiagonal.values()?;
        Some(Self { reduction, values })
    }

    /// All eigenvalues, largest first.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// Eigenvectors of the `r` largest eigenvalues, `n × r`; none where they do not converge.
    pub(crate) fn leading(&self, r: usize) -> Option<Mat<T>> {
        let n = self.values.len();
        let padded = r.next_multiple_of(PANEL).min(n);
        let tridiagonal = &self.reduction.tridiagonal;
        let inner = if T::ONE_BY_ONE {
            tridiagonal.vectors_one_by_one(&self.values, padded)?
        } else {
            tridiagonal.vectors_by_division(padded)?
        };
        let mut vectors = Mat::from_fn(n, padded, |i, j| T::of(inner[(i, j)]));
        for first in (0..padded).step_by(PANEL) {
            self.reduction.transform_back(vectors.subcols_mut(first, PANEL.min(padded - first)));
        }
        vectors.truncate(n, r);
        Some(vectors)
    }
}
