//! The same of a Gram matrix that is at hand in `f64`, `S' = P S P` with `P = I − (1 − β) u uᵀ`.

use ndarray::ArrayView2;

use super::{Damping, FIRST_PASSES, Leading, PASSES, SHARE, make_orthonormal, residual, scale_to_one, signs};
use crate::real::Real;
use crate::scale::Scale;
use crate::simd::vectorized;
use crate::tridiagonal::Lower;
use crate::weight::dot;

/// The rows of a symmetric matrix, finite, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SymmetricRows<'s> {
    entries: &'s [f64],
    pub(crate) size: usize,
    /// By what they are divided where they become `f32`.
    pub(crate) scale: Scale,
    /// The trace, undivided.
    pub(crate) energy: f64,
}

/// A Gram matrix whose first eigenvalue is scaled down, and its trace; both divided by the scale.
#[derive(Debug)]
pub(crate) struct DampedGram {
    pub(crate) gram: Lower<f32>,
    pub(crate) energy: f64,
    pub(crate) damping: Damping,
}

impl<'s> SymmetricRows<'s> {
    /// None where entries are not finite or not one after the other, or the diagonal is no sum of squares. Rows may be columns.
    pub(crate) fn of(s: &'s ArrayView2<'_, f64>) -> Option<Self> {
        let entries = s.as_slice_memory_order().filter(|_| s.is_square())?;
        let largest = s.diag().iter().copied().fold(0.0, f64::max);
        let energy = s.diag().sum();
        // The sum of magnitudes is finite where all of them are.
        let magnitude: f64 = entries.iter().map(|v| v.abs()).sum();
        let fine = magnitude.is_finite() && largest > 0.0 && s.diag().iter().all(|&v| v >= 0.0);
        fine.then_some(Self { entries, size: s.nrows(), scale: Scale::of(largest), energy })
    }

    /// Its lower triangle.
    pub(crate) fn lower(&self) -> Lower<f32> {
        self.lower_of(|_, _, v| v)
    }

    /// The lower triangle of what becomes of each entry, scaled.
    fn lower_of(&self, entry: impl Fn(usize, usize, f64) -> f64) -> Lower<f32> {
        let mut lower = Lower::zeros(self.size);
        for (j, row) in self.rows().enumerate() {
            // Row j of one triangle is column j of the other.
            let column = lower.column_mut(j, j).iter_mut().zip(&row[j..]).enumerate();
            column.for_each(|(below, (to, &v))| *to = Real::of(self.scale.down(entry(j, j + below, v))));
        }
        lower
    }

    fn rows(&self) -> impl Iterator<Item = &'s [f64]> {
        self.entries.chunks_exact(self.size)
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        let mut products = Vec::with_capacity(self.size);
        vectorized! {
            for row in self.rows() {
                products.push(dot(row, x));
            }
        }
        products
    }

    /// None where no direction outweighs the others, or power iteration does not find it soon.
    pub(crate) fn damped(&self) -> Option<DampedGram> {
        let mut found = Leading { rows: signs(self.size), squares: [0.0; 2], residual: 1.0 };
        for _ in 0..FIRST_PASSES {
            self.pass(&mut found);
        }
        if found.squares[0] < SHARE * self.energy {
            return None;
        }
        for _ in 0..PASSES {
            self.pass(&mut found);
        }
        let kept = found.kept()?;
        let [mut u, _] = found.rows;
        scale_to_one(&mut u);
        let image = self.times(&u);
        let square: f64 = image.iter().zip(&u).map(|(a, b)| a * b).sum();
        let cut = 1.0 - kept.sqrt();
        let once: Vec<f64> = image.iter().zip(&u).map(|(image, u)| cut * (image - 0.5 * cut * square * u)).collect();
        let gram = self.lower_of(|i, j, v| v - u[i] * once[j] - once[i] * u[j]);
        let taken = square * (1.0 - kept);
        let damping = Damping::of(self.scale.down(square), kept);
        Some(DampedGram { gram, energy: self.scale.down(self.energy - taken), damping })
    }

    /// A step of power iteration: the squares that both directions had before, and the residual of the first.
    fn pass(&self, found: &mut Leading) {
        make_orthonormal(&mut found.rows);
        let images = [self.times(&found.rows[0]), self.times(&found.rows[1])];
        for ((square, image), row) in found.squares.iter_mut().zip(&images).zip(&found.rows) {
            *square = image.iter().zip(row).map(|(a, b)| a * b).sum();
        }
        found.residual = residual(&images[0], &found.rows[0], found.squares[0]);
        found.rows = images;
    }
}

#[cfg(test)]
mod tests {
    use calabi_api::{Decomposer, Decomposition, Rank};
    use calabi_testing::matrices::with_spectrum;
    use ndarray::Array2;

    use crate::exact::eigh_in_single;
    use crate::{Accuracy, Faer};

    /// A Gram matrix whose roots fade behind the first one, times `scale`.
    fn gram(n: usize, first: f64, scale: f64) -> Array2<f64> {
        let spectrum: Vec<f64> = (0..n).map(|i| if i == 0 { first } else { (1.0 + i as f64).powf(-0.7) }).collect();
        let a = with_spectrum(n, n, &spectrum, 5);
        scale * a.dot(&a.t())
    }

    /// What ranks lose, as `f64` tells it, and vectors that capture it, whatever the first root and the scale.
    #[test]
    fn losses_and_vectors_are_those_of_f64() {
        for (n, first, scale) in [(240, 1.0, 1.0), (240, 12.0, 1e-50), (256, 40.0, 3e60), (600, 20.0, 1.0)] {
            let s = gram(n, first, scale);
            let kept = if n == 600 { 60 } else { n / 2 };
            let limit = Rank::new(kept).unwrap();
            let single = eigh_in_single(s.view(), limit).unwrap().unwrap_or_else(|| panic!("{first}: f32 is enough"));
            assert_eq!(single.spectrum().is_complete(), n != 600);
            let double = Faer { accuracy: Accuracy::Full }.eigh(s.view(), limit).unwrap();
            for r in 0..=kept {
                let off = single.spectrum().loss(r) / double.spectrum().loss(r) - 1.0;
                let above = if n == 600 { 4e-3 } else { 1e-3 };
                assert!((-1e-3..above).contains(&off), "{n}, {first}: {off} at rank {r}");
            }
            let u = single.basis(limit).unwrap().vectors.mapv(f64::from);
            let captured = (&s.dot(&u) * &u).sum();
            let (said, rest) =
                (single.spectrum().energy() - single.spectrum().loss(kept), single.spectrum().loss(kept));
            // Lengths of vectors are those of `f32`.
            assert!((captured - said).abs() < 1e-3 * rest + 3e-7 * said, "{n}, {first}: {captured} {said}");
        }
    }

    #[test]
    fn what_single_precision_cannot_tell_is_left_to_f64() {
        let limit = Rank::new(120).unwrap();
        let refused = |s: Array2<f64>| eigh_in_single(s.view(), limit).unwrap().is_none();
        let steep: Vec<f64> = (0..240).map(|i| (-0.1 * f64::from(i)).exp()).collect();
        let steep = with_spectrum(240, 240, &steep, 1);
        assert!(refused(steep.dot(&steep.t())), "values fall too far");
        for (n, limit, why) in
            [(240, 120, "negative eigenvalues are missing in the energy"), (600, 60, "it is no Gram matrix")]
        {
            let mut indefinite = gram(n, 1.0, 1.0);
            indefinite.diag_mut().mapv_inplace(|v| v - 0.001);
            let limit = Rank::new(limit).unwrap();
            assert!(eigh_in_single(indefinite.view(), limit).unwrap().is_none(), "{why}");
            assert!(Faer::default().eigh_for_losses(indefinite.view(), limit).is_err());
        }
        let mut spoilt = gram(240, 1.0, 1.0);
        spoilt[(3, 4)] = f64::NAN;
        assert!(refused(spoilt.clone()) && Faer::default().eigh_for_losses(spoilt.view(), limit).is_err());
        assert!(refused(gram(100, 1.0, 1.0)), "small ones cost next to nothing");
    }
}
