//! A proof that no subspace captures much more of a matrix than the one at hand.
//!
//! For orthonormal `X`, some `t`, and `φᵢ ≥ t`: where `D = t I + X diag(φ − t) Xᵀ − M` is positive semidefinite, the sum of the
//! `k` largest eigenvalues of `M` is at most `Σ φᵢ` (Weyl). Take `φᵢ = θᵢ + δᵢ` with the `δᵢ` shared out so that
//! their sum is what may be missing, more to vectors that are further from eigenvectors; and let a Cholesky factorization
//! tell whether `D` is positive definite. Nothing is assumed about what lies outside of the subspace.

use faer::Mat;

use super::krylov::Ritz;
use crate::cholesky;
use crate::products::add_gram;
use crate::tridiagonal::Lower;

/// The share of what may be missing that all vectors get alike.
const ALIKE: f64 = 0.5;

/// Rounding of the factorization as a share of `t √n` (its statistical bound; Higham and Mary, 2019), and of `D` as one of
/// the largest eigenvalue.
const ROUNDING: f64 = 8.0 * f32::EPSILON as f64;

/// Whether all eigenvalues that leading vectors stand for amount to at most `allowed` more than these capture.
pub(super) fn is_bounded(matrix: &Lower<f32>, ritz: &Ritz, allowed: f64) -> bool {
    let (Some(&first), Some(&last)) = (ritz.values.first(), ritz.values.last()) else { return false };
    let residuals: f64 = ritz.residuals.iter().sum();
    if residuals <= 0.0 || last <= 0.0 {
        return false;
    }
    let even = ALIKE / ritz.values.len() as f64;
    let raised = |i: usize| ritz.values[i] + allowed * (even + (1.0 - ALIKE) * ritz.residuals[i] / residuals);
    let scaled = Mat::from_fn(ritz.vectors.nrows(), ritz.vectors.ncols(), |i, j| {
        ritz.vectors[(i, j)] * nearest((raised(j) - last).max(0.0).sqrt())
    });
    let rounding = ROUNDING * (last * (matrix.size as f64).sqrt() + first);
    let mut left = negated(matrix);
    add_gram(left.as_mut(), scaled.as_ref());
    add_to_diagonal(&mut left, nearest(last - rounding));
    is_positive(&mut left)
}

fn negated(matrix: &Lower<f32>) -> Lower<f32> {
    Lower { entries: matrix.entries.iter().map(|v| -v).collect(), size: matrix.size }
}

fn add_to_diagonal(matrix: &mut Lower<f32>, by: f32) {
    for j in 0..matrix.size {
        matrix.entries[j * (matrix.size + 1)] += by;
    }
}

fn is_positive(matrix: &mut Lower<f32>) -> bool {
    cholesky::factor(matrix.as_mut()).is_ok()
}

#[allow(clippy::cast_possible_truncation)] // the nearest number is what is wanted
fn nearest(x: f64) -> f32 {
    x as f32
}
