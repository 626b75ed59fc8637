//! A proof that no subspace captures much more of a matrix than the one at hand.
//!
//! For orthonormal `X` of `k` columns, any `t` and any positive semidefinite `K`: where `D = t I + X K Xᵀ − M` is positive
//! semidefinite, the sum of the `k` largest eigenvalues of `M` is at most `k t + tr K` (Weyl). With Ritz vectors `X`, values `Θ`
//! and residuals `R`, and what `M` does outside of them bounded by `u < t`, `D` is so for `K = Θ − t I + RᵀR / (t − u)` (its Schur
//! complement; negative `θ − t` count as zero). Hence what may be missing is spent on three things: a `t` above the last
//! `θᵢ`, which costs little, for few are raised by it, and by less than it gains on all that is left out; a multiple of `RᵀR`; and
//! a little for all alike, against rounding. A Cholesky factorization tells whether `D` is positive definite: nothing is
//! assumed about what lies outside.

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

/// What every vector gets at least, as a share of the rounding.
const ABOVE_ROUNDING: f64 = 1.5;

/// What is claimed of a matrix: that its largest eigenvalues amount to so much at most.
#[derive(Debug)]
pub(super) struct Claim {
    /// `t`.
    level: f64,
    /// What a Cholesky factor of `D` may be off.
    rounding: f64,
    /// What every vector gets.
    alike: f64,
    /// What a multiple of `RᵀR` gets, and the trace of `RᵀR` itself.
    rest: f64,
    strayed: f64,
}

impl Claim {
    /// That as many eigenvalues of an `n × n` matrix as there are Ritz values amount to at most `allowed` more than these.
    pub(super) fn new(ritz: &Ritz, n: usize, allowed: f64) -> Self {
        let (k, rest) = (ritz.values.len() as f64, (1.0 - RAISED) * allowed);
        let level = level(&ritz.values, RAISED * allowed);
        let first = ritz.values.first().copied().unwrap_or_default();
        let rounding = ROUNDING * (level * (n as f64).sqrt() + first);
        let alike = (ALIKE * rest / k).max(ABOVE_ROUNDING * rounding);
        Self { level, rounding, alike, rest: rest - k * alike, strayed: ritz.strayed() }
    }

    /// What the residuals need, as a share of what they get, where eigenvalues of what the vectors leave out are at most `outside`: up
    /// to one the claim holds, but for rounding.
    pub(super) fn strain(&self, outside: f64) -> f64 {
        let gap = self.level - outside;
        if gap > 0.0 && self.rest > 0.0 { self.strayed / (gap * self.rest) } else { f64::INFINITY }
    }

    /// Whether it is so, told with the Ritz vectors.
    pub(super) fn holds(&self, matrix: &Lower<f32>, ritz: &Ritz, vectors: &Mat<f32>) -> bool {
        let less = product(vectors.as_ref(), self.negative_weights(ritz).as_ref());
        let mut left = negated(matrix);
        subtract_lower(left.as_mut(), less.as_ref(), vectors.transpose());
        left.add_to_diagonal(Real::of(self.level - self.rounding));
        cholesky::factor(left.as_mut()).is_ok()
    }

    /// `−K`, of trace `−Σ max(θ − t, 0)` less what may be missing for it.
    fn negative_weights(&self, ritz: &Ritz) -> Mat<f32> {
        let r = ritz.values.len();
        let multiple = if self.strayed > 0.0 { ritz.unit.powi(2) * self.rest / self.strayed } else { 0.0 };
        Mat::from_fn(r, r, |i, j| {
            let residual = multiple * f64::from(ritz.residuals[(i.max(j), i.min(j))]);
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
