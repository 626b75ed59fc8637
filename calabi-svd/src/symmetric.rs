//! A symmetric matrix as all decomposers take it: checked, scaled by a power of two.

use calabi_api::{DecomposeError, Rank, Shape, Side, Spectrum};
use faer::Mat;
use ndarray::ArrayView2;

use crate::decomposed::Decomposed;
use crate::scale::Scale;
use crate::smaller::Smaller;
use crate::weight::check_finite;

/// A finite symmetric matrix `S`, kept as `S / 2^e` with the largest magnitude in [1, 2).
#[derive(Debug)]
pub(crate) struct Symmetric {
    scaled: Mat<f64>,
    full_rank: Rank,
    scale: Scale,
    rounding: f64,
}

impl Symmetric {
    /// Reads `s`; one copy of it is kept.
    ///
    /// Asymmetry, and negative eigenvalues, up to `√n · 1.2e-7` of the largest are rounding: Gram matrices are often
    /// accumulated from products in `f32`.
    pub(crate) fn read(s: ArrayView2<'_, f64>) -> Result<Self, DecomposeError> {
        let (rows, cols) = s.dim();
        let shape = Shape::of(s).ok_or(DecomposeError::Empty { rows, cols })?;
        check_finite(s)?;
        let largest = s.iter().fold(0.0_f64, |max, v| max.max(v.abs()));
        let rounding = (rows as f64).sqrt() * f64::from(f32::EPSILON);
        let scale = Scale::of(largest);
        let at = |i, j| scale.down(s[(i, j)]);
        let apart = |i, j| (at(i, j) - at(j, i)).abs() > 2.0 * rounding;
        if rows != cols || (0..rows).any(|i| (0..i).any(|j| apart(i, j))) {
            return Err(DecomposeError::NotSymmetric { rows, cols });
        }
        let scaled = Mat::from_fn(rows, rows, |i, j| 0.5 * at(i, j) + 0.5 * at(j, i));
        Ok(Self { scaled, full_rank: shape.full_rank(), scale, rounding })
    }

    /// `n`.
    pub(crate) fn full_rank(&self) -> Rank {
        self.full_rank
    }

    /// The scaled entries, `n × n`, both triangles.
    pub(crate) fn scaled(&self) -> &Mat<f64> {
        &self.scaled
    }

    /// The decomposition, from the eigenvalues of the scaled matrix, largest first, and its eigenvectors.
    pub(crate) fn decomposed(
        &self,
        eigenvalues: &[f64],
        smaller: Smaller,
        limit: Rank,
        remark: Option<String>,
        backend: &'static str,
    ) -> Result<Decomposed<'static>, DecomposeError> {
        let largest = eigenvalues.iter().fold(0.0_f64, |max, v| max.max(v.abs()));
        let smallest = eigenvalues.last().copied().unwrap_or_default();
        if smallest < -self.rounding * largest {
            let (smallest, largest) = (self.scale.up(smallest), self.scale.up(eigenvalues[0]));
            return Err(DecomposeError::Indefinite { smallest, largest });
        }
        let roots = eigenvalues.iter().map(|v| self.scale.up_root(v.max(0.0).sqrt())).collect();
        let spectrum = complete(roots, backend)?;
        Ok(Decomposed { spectrum, side: Side::Left, smaller, weight: None, limit, remark })
    }
}

/// A spectrum of all singular values; values that are none mean that the backend failed.
pub(crate) fn complete(values: Vec<f64>, backend: &'static str) -> Result<Spectrum, DecomposeError> {
    Spectrum::complete(values).map_err(|error| DecomposeError::NoConvergence { backend, routes: error.to_string() })
}
