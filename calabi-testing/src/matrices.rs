//! Matrices with known spectra.

use std::f64::consts::TAU;

use ndarray::{Array1, Array2, ArrayView2, Axis};

/// A small generator of random numbers (`SplitMix64`): the same seed, the same numbers, on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1].
    pub fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Normal with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (TAU * self.uniform()).cos()
    }
}

/// A matrix of independent normal entries, `rows × cols`.
#[must_use]
pub fn gaussian(rows: usize, cols: usize, seed: u64) -> Array2<f64> {
    let mut random = Random::new(seed);
    Array2::from_shape_simple_fn((rows, cols), || random.normal())
}

/// Random orthonormal columns, `rows × cols` with `cols ≤ rows`, orthonormal to the precision of `f64`.
#[must_use]
pub fn orthonormal(rows: usize, cols: usize, seed: u64) -> Array2<f64> {
    let mut q = gaussian(rows, cols, seed);
    for j in 0..cols {
        let (before, mut rest) = q.view_mut().split_at(Axis(1), j);
        let mut column = rest.column_mut(0);
        for _ in 0..2 {
            let along: Array1<f64> = before.t().dot(&column);
            column -= &before.dot(&along);
        }
        let length = column.dot(&column).sqrt();
        column /= length;
    }
    q
}

/// `Q₁ Σ Q₂ᵀ` of shape `rows × cols`, with random orthogonal `Q₁`, `Q₂` and these singular values; the others are zero.
#[must_use]
pub fn with_spectrum(rows: usize, cols: usize, values: &[f64], seed: u64) -> Array2<f64> {
    let left = orthonormal(rows, values.len(), seed);
    let right = orthonormal(cols, values.len(), seed ^ 0x5bd1_e995);
    (left * ndarray::aview1(values)).dot(&right.t())
}

/// `Q Λ Qᵀ`, `n × n` and exactly symmetric, with these eigenvalues; the others are zero.
#[must_use]
pub fn with_eigenvalues(n: usize, values: &[f64], seed: u64) -> Array2<f64> {
    let q = orthonormal(n, values.len(), seed);
    let s = (&q * &ndarray::aview1(values)).dot(&q.t());
    (&s + &s.t()) * 0.5
}

/// Rounds to `f32`.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // the purpose
pub fn rounded(matrix: &Array2<f64>) -> Array2<f32> {
    matrix.mapv(|v| v as f32)
}

/// The same entries as `f64`.
#[must_use]
pub fn widened(matrix: ArrayView2<'_, f32>) -> Array2<f64> {
    matrix.mapv(f64::from)
}

/// Values that fall geometrically from 1 to `1 / condition`.
#[must_use]
pub fn graded(count: usize, condition: f64) -> Vec<f64> {
    let steps = count.saturating_sub(1).max(1) as f64;
    (0..count).map(|i| condition.powf(-(i as f64) / steps)).collect()
}

/// Three clusters of equal values, a hundredfold apart.
#[must_use]
pub fn clustered(count: usize) -> Vec<f64> {
    (0..count).map(|i| [1.0, 1e-2, 1e-4][3 * i / count.max(1)]).collect()
}

/// Values that fall slowly, as those of trained weights do: `(1 + i)^-½`.
#[must_use]
pub fn slow(count: usize) -> Vec<f64> {
    (0..count).map(|i| (1.0 + i as f64).powf(-0.5)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_orthonormal() {
        let q = orthonormal(40, 25, 1);
        let off = q.t().dot(&q) - Array2::<f64>::eye(25);
        assert!(off.iter().all(|v| v.abs() < 1e-14));
    }

    #[test]
    fn the_energy_is_that_of_the_values() {
        let values = graded(12, 1e6);
        let a = with_spectrum(20, 12, &values, 3);
        let energy: f64 = a.iter().map(|v| v * v).sum();
        let wanted: f64 = values.iter().map(|v| v * v).sum();
        assert!((energy / wanted - 1.0).abs() < 1e-13);
    }
}
