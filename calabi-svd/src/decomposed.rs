//! What every decomposer of this crate returns.

use calabi_api::{Basis, DecomposeError, Decomposition, Rank, Side, Spectrum, Vectors};
use faer::{Mat, MatRef};
use ndarray::Array2;

use crate::orthonormal::orthonormal;
use crate::signs;
use crate::smaller::Smaller;
use crate::weight::Weight;

/// A spectrum, vectors of the smaller side, and the weight from which the larger side is made.
#[derive(Debug)]
pub(crate) struct Decomposed<'a> {
    pub(crate) spectrum: Spectrum,
    pub(crate) side: Side,
    pub(crate) smaller: Smaller,
    /// None for an eigendecomposition: there is one side only.
    pub(crate) weight: Option<Weight<'a>>,
    pub(crate) limit: Rank,
    pub(crate) remark: Option<String>,
}

impl Decomposed<'_> {
    /// The same decomposition, with this remark before its own.
    pub(crate) fn remarked(mut self, remark: String) -> Self {
        self.remark = Some(self.remark.map_or(remark.clone(), |own| format!("{remark}; {own}")));
        self
    }

    fn smaller_side(&self, r: Rank, find: fn(&Smaller, usize) -> Option<Mat<f64>>) -> Result<Mat<f64>, DecomposeError> {
        if r > self.limit {
            return Err(DecomposeError::Beyond { asked: r.get(), available: self.limit.get() });
        }
        let mut vectors = find(&self.smaller, r.get()).ok_or_else(no_vectors)?;
        signs::normalize(&mut vectors);
        Ok(vectors)
    }
}

impl Decomposition for Decomposed<'_> {
    fn spectrum(&self) -> &Spectrum {
        &self.spectrum
    }

    fn vectors(&self, r: Rank) -> Result<Vectors, DecomposeError> {
        let small = self.smaller_side(r, Smaller::leading)?;
        let large = self.weight.as_ref().map(|weight| signs::to_f32(larger_side(weight, small.as_ref()).as_ref()));
        let small = signs::to_f32(small.as_ref());
        Ok(match (self.side, large) {
            (Side::Right, Some(large)) => Vectors { u: large, v: Some(small) },
            (_, large) => Vectors { u: small, v: large },
        })
    }

    fn basis(&self, r: Rank) -> Result<Basis, DecomposeError> {
        let vectors = self.smaller_side(r, Smaller::leading)?;
        Ok(Basis { side: self.side, vectors: signs::columns_to_f32(vectors.as_ref()) })
    }

    fn precise_basis(&self, r: Rank) -> Result<(Side, Array2<f64>), DecomposeError> {
        let vectors = self.smaller_side(r, Smaller::precise)?;
        Ok((self.side, Array2::from_shape_fn((vectors.nrows(), vectors.ncols()), |(i, j)| vectors[(i, j)])))
    }

    fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }
}

fn no_vectors() -> DecomposeError {
    let routes = "eigenvectors of the tridiagonal matrix".to_owned();
    DecomposeError::NoConvergence { backend: "faer", routes }
}

/// The larger side, `Aᵀ V Σ⁻¹` of the wide orientation: orthonormal also where singular values are zero.
fn larger_side(weight: &Weight<'_>, small: MatRef<'_, f64>) -> Mat<f64> {
    let mut directions = weight.transposed_times(small);
    normalize_columns(&mut directions);
    let mut large = orthonormal(directions.clone());
    signs::follow(&mut large, directions.as_ref());
    large
}

/// Columns of length one, or of zeros where nothing but rounding is left.
fn normalize_columns(x: &mut Mat<f64>) {
    let length = |x: &Mat<f64>, j: usize| x.col(j).iter().map(|v| v * v).sum::<f64>().sqrt();
    let rounding = length(x, 0) * 1e-15 * (x.nrows() as f64).sqrt();
    for j in 0..x.ncols() {
        let norm = length(x, j);
        let by = if norm > rounding { norm.recip() } else { 0.0 };
        x.col_mut(j).iter_mut().for_each(|v| *v *= by);
    }
}
