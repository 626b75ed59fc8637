//! How much energy the best subspace of rank `k` can capture beyond what Ritz vectors capture.

use faer::Mat;

use super::subspace::Ritz;
use crate::eigen::Eigen;
use crate::tridiagonal::Lower;

/// An upper bound on `Σ_{i≤k} λᵢ(M) − Σ_{i≤k} θᵢ`, given `outside ≥ λ₁(M⊥)`.
///
/// In the basis of the subspace and its complement `M = [Θ, Rᵀ; R, M⊥]`. For every `t > λ₁(M⊥)` the matrix
/// `[Rᵀ (tI − M⊥)⁻¹ R, −Rᵀ; −R, tI − M⊥]` is positive semidefinite (its Schur complement is zero), so
/// `M ≼ [Θ + RᵀR / (t − λ₁(M⊥)), 0; 0, tI]`, and by Weyl the sum of the `k` largest eigenvalues of the right side bounds
/// the one of `M`. Some values of `t` are tried; each gives a bound.
///
/// Every `λᵢ` is bounded on the way, so the bound for `k` bounds the excess at every smaller rank too.
pub(super) fn excess(ritz: &Ritz, outside: f64, k: usize, energy: f64) -> f64 {
    let smallest = ritz.values[k - 1];
    let wide = (smallest - outside).max(0.0);
    let floor = 1e-15 * energy;
    [0.5 * wide, wide, 0.02 * outside, 0.1 * outside, 0.3 * outside]
        .into_iter()
        .filter(|&above| above > floor)
        .chain([16.0 * floor, 256.0 * floor])
        .filter_map(|above| at(ritz, outside + above, above, k))
        .fold(f64::INFINITY, f64::min)
}

/// The part of the bound that no residual explains, the gap between `θ_k` and the outside: more steps hardly help.
pub(super) fn without_residual(ritz: &Ritz, outside: f64, k: usize) -> f64 {
    ritz.values.iter().take(k).map(|theta| (outside - theta).max(0.0)).sum()
}

fn at(ritz: &Ritz, t: f64, above: f64, k: usize) -> Option<f64> {
    let dimensions = ritz.values.len();
    let lifted = Mat::from_fn(dimensions, dimensions, |i, j| {
        ritz.residual[(i, j)] / above + if i == j { ritz.values[i] } else { 0.0 }
    });
    let bounds = Eigen::of(Lower::of(lifted.as_ref()))?;
    Some(bounds.values().iter().zip(&ritz.values).take(k).map(|(bound, theta)| (bound.max(t) - theta).max(0.0)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    use crate::orthonormal::orthonormal;
    use crate::products::product;

    /// The bound holds, for subspaces from nearly invariant to random, and is within reach where there is a gap.
    #[test]
    fn the_excess_is_bounded() {
        let (n, dimensions, k) = (30, 9, 6);
        for seed in 0..20 {
            let mut noise = Noise::new(seed);
            let x = noise.matrix(n, n);
            let scaled = Mat::from_fn(n, n, |i, j| x[(i, j)] * 0.8_f64.powi(i32::try_from(i).unwrap()));
            let m = product(scaled.as_ref(), scaled.transpose());
            let truth = Eigen::of(Lower::of(m.as_ref())).unwrap();
            let stray = noise.matrix(n, dimensions);
            let size = 10_f64.powi(-i32::try_from(seed % 5).unwrap());
            let lead = truth.precise(dimensions).unwrap();
            let q = orthonormal(Mat::from_fn(n, dimensions, |i, j| lead[(i, j)] + size * stray[(i, j)]));
            let (ritz, outside) = exact_ritz(&m, &q);
            let best: f64 = truth.values()[..k].iter().sum();
            let excess_true = best - ritz.values[..k].iter().sum::<f64>();
            let energy = truth.values().iter().sum();
            let bound = excess(&ritz, outside, k, energy);
            assert!(bound >= excess_true - 1e-12 * energy, "seed {seed}: {bound:e} < {excess_true:e}");
            assert!(size > 2e-3 || bound <= 0.05 * energy, "seed {seed}: {bound:e} of {energy:e}");
        }
    }

    fn exact_ritz(m: &Mat<f64>, q: &Mat<f64>) -> (Ritz, f64) {
        let image = product(m.as_ref(), q.as_ref());
        let eigen = Eigen::of(Lower::of(product(q.transpose(), image.as_ref()).as_ref())).unwrap();
        let turn = eigen.precise(q.ncols()).unwrap();
        let vectors = product(q.as_ref(), turn.as_ref());
        let image = product(m.as_ref(), vectors.as_ref());
        let off =
            Mat::from_fn(image.nrows(), image.ncols(), |i, j| image[(i, j)] - vectors[(i, j)] * eigen.values()[j]);
        let residual = product(off.transpose(), off.as_ref());
        let keep = Mat::from_fn(q.nrows(), q.nrows(), |i, j| f64::from(u8::from(i == j)) - row_dot(q, i, j));
        let outside = product(product(keep.as_ref(), m.as_ref()).as_ref(), keep.as_ref());
        let outside = Eigen::of(Lower::of(outside.as_ref())).unwrap().values()[0];
        (Ritz { vectors, values: eigen.values().to_vec(), residual }, outside)
    }

    fn row_dot(q: &Mat<f64>, i: usize, j: usize) -> f64 {
        (0..q.ncols()).map(|c| q[(i, c)] * q[(j, c)]).sum()
    }
}
