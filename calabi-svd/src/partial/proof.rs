//! A proof that no subspace captures much more of a matrix than the one at hand.
//!
//! For orthonormal `X` of `k` columns, any `t` and any positive semidefinite `K`: where `D = t I + X K Xᵀ − M` is positive
//! semidefinite, the sum of the `k` largest eigenvalues of `M` is at most `k t + tr K` (Weyl). With Ritz vectors `X`, values `Θ`
//! and residuals `R`, and what `M` does outside of them bounded by `u < t`, `D` is so for `K = Θ − t I + RᵀR / (t − u)` (its Schur
//! complement). Hence what may be missing is spent on three things: a `t` above the last `θᵢ`, which costs little, for few
//! are raised by it, and by less than it gains on all that is left out; a multiple of `RᵀR`; and a little for all alike, against
//! rounding. A Cholesky factorization tells whether `D` is positive definite: nothing is assumed about what lies outside.

use faer::Mat;

use super::krylov::Ritz;
use crate::cholesky;
use crate::products::{product, subtract_lower};
use crate::real::Real;
use crate::tridiagonal::Lower;

/// The share of what may be missing that raises the last vectors to a common `t`.
const RAISED: f64 = 0.4;

/// The share of the rest that all vectors get alike.
const ALIKE: f64 = 0.1;

/// Rounding of the factorization as a share of `t √n` (its statistical bound; Higham and Mary, 2019), and of `D` as one of
/// the largest eigenvalue.
const ROUNDING: f64 = 8.0 * f32::EPSILON as f64;

/// What is claimed of a matrix: that its largest eigenvalues amount to so much at most.
#[derive(Debug)]
pub(super) struct Claim {
    /// `t`.
    level: f64,
    /// What every vector gets.
    alike: f64,
    /// The multiple of `RᵀR`.
    multiple: f64,
}

impl Claim {
    /// That as many as there are Ritz values amount to at most `allowed` more than these.
    pub(super) fn new(ritz: &Ritz, allowed: f64) -> Self {
        let rest = (1.0 - RAISED) * allowed;
        let strayed: f64 = ritz.residuals.diagonal().column_vector().iter().map(|&v| f64::from(v)).sum();
        Self {
            level: level(&ritz.values, RAISED * allowed),
            alike: ALIKE * rest / ritz.values.len() as f64,
            multiple: (1.0 - ALIKE) * rest / strayed,
        }
    }

    /// Whether the claim is worth its proof, where eigenvalues of what the vectors leave out are `outside` at least and not much more.
    pub(super) fn strain(&self, outside: f64) -> f64 {
        let gap = self.level - outside;
        if gap > 0.0 { 1.0 / (gap * self.multiple) } else { f64::INFINITY }
    }

    /// Whether it is so.
    pub(super) fn holds(&self, matrix: &Lower<f32>, ritz: &Ritz) -> bool {
        let Some(&first) = ritz.values.first() else { return false };
        let rounding = ROUNDING * (self.level * (matrix.size as f64).sqrt() + first);
        let less = product(ritz.vectors.as_ref(), self.negative_weights(ritz).as_ref());
        let mut left = negated(matrix);
        subtract_lower(left.as_mut(), less.as_ref(), ritz.vectors.transpose());
        left.add_to_diagonal(Real::of(self.level - rounding));
        cholesky::factor(left.as_mut()).is_ok()
    }

    /// `−K`, of trace `−Σ max(θ − t, 0)` less what may be missing for it.
    fn negative_weights(&self, ritz: &Ritz) -> Mat<f32> {
        let r = ritz.values.len();
        Mat::from_fn(r, r, |i, j| {
            let residual = self.multiple * f64::from(ritz.residuals[(i.max(j), i.min(j))]);
            let own = if i == j { (ritz.values[i] - self.level).max(0.0) + self.alike } else { 0.0 };
            Real::of(-(residual + own))
        })
    }
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
