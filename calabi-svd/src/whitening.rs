//! Weights in the metric of their inputs, in `f32`: products with the triangular root of a Gram matrix, or with half of it.

mod halved;
mod lower;
mod probes;

use calabi_api::{DecomposeError, Factors};
use faer::{Mat, MatRef};
use ndarray::{Array2, ArrayView2, Axis, CowArray, Ix2};

use self::lower::LowerTriangle;
use crate::dense::{cholesky, product, row_major, viewed};
use crate::eigen::PANEL;
use crate::orthonormal::{nearly_orthonormal, orthonormal};
use crate::weight::measured;
use crate::{products, signs, threads};

pub use self::halved::{Halved, Lost};

/// Rows of an error that are weighed at a time.
const ROWS: usize = 256;

/// Norms outside of `2^-40` to `2^40` are left to `f64`: squares of their entries may leave the range of `f32`.
const MODEST: f64 = (1_u64 << 40) as f64;

/// `L` of `D = L Lᵀ`, lower triangular, rounded to `f32`.
///
/// Unlike `D` it can be rounded: `‖E L‖²` is a sum of squares, and keeps its digits where `tr(E D Eᵀ)` cancels.
///
/// ```
/// use calabi_api::Factors;
/// use calabi_svd::whitening::Triangle;
/// use ndarray::array;
///
/// let root = Triangle::of(array![[4.0, 2.0], [2.0, 2.0]].view()).ok_or("indefinite")?;
/// let weight = array![[1.0_f32, 3.0]];
/// let images = root.images(weight.view())?;
/// assert_eq!(images, array![[5.0, 3.0]]); // of [[2, 0], [1, 1]]
/// let first = Factors { left: array![[1.0]], right: array![[1.0, 0.0]], bias: None };
/// assert_eq!(root.lost(images.view(), &first)?, 18.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Triangle {
    lower: LowerTriangle,
    /// `‖L‖²`.
    energy: f64,
}

impl Triangle {
    /// The root of a symmetric matrix (`n × n`, of which one triangle is read); none where it is not positive
    /// definite to the precision of `f64`, or far from one in scale.
    #[must_use]
    pub fn of(d: ArrayView2<'_, f64>) -> Option<Self> {
        let energy: f64 = d.diag().sum();
        let modest = (MODEST.recip().powi(2)..MODEST.powi(2)).contains(&energy);
        let root = if modest && d.is_square() { cholesky(d).ok()? } else { return None };
        let columns = (0..root.ncols()).map(|j| &root.col_as_slice(j)[j..]);
        Some(Self { lower: LowerTriangle::of(root.nrows(), columns), energy })
    }

    /// `‖L‖²`, the trace of `D`.
    #[must_use]
    pub fn energy(&self) -> f64 {
        self.energy
    }

    /// `W L` of a weight of `m × n`; an entry errs by some 6e-8 of the norm of a row times that of a column.
    ///
    /// # Errors
    /// Where the weight is of another width.
    pub fn images(&self, weight: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
        self.lower.multiplied(weight)
    }

    /// What these factors lose of a weight whose [`images`](Self::images) these are, `‖W L − left · (right · L)‖²`.
    ///
    /// # Errors
    /// Where the images are of another width, or the factors of another shape.
    pub fn lost(&self, images: ArrayView2<'_, f32>, factors: &Factors) -> Result<f64, DecomposeError> {
        error(images, factors.left.view(), self.lower.multiplied(factors.right.view())?.view())
    }
}

/// `‖W − left · right‖²`, a block of rows at a time.
///
/// # Errors
/// Where the factors are of another shape.
pub fn error(
    weight: ArrayView2<'_, f32>,
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
) -> Result<f64, DecomposeError> {
    let (rank, n) = right.dim();
    if left.dim() != (weight.nrows(), rank) || n != weight.ncols() {
        return Err(DecomposeError::Beyond { asked: left.nrows(), available: weight.nrows() });
    }
    let right = row_major(right);
    let blocks = weight.axis_chunks_iter(Axis(0), ROWS).zip(left.axis_chunks_iter(Axis(0), ROWS));
    let lost = |(rows, left): (ArrayView2<'_, f32>, ArrayView2<'_, f32>)| {
        energy(difference(rows, &row_major(left), &right).view())
    };
    Ok(threads::map(blocks.collect(), &lost).into_iter().sum())
}

/// `W − left · right`.
fn difference(weight: ArrayView2<'_, f32>, left: &Ordered<'_>, right: &Ordered<'_>) -> Array2<f32> {
    let mut difference = product(viewed(left), viewed(right));
    difference.zip_mut_with(&weight, |kept, &whole| *kept = whole - *kept);
    difference
}

/// A matrix in standard layout.
type Ordered<'a> = CowArray<'a, f32, Ix2>;

/// `‖X‖²`, in `f64`; not finite where an entry is not.
#[must_use]
pub fn energy(x: ArrayView2<'_, f32>) -> f64 {
    measured(row_major(x).as_slice().unwrap_or_default()).1
}

/// Columns of left vectors that are made at a time: more of them change no bit of those before.
pub const TOGETHER: usize = PANEL;

/// Orthonormal columns that span those of `A V`, each on the side of its own: left singular vectors of `A` from the
/// right ones, to the precision of `f32`. [`TOGETHER`] of them are made at a time, from those before and these alone.
///
/// # Errors
/// Where the shapes do not fit, or there are more columns than rows.
pub fn left_vectors(a: ArrayView2<'_, f32>, v: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
    if a.ncols() != v.nrows() || v.ncols() > a.nrows() {
        return Err(DecomposeError::Beyond { asked: v.ncols(), available: a.nrows() });
    }
    let (a, mut vectors) = (row_major(a), Mat::zeros(a.nrows(), v.ncols()));
    for (first, right) in (0..v.ncols()).step_by(TOGETHER).zip(v.axis_chunks_iter(Axis(1), TOGETHER)) {
        let mut directions = products::product(viewed(&a), viewed(&row_major(right)));
        scale_to_one(&mut directions);
        let new = made_orthonormal(vectors.subcols(0, first), directions.as_ref());
        vectors.subcols_mut(first, right.ncols()).copy_from(new);
    }
    Ok(Array2::from_shape_fn((vectors.nrows(), vectors.ncols()), |place| vectors[place]))
}

/// What directions of length one, or zero, add to the columns before them, as orthonormal columns on the sides of the directions.
fn made_orthonormal(before: MatRef<'_, f32>, directions: MatRef<'_, f32>) -> Mat<f32> {
    let new = without(before, directions.to_owned());
    // Those that are left nearly as long as they were have no more of the columns before than rounding.
    nearly_orthonormal(new.clone()).unwrap_or_else(|| {
        // Where a direction is nothing new another one is taken, which may lie among those before.
        let once = orthonormal(without(before, new));
        let mut vectors = orthonormal(without(before, without(before, once)));
        signs::follow(&mut vectors, directions);
        vectors
    })
}

/// `X` without what it has of orthonormal columns: where that is much, rounding is left of it.
fn without(columns: MatRef<'_, f32>, mut x: Mat<f32>) -> Mat<f32> {
    products::take_out(x.as_mut(), columns);
    x
}

fn scale_to_one(columns: &mut Mat<f32>) {
    for mut column in columns.col_iter_mut() {
        let length = column.norm_l2();
        if length > 0.0 {
            column /= faer::Scale(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use calabi_api::{Decomposer, Rank, Vectors};
    use calabi_testing::matrices::{gaussian, rounded, with_spectrum};

    use super::*;
    use crate::{Accuracy, Faer};

    /// As singular vectors are: each block is nearly orthogonal to those before, and what it has of them is taken out once.
    #[test]
    fn left_vectors_of_right_ones_are_orthonormal() {
        let spectrum: Vec<f64> = (0..180).map(|i| 0.965_f64.powi(i)).collect();
        let (a, r) = (rounded(&with_spectrum(260, 180, &spectrum, 3)), Rank::new(150).unwrap());
        let decomposition = Faer { accuracy: Accuracy::Full }.svd(a.view(), r).unwrap();
        let Vectors { u, v: Some(v) } = decomposition.vectors(r).unwrap() else { panic!("one side only") };
        let found = left_vectors(a.view(), v.view()).unwrap().mapv(f64::from);
        let products = found.t().dot(&found) - Array2::<f64>::eye(150);
        assert!(
            products.iter().all(|off| off.abs() < 2e-6),
            "{:e}",
            products.fold(0.0, |max: f64, v| max.max(v.abs()))
        );
        let leading = |x: &Array2<f64>| x.slice_axis(Axis(1), (..20).into()).to_owned();
        assert!((leading(&found) - leading(&u.mapv(f64::from))).iter().all(|off| off.abs() < 1e-5));
    }

    /// Orthonormal, also where directions are nothing new, and the same bits however many more are asked for.
    #[test]
    fn left_vectors_do_not_depend_on_those_behind_them() {
        let (mut a, v) = (rounded(&gaussian(260, 180, 1)), rounded(&gaussian(180, 150, 2)));
        for dependent in [false, true] {
            if dependent {
                a.columns_mut().into_iter().skip(90).for_each(|mut column| column.fill(0.0));
            }
            let all = left_vectors(a.view(), v.view()).unwrap();
            let wide = all.mapv(f64::from);
            let off = (wide.t().dot(&wide) - Array2::<f64>::eye(150)).fold(0.0, |max: f64, v| max.max(v.abs()));
            assert!(off < 1e-5, "{off:e}");
            for r in [TOGETHER, 2 * TOGETHER] {
                let some = left_vectors(a.view(), v.slice_axis(Axis(1), (..r).into())).unwrap();
                let same = some.indexed_iter().all(|(place, v)| v.to_bits() == all[place].to_bits());
                assert!(same, "of {r} columns");
            }
        }
    }
}
