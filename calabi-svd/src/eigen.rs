//! Eigenvalues of a symmetric matrix first, eigenvectors of the leading ones when they are asked for.

use faer::Mat;

use crate::real::Real;
use crate::threads;
use crate::tridiagonal::{Lower, Reduction};

/// Eigenvectors are transformed back in panels of so many, whatever the rank asked for: a vector's bits never depend on it.
pub(crate) const PANEL: usize = 32;

/// A symmetric matrix reduced to a tridiagonal one, and its eigenvalues: vectors of any rank can be had. Takes `n²` numbers, and half
/// as many more while it is reduced.
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

    /// Eigenvectors of the `r` largest eigenvalues, `n × r`, orthonormal to 1e-7; none where they do not converge.
    pub(crate) fn leading(&self, r: usize) -> Option<Mat<T>> {
        let padded = self.padded(r);
        let inner = self.reduction.tridiagonal.vectors_one_by_one(&self.values, padded)?;
        Some(self.transformed_back(&inner, r))
    }

    /// As [`leading`](Self::leading), where bits of a vector may depend on `r`: not more vectors than these are made.
    pub(crate) fn leading_alone(&self, r: usize) -> Option<Mat<T>> {
        let inner = self.reduction.tridiagonal.vectors_one_by_one(&self.values, r)?;
        Some(self.transformed_back(&inner, r))
    }

    /// As [`leading`](Self::leading), orthonormal as far as `T` goes.
    pub(crate) fn precise(&self, r: usize) -> Option<Mat<T>> {
        let inner = self.reduction.tridiagonal.vectors_by_division(self.padded(r))?;
        Some(self.transformed_back(&inner, r))
    }

    fn padded(&self, r: usize) -> usize {
        r.next_multiple_of(PANEL).min(self.values.len())
    }

    /// The leading `r` of these eigenvectors of the tridiagonal matrix, as those of the matrix itself.
    fn transformed_back(&self, inner: &Mat<f64>, r: usize) -> Mat<T> {
        let (n, padded) = inner.shape();
        let mut vectors = Mat::from_fn(n, padded, |i, j| T::of(inner[(i, j)]));
        let (mut panels, mut rest) = (Vec::new(), vectors.as_mut());
        while rest.ncols() > 0 {
            let width = PANEL.min(rest.ncols());
            let (panel, behind) = rest.split_at_col_mut(width);
            panels.push(panel);
            rest = behind;
        }
        threads::each(panels, &|panel| self.reduction.transform_back(panel));
        vectors.truncate(n, r);
        vectors
    }
}
