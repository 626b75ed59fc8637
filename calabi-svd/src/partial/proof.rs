//! A proof that no subspace captures much more of a matrix than the one at hand.
//!
//! For orthonormal `X`, any `t`, and `φᵢ ≥ t`: where `D = t I + X diag(φ − t) Xᵀ − M` is positive semidefinite, the sum of the
//! `k` largest eigenvalues of `M` is at most `Σ φᵢ` (Weyl). Take `φᵢ = max(t, θᵢ + δᵢ)` where their sum is what may be missing: a `t`
//! above the last `θᵢ` costs little, for few are raised by it, and by less than it gains on all that is left out; the `δᵢ` are
//! larger for vectors that are further from eigenvectors. A Cholesky factorization tells whether `D` is positive
//! definite. Nothing is assumed about what lies outside of the subspace.

use faer::Mat;

use super::krylov::Ritz;
use crate::cholesky;
use crate::products::add_gram;
use crate::real::Real;
use crate::tridiagonal::Lower;

/// The share of what may be missing that raises the last vectors to a common `t`.
const RAISED: f64 = 0.5;

/// The share of the rest that all vectors get alike.
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
    let level = level(&ritz.values, RAISED * allowed);
    let even = ALIKE / ritz.values.len() as f64;
    let raise = |residual: &f64| (1.0 - RAISED) * allowed * (even + (1.0 - ALIKE) * residual / residuals);
    let above = |(value, residual): (&f64, &f64)| (value + raise(residual) - level).max(0.0);
    let weights: Vec<f32> = ritz.values.iter().zip(&ritz.residuals).map(|pair| Real::of(above(pair).sqrt())).collect();
    let counted = weights.iter().rposition(|&weight| weight > 0.0).map_or(0, |last| last + 1);
    let scaled = Mat::from_fn(matrix.size, counted, |i, j| ritz.vectors[(i, j)] * weights[j]);
    let rounding = ROUNDING * (level * (matrix.size as f64).sqrt() + first);
    let mut left = negated(matrix);
    add_gram(left.as_mut(), scaled.as_ref());
    left.add_to_diagonal(Real::of(level - rounding));
    cholesky::factor(left.as_mut()).is_ok()
}

fn negated(matrix: &Lower<f32>) -> Lower<f32> {
    Lower { entries: matrix.entries.iter().map(|v| -v).collect(), size: matrix.size }
}

/// The `t` to which the last of these values (largest first) can be raised by so much in all.
fn level(values: &[f64], by: f64) -> f64 {
    let mut sum = by;
    let mut level = by;
    for (count, &value) in (1..).zip(values.iter().rev()) {
        if count > 1 && value >= level {
            break;
        }
        sum += value;
        level = sum / f64::from(count);
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_values_are_raised_to_one_level() {
        for (values, by, wanted) in
            [(&[8.0, 4.0, 3.0, 1.0][..], 1.0, 2.0_f64), (&[8.0, 4.0, 3.0, 1.0], 3.0, 3.5), (&[2.0, 1.0], 9.0, 6.0)]
        {
            assert_eq!(level(values, by).to_bits(), wanted.to_bits());
        }
    }
}
