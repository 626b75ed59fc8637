//! Products of matrices with a few random vectors of signs, in `f64`: what a product that was made in `f32` is off by, for next to
//! nothing.
//!
//! For a matrix `A` and a vector `z` of random signs the mean of `‖A z‖²` is `‖A‖²`, and that of `(A z)ᵀ (B z)` is `tr(Aᵀ B)`.

use pulp::Arch;

use crate::noise::Noise;

/// Vectors at a time.
const COUNT: usize = 4;

/// As many vectors, entry by entry.
#[derive(Debug, Clone)]
pub(super) struct Probes(Vec<[f64; COUNT]>);

impl Probes {
    pub(super) fn signs(size: usize) -> Self {
        let mut noise = Noise::new(0);
        let mut sign = || if noise.signed_index(1).1 { -1.0 } else { 1.0 };
        Self((0..size).map(|_| std::array::from_fn(|_| sign())).collect())
    }

    /// `A z`, for the rows of `A`.
    pub(super) fn times<'a, T: Copy + Into<f64> + 'a>(&self, rows: impl Iterator<Item = &'a [T]>) -> Self {
        Arch::new().dispatch(|| Self(rows.map(|row| along(row, &self.0)).collect()))
    }

    /// `Aᵀ z`, for the rows of `A`, of so many entries.
    pub(super) fn times_transposed<'a, T: Copy + Into<f64> + 'a>(
        &self,
        rows: impl Iterator<Item = &'a [T]>,
        size: usize,
    ) -> Self {
        let mut sums = vec![[0.0; COUNT]; size];
        Arch::new().dispatch(|| rows.zip(&self.0).for_each(|(row, by)| add(&mut sums, row, by)));
        Self(sums)
    }

    /// `T z` for the lower triangle `T` of a matrix with these rows, its diagonal halved.
    pub(super) fn times_half<'a>(&self, rows: impl Iterator<Item = &'a [f64]>) -> Self {
        let below = |(i, row): (usize, &'a [f64])| {
            let sums = along(row.get(..i).unwrap_or_default(), &self.0);
            let own = row.get(i).zip(self.0.get(i)).map_or([0.0; COUNT], |(&d, z)| z.map(|z| 0.5 * d * z));
            std::array::from_fn(|k| sums[k] + own[k])
        };
        Arch::new().dispatch(|| Self(rows.enumerate().map(below).collect()))
    }

    /// The same vectors, further entries behind these.
    pub(super) fn joined(each: impl IntoIterator<Item = Self>) -> Self {
        Self(each.into_iter().flat_map(|probes| probes.0).collect())
    }

    pub(super) fn minus(mut self, other: &Self) -> Self {
        let pairs = self.0.iter_mut().flatten().zip(other.0.iter().flatten());
        pairs.for_each(|(a, b)| *a -= b);
        self
    }

    /// The root of the mean of `(a · b)²` over the vectors.
    pub(super) fn typical_product(&self, other: &Self) -> f64 {
        let mut sums = [0.0; COUNT];
        for (a, b) in self.0.iter().zip(&other.0) {
            sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
        }
        (sums.iter().map(|sum| sum * sum).sum::<f64>() / COUNT as f64).sqrt()
    }

    /// The root of the mean of `a · a` over the vectors.
    pub(super) fn typical_norm(&self) -> f64 {
        (self.0.iter().flatten().map(|a| a * a).sum::<f64>() / COUNT as f64).sqrt()
    }
}

/// The products of a row with the vectors, in four strands each: one strand waits for each addition.
#[allow(clippy::inline_always)] // for the instructions of its caller
#[inline(always)]
fn along<T: Copy + Into<f64>>(row: &[T], z: &[[f64; COUNT]]) -> [f64; COUNT] {
    let (rows, rest) = row.as_chunks::<4>();
    let (zs, tail) = z.get(..row.len()).unwrap_or(z).as_chunks::<4>();
    let mut strands = [[0.0; COUNT]; 4];
    for (row, z) in rows.iter().zip(zs) {
        for ((strand, &a), z) in strands.iter_mut().zip(row).zip(z) {
            let a: f64 = a.into();
            strand.iter_mut().zip(z).for_each(|(sum, z)| *sum += a * z);
        }
    }
    for ((strand, &a), z) in strands.iter_mut().zip(rest).zip(tail) {
        let a: f64 = a.into();
        strand.iter_mut().zip(z).for_each(|(sum, z)| *sum += a * z);
    }
    std::array::from_fn(|k| strands.iter().map(|strand| strand[k]).sum())
}

#[allow(clippy::inline_always)] // for the instructions of its caller
#[inline(always)]
fn add<T: Copy + Into<f64>>(sums: &mut [[f64; COUNT]], row: &[T], by: &[f64; COUNT]) {
    for (sum, &a) in sums.iter_mut().zip(row) {
        let a: f64 = a.into();
        sum.iter_mut().zip(by).for_each(|(sum, by)| *sum += a * by);
    }
}
