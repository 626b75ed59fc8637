//! Weights in which one direction outweighs all others, as the mean of inputs does: it is scaled down, so that `f32` has digits
//! left for the others.
//!
//! For a unit vector `q` let `A' = A − (1 − β) q qᵀA`. Where `q` is the first left singular vector, `A'` has the singular vectors
//! of `A`, and its values but for the first, which is `β σ₁`. Where `q` is that only nearly, and `‖AᵀA t − σ₁² t‖ = ρ σ₁²` on
//! the other side, squares of the other values differ by a share of `ρ² / β²` (the Schur complement of `q` in `A Aᵀ` is that in
//! `A' A'ᵀ` but for its dependence on the value).

mod symmetric;

pub(crate) use self::symmetric::{DampedGram, SymmetricRows};
use crate::noise::Noise;
use crate::simd::vectorized;
use crate::weight::{Weight, add_multiple, dot, dots};

/// Rows that tell whether a look at all of them is worth its time.
const SAMPLED: usize = 32;
/// Passes over these rows, or over a Gram matrix, before the share is looked at.
const FIRST_PASSES: usize = 3;
/// The share of the energy that the first direction must have then.
const SHARE: f64 = 0.4;
/// Passes over the whole matrix after that.
const PASSES: usize = 4;
/// `ρ`, at most.
const RESIDUAL: f64 = 1e-3;
/// What becomes of the first square, in terms of the second: it stays the first.
const ABOVE_SECOND: f64 = 2.0;
/// `β²`, at most: else nothing is won.
const LARGEST: f64 = 0.5;
/// And at least: what vectors miss of the first direction, 1e-5 of it, counts `1 / β²` times as much in the weight itself.
const SMALLEST: f64 = 1e-4;
/// How far the first square may be from what it was damped to, as a share of it.
const AS_DAMPED: f64 = 0.01;

/// A weight whose first singular value is scaled down.
#[derive(Debug)]
pub(crate) struct Damped {
    pub(crate) weight: Weight<'static>,
    pub(crate) damping: Damping,
}

/// What was done to the first square.
#[derive(Debug)]
pub(crate) struct Damping {
    /// `σ₁² (1 − β²)`, by which it is smaller.
    taken: f64,
    /// `β² σ₁²`.
    left: f64,
}

/// The two leading directions of the rows of a weight, by power iteration.
struct Leading {
    /// Of any length.
    rows: [Vec<f64>; 2],
    /// The squares, and `ρ` of the first, a step before.
    squares: [f64; 2],
    residual: f64,
}

impl Damped {
    /// None where no direction outweighs the others, or power iteration does not find it soon.
    pub(crate) fn of(weight: &Weight<'_>) -> Option<Self> {
        let found = leading(weight)?;
        let kept = found.kept()?;
        let [first, _] = found.rows;
        let images: Vec<f64> = weight.rows().map(|row| dot(row, &first)).collect();
        let length = norm(&images);
        let mut along = vec![0.0; first.len()];
        weight.rows().zip(&images).for_each(|(row, by)| add_multiple(&mut along, by / length, row));
        let cut = 1.0 - kept.sqrt();
        let square: f64 = along.iter().map(|v| v * v).sum();
        let weight = weight.minus(&images.iter().map(|v| cut * v / length).collect::<Vec<_>>(), &along)?;
        Some(Self { weight, damping: Damping::of(square, kept) })
    }
}

impl Leading {
    /// `β²`; none where damping would win nothing, or the first direction is not known well enough.
    fn kept(&self) -> Option<f64> {
        let kept = ABOVE_SECOND * self.squares[1] / self.squares[0];
        (self.residual <= RESIDUAL && (SMALLEST..=LARGEST).contains(&kept)).then_some(kept)
    }
}

impl Damping {
    fn of(square: f64, kept: f64) -> Self {
        Self { taken: square * (1.0 - kept), left: square * kept }
    }

    /// Makes the singular values of the damped weight those of the weight itself; none where the first is not the one that was
    /// damped, and alone.
    pub(crate) fn undone(&self, values: &mut [f64]) -> Option<()> {
        let first = values.first()?.powi(2);
        let second = values.get(1).map_or(0.0, |v| v.powi(2));
        if (first - self.left).abs() > AS_DAMPED * first || second > (1.0 - AS_DAMPED) * first {
            return None;
        }
        *values.first_mut()? = (first + self.taken).sqrt();
        Some(())
    }
}

/// Two directions of so many signs.
fn signs(size: usize) -> [Vec<f64>; 2] {
    let mut noise = Noise::new(0);
    [noise.signs(size), noise.signs(size)]
}

fn leading(weight: &Weight<'_>) -> Option<Leading> {
    let every = weight.rows().len().div_ceil(SAMPLED);
    let sample: Vec<&[f32]> = weight.rows().step_by(every).collect();
    let mut rows = signs(sample.first()?.len());
    let mut squares = [0.0; 2];
    for _ in 0..FIRST_PASSES {
        squares = pass(sample.iter().copied(), &mut rows).0;
    }
    let energy: f64 = sample.iter().map(|row| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>()).sum();
    if squares[0] < SHARE * energy {
        return None;
    }
    let mut residual = 1.0;
    for _ in 0..PASSES {
        (squares, residual) = pass(weight.rows(), &mut rows);
    }
    Some(Leading { rows, squares, residual })
}

/// A step of power iteration, `t ← AᵀA t`: the squares that the two directions had before, and the residual of the first.
fn pass<'w>(weight: impl Iterator<Item = &'w [f32]>, rows: &mut [Vec<f64>; 2]) -> ([f64; 2], f64) {
    make_orthonormal(rows);
    let mut images = rows.clone().map(|row| vec![0.0; row.len()]);
    let mut squares = [0.0; 2];
    vectorized! {
        for row in weight {
            let along = dots(row, rows.each_ref().map(Vec::as_slice));
            for ((image, along), square) in images.iter_mut().zip(along).zip(&mut squares) {
                *square += along * along;
                add_multiple(image, along, row);
            }
        }
    }
    let residual = residual(&images[0], &rows[0], squares[0]);
    *rows = images;
    (squares, residual)
}

/// How far an image is from a multiple of what it is the image of, as a share.
fn residual(image: &[f64], of: &[f64], square: f64) -> f64 {
    let off = image.iter().zip(of).map(|(image, known)| (image - square * known).powi(2)).sum::<f64>();
    if square > 0.0 { off.sqrt() / square } else { 1.0 }
}

fn make_orthonormal([first, second]: &mut [Vec<f64>; 2]) {
    scale_to_one(first);
    let along: f64 = first.iter().zip(&*second).map(|(a, b)| a * b).sum();
    second.iter_mut().zip(&*first).for_each(|(v, a)| *v -= along * a);
    scale_to_one(second);
}

fn scale_to_one(v: &mut [f64]) {
    let length = norm(v);
    if length > 0.0 {
        for v in v {
            *v /= length;
        }
    }
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use calabi_api::Rank;
    use calabi_testing::matrices::{gaussian, rounded, with_spectrum};
    use ndarray::ArrayView2;

    use super::*;
    use crate::exact;
    use crate::faer::Accuracy;

    /// A first value far above the others, which fade.
    fn spectrum(n: usize, first: f64) -> Vec<f64> {
        (0..n).map(|i| if i == 0 { first } else { (1.0 + i as f64).powf(-0.7) }).collect()
    }

    fn values(a: ArrayView2<'_, f32>, accuracy: Accuracy) -> Vec<f64> {
        let limit = Rank::new(a.nrows().min(a.ncols()) / 2).unwrap();
        exact::svd(Weight::read(a).unwrap(), limit, accuracy).unwrap().spectrum.values().to_vec()
    }

    /// The squares of what a rank loses, as `f64` tells them, though the first value is up to 2000 times the last ones.
    #[test]
    fn losses_behind_a_large_first_value_are_told_in_single_precision() {
        for (m, n, first) in [(300, 240, 12.0), (240, 300, 20.0), (256, 256, 40.0)] {
            let a = rounded(&with_spectrum(m, n, &spectrum(m.min(n), first), 5));
            let weight = Weight::read(a.view()).unwrap();
            assert!(Damped::of(&weight).is_some(), "{first}");
            assert!(crate::gram::solve_in_single(&weight, m.min(n) / 2).is_some(), "{first}: f32 is enough");
            let (single, double) = (values(a.view(), Accuracy::Loss), values(a.view(), Accuracy::Full));
            for r in 0..m.min(n) / 2 {
                let loss = |values: &[f64]| values[r..].iter().rev().map(|v| v * v).sum::<f64>();
                let off = loss(&single) / loss(&double) - 1.0;
                assert!(off.abs() < 1e-3, "{first}: {off} at rank {r}");
            }
        }
    }

    /// The vectors of the damped weight are those of the weight itself: what they capture is what the values say.
    #[test]
    fn vectors_capture_what_values_say() {
        let a = rounded(&with_spectrum(260, 300, &spectrum(260, 30.0), 6));
        let weight = Weight::read(a.view()).unwrap();
        let single = crate::gram::solve_in_single(&weight, 100).unwrap();
        let (crate::gram::Single::All(solved) | crate::gram::Single::Leading(solved, _)) = single;
        let wide = a.mapv(f64::from);
        for r in [1, 2, 7, 100] {
            let vectors = solved.smaller.leading(r).unwrap();
            let vectors = ndarray::Array2::from_shape_fn((260, r), |place| vectors[place]);
            let captured = vectors.t().dot(&wide).mapv(|v| v * v).sum();
            let said: f64 = solved.values[..r].iter().map(|v| v * v).sum();
            let behind: f64 = solved.values[r..].iter().map(|v| v * v).sum();
            assert!((captured - said).abs() < 1e-3 * behind, "{captured} {said} {behind}");
        }
    }

    #[test]
    fn even_weights_are_left_alone() {
        for a in [gaussian(250, 200, 1), with_spectrum(220, 250, &[&[1.0, 0.9][..], &[0.1; 218]].concat(), 2)] {
            let a = rounded(&a);
            assert!(Damped::of(&Weight::read(a.view()).unwrap()).is_none());
        }
        assert!(Damped::of(&Weight::read(ndarray::Array2::zeros((200, 200)).view()).unwrap()).is_none());
    }
}
