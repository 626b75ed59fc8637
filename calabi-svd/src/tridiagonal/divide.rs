//! All eigenvectors at once, by divide and conquer: orthogonal to all digits, whatever the spectrum.

use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use faer::{Mat, Par, Spec};

use super::Tridiagonal;

impl Tridiagonal {
    /// Eigenvectors of the `r` largest eigenvalues, `n × r`, orthogonal to the precision of `f64`; none where divide and
    /// conquer does not converge. A vector does not depend on `r`.
    pub(crate) fn vectors_by_division(&self, r: usize) -> Option<Mat<f64>> {
        let mut vectors = Mat::zeros(self.size(), r);
        self.divide(0, &mut vectors)?;
        Some(vectors)
    }

    /// Replaces the columns from `first` on by eigenvectors, largest eigenvalue first; none where it does not converge.
    pub(super) fn divide(&self, first: usize, vectors: &mut Mat<f64>) -> Option<()> {
        let n = self.size();
        let below: Vec<f64> = self.below.iter().copied().chain([0.0]).collect();
        let mut values = vec![0.0; n];
        let mut all = Mat::zeros(n, n);
        let mut memory = MemBuffer::new(scratch(n));
        tridiagonal_self_adjoint_evd(
            DiagRef::from_slice(&self.diagonal),
            DiagRef::from_slice(&below),
            DiagMut::from_slice_mut(&mut values),
            Some(all.as_mut()),
            Par::Seq,
            MemStack::new(&mut memory),
            Spec::default(),
        )
        .ok()?;
        for j in first..vectors.ncols() {
            vectors.col_mut(j).copy_from(all.col(n - 1 - j));
        }
        values.iter().all(|v| v.is_finite()).then_some(())
    }
}

/// faer states no scratch for the tridiagonal step alone; the one of the whole decomposition holds it.
fn scratch(n: usize) -> StackReq {
    self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Spec::default())
}
