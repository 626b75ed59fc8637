//! Products of matrices with a few random vectors of signs, in `f64`: what a product that was made in `f32` is off by, for next to
//! nothing.
//!
//! For a matrix `A` and a vector `z` of random signs the mean of `‖A z‖²` is `‖A‖²`, and that of `(A z)ᵀ (B z)` is `tr(Aᵀ B)`.

use crate::noise::Noise;
use crate::simd::vectorized;
use crate::weight::{add_multiple, dot, dots};

/// Vectors at a time: a row is read once for all.
const COUNT: usize = 4;

/// As many vectors.
#[derive(Debug, Clone)]
pub(super) struct Probes([Vec<f64>; COUNT]);

impl Probes {
    pub(super) fn signs(size: usize) -> Self {
        let mut noise = Noise::new(0);
        Self(std::array::from_fn(|_| noise.signs(size)))
    }

    /// `A z`, for the rows of `A`.
    pub(super) fn times<'a, T: Copy + Into<f64> + 'a>(&self, rows: impl Iterator<Item = &'a [T]>) -> Self {
        self.each(
            rows,
            #[inline(always)] // for the instructions of its caller
            |_, row, z| dots(row, z),
        )
    }

    /// `T z` for the lower triangle `T` of a matrix with these rows, its diagonal halved.
    pub(super) fn times_half<'a>(&self, rows: impl Iterator<Item = &'a [f64]>) -> Self {
        self.each(
            rows,
            #[inline(always)] // for the instructions of its caller
            |i, row, z| {
                let before = dots(&row[..i], z.map(|z| &z[..i]));
                std::array::from_fn(|k| before[k] + 0.5 * row[i] * z[k][i])
            },
        )
    }

    /// What each row, with its number, makes of the vectors.
    fn each<'a, T: 'a>(
        &self,
        rows: impl Iterator<Item = &'a [T]>,
        of: impl Fn(usize, &'a [T], [&[f64]; COUNT]) -> [f64; COUNT],
    ) -> Self {
        let vectors = self.0.each_ref().map(Vec::as_slice);
        let mut products: [Vec<f64>; COUNT] = std::array::from_fn(|_| Vec::new());
        vectorized! {
            for (i, row) in rows.enumerate() {
                products.iter_mut().zip(of(i, row, vectors)).for_each(|(products, product)| products.push(product));
            }
        }
        Self(products)
    }

    /// `Aᵀ z`, for the rows of `A`, of so many entries.
    pub(super) fn times_transposed<'a>(&self, rows: impl Iterator<Item = &'a [f32]>, size: usize) -> Self {
        let mut sums = std::array::from_fn(|_| vec![0.0; size]);
        vectorized! {
            for (i, row) in rows.enumerate() {
                for (sums, z) in sums.iter_mut().zip(&self.0) {
                    add_multiple(sums, z[i], row);
                }
            }
        }
        Self(sums)
    }

    /// The same vectors, further entries behind these.
    pub(super) fn joined(each: &[Self]) -> Self {
        Self(std::array::from_fn(|k| each.iter().flat_map(|probes| &probes.0[k]).copied().collect()))
    }

    pub(super) fn minus(mut self, other: &Self) -> Self {
        let pairs = self.0.iter_mut().flatten().zip(other.0.iter().flatten());
        pairs.for_each(|(a, b)| *a -= b);
        self
    }

    /// The root of the mean of `(a · b)²` over the vectors.
    pub(super) fn typical_product(&self, other: &Self) -> f64 {
        let squares = self.0.iter().zip(&other.0).map(|(a, b)| dot(a, b).powi(2));
        (squares.sum::<f64>() / COUNT as f64).sqrt()
    }

    /// The root of the mean of `a · a` over the vectors.
    pub(super) fn typical_norm(&self) -> f64 {
        (self.0.iter().map(|a| dot(a, a)).sum::<f64>() / COUNT as f64).sqrt()
    }
}
