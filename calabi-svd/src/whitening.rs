//! Weights in the metric of their inputs, in `f32`: products with the triangular root of a Gram matrix, or with half of it.

mod halved;
mod lower;
mod probes;

use calabi_api::{DecomposeError, Factors};
use ndarray::{Array2, ArrayView2, Axis};

use self::lower::LowerTriangle;
use crate::dense::{cholesky, product, row_major, viewed};
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
        let mut error = product(viewed(&row_major(left)), viewed(&right));
        error.zip_mut_with(&rows, |e, &w| *e = w - *e);
        energy(error.view())
    };
    Ok(threads::map(blocks.collect(), &lost).into_iter().sum())
}

/// `‖X‖²`, in `f64`; not finite where an entry is not.
#[must_use]
pub fn energy(x: ArrayView2<'_, f32>) -> f64 {
    measured(row_major(x).as_slice().unwrap_or_default()).1
}

/// Orthonormal columns that span those of `A V`, each on the side of its own: left singular vectors of `A` from the
/// right ones, to the precision of `f32`.
///
/// # Errors
/// Where the shapes do not fit, or there are more columns than rows.
pub fn left_vectors(a: ArrayView2<'_, f32>, v: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
    if a.ncols() != v.nrows() || v.ncols() > a.nrows() {
        return Err(DecomposeError::Beyond { asked: v.ncols(), available: a.nrows() });
    }
    let (a, v) = (row_major(a), row_major(v));
    let mut directions = products::product(viewed(&a), viewed(&v));
    for mut column in directions.col_iter_mut() {
        let length = column.norm_l2();
        if length > 0.0 {
            column /= faer::Scale(length);
        }
    }
    let vectors = nearly_orthonormal(directions.clone()).unwrap_or_else(|| {
        let mut vectors = orthonormal(directions.clone());
        signs::follow(&mut vectors, directions.as_ref());
        vectors
    });
    Ok(Array2::from_shape_fn((vectors.nrows(), vectors.ncols()), |place| vectors[place]))
}
