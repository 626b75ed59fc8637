//! The bidiagonal route: a singular value decomposition in `f64` that never squares the matrix.

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Mat, Par, Spec};

use crate::smaller::{Smaller, Solved};
use crate::weight::Weight;

/// Singular values of the scaled weight with errors of some 1e-15 of `σ₁`, and vectors of the smaller side.
pub(crate) fn solve(weight: &Weight<'_>, kept: usize) -> Option<Solved> {
    let wide = weight.wide();
    let tall = Mat::from_fn(wide.ncols(), wide.nrows(), |i, j| f64::from(wide[(j, i)]));
    let (values, vectors) = right_vectors(&tall)?;
    Some(Solved { values, smaller: Smaller::Ready(leading_columns(vectors, kept)) })
}

/// All singular values, largest first, and right singular vectors of a matrix that is not wider than high.
pub(crate) fn right_vectors(tall: &Mat<f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let (rows, cols) = tall.shape();
    let (no, thin) = (ComputeSvdVectors::No, ComputeSvdVectors::Thin);
    let mut values = vec![0.0; cols];
    let mut vectors = Mat::zeros(cols, cols);
    let mut memory = MemBuffer::new(svd_scratch::<f64>(rows, cols, no, thin, Par::Seq, Spec::default()));
    svd(
        tall.as_ref(),
        DiagMut::from_slice_mut(&mut values),
        None,
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut memory),
        Spec::default(),
    )
    .ok()?;
    values.iter().all(|v| v.is_finite()).then_some((values, vectors))
}

/// The first `kept` columns, without holding on to the others.
pub(crate) fn leading_columns(vectors: Mat<f64>, kept: usize) -> Mat<f64> {
    if kept < vectors.ncols() { vectors.subcols(0, kept).to_owned() } else { vectors }
}
