//! The calls of LAPACK.

use calabi_api::{DecomposeError, Decomposer, Decomposition, Rank, Shape};
use faer::Mat;
use nalgebra::DMatrix;
use nalgebra_lapack::{QR, QrDecomposition as _, SVD, SymmetricEigen};
use ndarray::ArrayView2;

use super::Lapack;
use crate::exact;
use crate::faer::Accuracy;
use crate::smaller::{Smaller, Solved};
use crate::symmetric::Symmetric;
use crate::weight::Weight;

const BACKEND: &str = "lapack";
const HANDED_OVER: &str = "LAPACK did not converge: exact route of faer taken";

impl Decomposer for Lapack {
    fn svd<'a>(&self, a: ArrayView2<'a, f32>, limit: Rank) -> Result<Box<dyn Decomposition + 'a>, DecomposeError> {
        let weight = Weight::read(a)?;
        let limit = limit.min(weight.full_rank());
        let solved =
            solve(&weight, limit.get()).and_then(|solved| exact::checked(solved, weight.energy(), exact::DOUBLE));
        Ok(Box::new(match solved {
            Some(solved) => exact::decomposed(solved, weight, limit, None, BACKEND)?,
            None => exact::svd(weight, limit, Accuracy::Full)?.remarked(HANDED_OVER.to_owned()),
        }))
    }

    fn is_complete(&self, _: Shape, _: Rank) -> bool {
        true
    }

    fn eigh(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        let symmetric = Symmetric::read(s)?;
        let limit = limit.min(symmetric.full_rank());
        Ok(Box::new(match eigenpairs(&symmetric, limit.get()) {
            Some((values, smaller)) => symmetric.decomposed(&values, smaller, limit, None, BACKEND)?,
            None => exact::eigh(&symmetric, limit)?.remarked(HANDED_OVER.to_owned()),
        }))
    }
}

/// Singular values of the scaled weight, and the right singular vectors of its tall orientation.
///
/// The SVD of nalgebra-lapack computes all of a full `U`: of the triangular factor it is no larger than `Vᵀ`.
fn solve(weight: &Weight<'_>, kept: usize) -> Option<Solved> {
    let wide = weight.wide();
    let tall = DMatrix::from_fn(wide.ncols(), wide.nrows(), |i, j| f64::from(wide[(j, i)]));
    let square = if tall.is_square() { tall } else { QR::new(tall).ok()?.r() };
    let found = SVD::new(square)?;
    let values = found.singular_values.as_slice().to_vec();
    if !found.vt.iter().chain(&values).all(|v| v.is_finite()) {
        return None;
    }
    let vectors = Mat::from_fn(values.len(), kept, |i, j| found.vt[(j, i)]);
    Some(Solved { values, smaller: Smaller::Ready(vectors) })
}

/// Eigenvalues of the scaled matrix, largest first, and eigenvectors of the leading ones.
fn eigenpairs(symmetric: &Symmetric, kept: usize) -> Option<(Vec<f64>, Smaller)> {
    let s = symmetric.scaled();
    let found = SymmetricEigen::try_new(DMatrix::from_fn(s.nrows(), s.ncols(), |i, j| s[(i, j)]))?;
    if !found.eigenvectors.iter().chain(&found.eigenvalues).all(|v| v.is_finite()) {
        return None;
    }
    let mut order: Vec<usize> = (0..s.nrows()).collect();
    order.sort_by(|&a, &b| found.eigenvalues[b].total_cmp(&found.eigenvalues[a]));
    let values = order.iter().map(|&i| found.eigenvalues[i]).collect();
    let vectors = Mat::from_fn(s.nrows(), kept, |i, j| found.eigenvectors[(i, order[j])]);
    Some((values, Smaller::Ready(vectors)))
}
