//! Outputs of wide weights in the metric of their inputs: products with one half of a Gram matrix, of which no root is taken.

use calabi_api::{DecomposeError, Factors};
use ndarray::{Array2, ArrayRef2, ArrayView2, Axis};

use super::lower::LowerTriangle;
use super::probes::Probes;
use super::{MODEST, ROWS, difference, energy};
use crate::dense::{row_major, viewed};
use crate::simd::vectorized;
use crate::weight::dot;
use crate::{products, threads};

/// A symmetric `D`, and `T` of `D = T + Tᵀ`, lower triangular, rounded to `f32`.
///
/// `W D Wᵀ = (W T) Wᵀ + W (W T)ᵀ`: a wide weight needs no more, and a root of `D`, in `f64`, would cost more than all of it. Unlike
/// products with a root these are not squares: rounding is known of each only after it was made, by a few products with
/// vectors, in `f64`.
///
/// ```
/// use calabi_api::Factors;
/// use calabi_svd::whitening::Halved;
/// use ndarray::array;
///
/// let d = array![[4.0, 2.0], [2.0, 2.0]];
/// let halved = Halved::of(d.view()).ok_or("out of range")?;
/// let weight = array![[1.0_f32, 3.0]];
/// let images = halved.images(weight.view())?;
/// assert_eq!(images, array![[8.0, 3.0]]); // of [[2, 0], [2, 1]]
/// let outputs = halved.outputs(weight.view(), images.view())?;
/// assert_eq!(outputs, array![[34.0]]);
/// assert_eq!(halved.rounding(d.view(), weight.view(), outputs.view())?, 0.0);
/// let first = Factors { left: array![[1.0]], right: array![[1.0, 0.0]], bias: None };
/// let lost = halved.lost(d.view(), weight.view(), images.view(), &first)?;
/// assert_eq!((lost.weighed, lost.plain, lost.rounding), (18.0, 9.0, 0.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Halved {
    lower: LowerTriangle,
    /// `‖D‖`.
    norm: f64,
}

/// What factors lose of a weight, for the error `E = W − left · right`.
#[derive(Debug, Clone, Copy)]
pub struct Lost {
    /// `tr(E D Eᵀ)`.
    pub weighed: f64,
    /// `‖E‖²`.
    pub plain: f64,
    /// By how much `weighed` is off, typically.
    pub rounding: f64,
}

impl Halved {
    /// One half of a symmetric matrix (`n × n`); none where it is far from one in scale.
    #[must_use]
    pub fn of(d: ArrayView2<'_, f64>) -> Option<Self> {
        let d = row_major(d);
        let mut square = 0.0;
        vectorized! {
            for row in rows(&d) {
                square += dot(row, row);
            }
        }
        let norm = square.sqrt();
        if !d.is_square() || !(MODEST.recip()..MODEST).contains(&norm) {
            return None;
        }
        let from_diagonal = rows(&d).enumerate().map(|(j, row)| &row[j..]);
        Some(Self { lower: LowerTriangle::of(d.ncols(), from_diagonal).with_half_diagonal(), norm })
    }

    /// `‖D‖`.
    #[must_use]
    pub fn norm(&self) -> f64 {
        self.norm
    }

    /// `W T` of a weight of `m × n`.
    ///
    /// # Errors
    /// Where the weight is of another width.
    pub fn images(&self, weight: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
        self.lower.multiplied(weight)
    }

    /// `W D Wᵀ`, `m × m`, of a weight whose [`images`](Self::images) these are.
    ///
    /// # Errors
    /// Where one of them is of another shape.
    pub fn outputs(
        &self,
        weight: ArrayView2<'_, f32>,
        images: ArrayView2<'_, f32>,
    ) -> Result<Array2<f64>, DecomposeError> {
        self.check(weight, images.dim())?;
        let (weight, images) = (row_major(weight), row_major(images));
        let half = products::product(viewed(&images), viewed(&weight).transpose());
        let entry = |i, j| f64::from(half[(i, j)]) + f64::from(half[(j, i)]);
        Ok(Array2::from_shape_fn((weight.nrows(), weight.nrows()), |(i, j)| entry(i, j)))
    }

    /// How far these [`outputs`](Self::outputs) are from `W D Wᵀ`, in the Frobenius norm; an estimate, seldom off by a factor
    /// of two.
    ///
    /// # Errors
    /// Where one of them is of another shape.
    pub fn rounding(
        &self,
        d: ArrayView2<'_, f64>,
        weight: ArrayView2<'_, f32>,
        outputs: ArrayView2<'_, f64>,
    ) -> Result<f64, DecomposeError> {
        self.check(weight, weight.dim())?;
        self.check_metric(d)?;
        let (d, weight, outputs) = (row_major(d), row_major(weight), row_major(outputs));
        let signs = Probes::signs(weight.nrows());
        let inputs = signs.times_transposed(rows(&weight), weight.ncols());
        let exact = inputs.times(rows(&d)).times(rows(&weight));
        Ok(signs.times(rows(&outputs)).minus(&exact).typical_norm())
    }

    /// What these factors lose of a weight whose [`images`](Self::images) these are, a block of rows at a time.
    ///
    /// # Errors
    /// Where one of them is of another shape.
    pub fn lost(
        &self,
        d: ArrayView2<'_, f64>,
        weight: ArrayView2<'_, f32>,
        images: ArrayView2<'_, f32>,
        factors: &Factors,
    ) -> Result<Lost, DecomposeError> {
        self.check(weight, images.dim())?;
        self.check_metric(d)?;
        if factors.left.dim() != (weight.nrows(), factors.right.nrows()) {
            return Err(DecomposeError::Beyond { asked: factors.left.nrows(), available: weight.nrows() });
        }
        let right_images = self.lower.multiplied(factors.right.view())?;
        let (right, right_images) = (row_major(factors.right.view()), row_major(right_images.view()));
        let signs = Probes::signs(weight.ncols());
        let lost = |((weight, images), left): ((Rows<'_>, Rows<'_>), Rows<'_>)| {
            let left = row_major(left);
            let errors = difference(weight, &left, &right);
            let their_images = difference(images, &left, &right_images);
            let seen = (signs.times(rows(&errors)), signs.times(rows(&their_images)));
            (inner(&errors, &their_images), energy(errors.view()), seen)
        };
        let left = factors.left.axis_chunks_iter(Axis(0), ROWS);
        let each = weight.axis_chunks_iter(Axis(0), ROWS).zip(images.axis_chunks_iter(Axis(0), ROWS)).zip(left);
        let each = threads::map(each.collect(), &lost);
        let (half, plain) = each.iter().fold((0.0, 0.0), |(half, plain), part| (half + part.0, plain + part.1));
        let (errors, their_images): (Vec<_>, Vec<_>) = each.into_iter().map(|(_, _, seen)| seen).unzip();
        let exact = signs.times_half(rows(&row_major(d)));
        let kept = exact.times(rows(&right)).times(rows(&row_major(factors.left.view())));
        let exact = exact.times(rows(&row_major(weight))).minus(&kept);
        let off = Probes::joined(&their_images).minus(&exact);
        let rounding = 2.0 * Probes::joined(&errors).typical_product(&off);
        Ok(Lost { weighed: 2.0 * half, plain, rounding })
    }

    fn check_metric(&self, d: ArrayView2<'_, f64>) -> Result<(), DecomposeError> {
        let n = self.lower.size();
        if d.dim() == (n, n) { Ok(()) } else { Err(DecomposeError::Beyond { asked: d.ncols(), available: n }) }
    }

    fn check(&self, weight: ArrayView2<'_, f32>, images: (usize, usize)) -> Result<(), DecomposeError> {
        if weight.ncols() == self.lower.size() && weight.dim() == images {
            return Ok(());
        }
        Err(DecomposeError::Beyond { asked: weight.ncols(), available: self.lower.size() })
    }
}

/// Some rows of a matrix.
type Rows<'a> = ArrayView2<'a, f32>;

/// The rows of a matrix in standard layout.
fn rows<T>(x: &ArrayRef2<T>) -> impl Iterator<Item = &[T]> {
    x.as_slice().unwrap_or_default().chunks_exact(x.ncols().max(1))
}

/// `tr(Aᵀ B)`, in `f64`.
fn inner(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    let strands = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let (a, b) = (a.as_slice().unwrap_or_default(), b.as_slice().unwrap_or_default());
    a.chunks(64).zip(b.chunks(64)).map(strands).sum()
}

#[cfg(test)]
mod tests {
    use calabi_testing::matrices::{gaussian, rounded};

    use super::*;

    /// What `f64` makes of the same, also where the matrix is singular or indefinite: no root is taken.
    #[test]
    fn outputs_and_losses_are_those_of_the_whole_matrix() {
        for (m, n, tokens, seed) in [(40, 90, 200, 1), (300, 310, 50, 2), (7, 1, 9, 3)] {
            let inputs = gaussian(tokens, n, seed);
            let d = inputs.t().dot(&inputs) - 0.1 * Array2::<f64>::eye(n);
            let weight = rounded(&gaussian(m, n, seed ^ 8));
            let wide = weight.mapv(f64::from);
            let halved = Halved::of(d.view()).unwrap();
            let images = halved.images(weight.view()).unwrap();
            let outputs = halved.outputs(weight.view(), images.view()).unwrap();
            let wanted = wide.dot(&d).dot(&wide.t());
            let largest = wanted.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
            assert!((&outputs - &wanted).iter().all(|off| off.abs() < 3e-6 * largest), "{m}x{n}");
            let (left, right) = (rounded(&gaussian(m, 5, seed ^ 16)), rounded(&gaussian(5, n, seed ^ 32)));
            let error = &wide - &left.mapv(f64::from).dot(&right.mapv(f64::from));
            let off = (&outputs - &wanted).iter().map(|v| v * v).sum::<f64>().sqrt();
            let said = halved.rounding(d.view(), weight.view(), outputs.view()).unwrap();
            assert!((0.3 * off..=3.0 * off).contains(&said), "{m}x{n}: {said:e} for {off:e}");
            let factors = Factors { left, right, bias: None };
            let lost = halved.lost(d.view(), weight.view(), images.view(), &factors).unwrap();
            let wanted = (&error.dot(&d) * &error).sum();
            assert!((lost.weighed / wanted - 1.0).abs() < 1e-5, "{m}x{n}: {lost:?} for {wanted}");
            assert!((lost.weighed - wanted).abs() < 4.0 * lost.rounding, "{m}x{n}: {lost:?} for {wanted}");
            assert!((lost.plain / (&error * &error).sum() - 1.0).abs() < 1e-5, "{m}x{n}");
        }
    }

    #[test]
    fn other_shapes_and_scales_are_refused() {
        let d = Array2::<f64>::eye(4);
        assert!(Halved::of((1e30 * &d).view()).is_none() && Halved::of((0.0 * &d).view()).is_none());
        assert!(Halved::of((f64::NAN * &d).view()).is_none() && Halved::of(Array2::ones((4, 3)).view()).is_none());
        let halved = Halved::of(d.view()).unwrap();
        assert!(halved.images(Array2::ones((2, 5)).view()).is_err());
        assert!(halved.outputs(Array2::ones((2, 4)).view(), Array2::ones((3, 4)).view()).is_err());
        assert!(halved.outputs(Array2::ones((2, 5)).view(), Array2::ones((2, 5)).view()).is_err());
        let (weight, other) = (Array2::ones((2, 4)), Array2::<f64>::eye(3));
        assert!(halved.rounding(other.view(), weight.view(), Array2::ones((2, 2)).view()).is_err());
        let factors = |r: usize| Factors { left: Array2::ones((2, 3)), right: Array2::ones((r, 4)), bias: None };
        for (width, r) in [(4, 2), (5, 3)] {
            let weight = Array2::ones((2, width));
            assert!(halved.lost(d.view(), weight.view(), weight.view(), &factors(r)).is_err());
        }
        assert!(halved.lost(other.view(), weight.view(), weight.view(), &factors(3)).is_err());
    }
}
