//! The exact routes of faer, in the order in which they are tried.

use calabi_api::{DecomposeError, Rank, Shape, Side, Spectrum};
use faer::Mat;
use ndarray::ArrayView2;

use crate::bidiagonal;
use crate::damped::SymmetricRows;
use crate::decomposed::Decomposed;
use crate::eigen::Eigen;
use crate::faer::Accuracy;
use crate::gram::{self, Single};
use crate::routes::{Route, first_to_converge};
use crate::smaller::{Smaller, Solved};
use crate::symmetric::{Symmetric, complete};
use crate::tridiagonal::Lower;
use crate::weight::Weight;

const BACKEND: &str = "faer";

/// How far the energy of all singular values may be from the weight's, as a share of it, in `f32` and in `f64`.
pub(crate) const SINGLE: f64 = 1e-5;
pub(crate) const DOUBLE: f64 = 1e-9;

/// All singular values of a weight; vectors of the leading `limit`.
pub(crate) fn svd(weight: Weight<'_>, limit: Rank, accuracy: Accuracy) -> Result<Decomposed<'_>, DecomposeError> {
    let limit = limit.min(weight.full_rank());
    let single = if accuracy == Accuracy::Loss { gram::solve_in_single(&weight, limit.get()) } else { None };
    match single {
        Some(Single::Leading(solved, remark)) => return leading(solved, weight, limit, remark, BACKEND),
        Some(Single::All(solved)) if has_energy(&solved, weight.energy(), SINGLE) => {
            return decomposed(solved, weight, limit, None, BACKEND);
        }
        _ => {}
    }
    let by_gram = || checked(gram::solve(&weight)?, weight.energy(), DOUBLE);
    let by_bidiagonal = || checked(bidiagonal::solve(&weight, limit.get())?, weight.energy(), DOUBLE);
    let gram = Route { name: "the Gram route", solve: &by_gram };
    let bidiagonal = Route { name: "the bidiagonal route", solve: &by_bidiagonal };
    let routes = match accuracy {
        Accuracy::Loss | Accuracy::Input => [gram, bidiagonal],
        Accuracy::Full => [bidiagonal, gram],
    };
    let (solved, remark) = first_to_converge(BACKEND, &routes)?;
    decomposed(solved, weight, limit, remark, BACKEND)
}

/// The decomposition of a weight, from all singular values of the scaled one.
pub(crate) fn decomposed<'a>(
    solved: Solved,
    weight: Weight<'a>,
    limit: Rank,
    remark: Option<String>,
    backend: &'static str,
) -> Result<Decomposed<'a>, DecomposeError> {
    let values = solved.values.iter().map(|v| weight.scale().up(v.max(0.0))).collect();
    let (spectrum, side) = (complete(values, backend)?, weight.side());
    Ok(Decomposed { spectrum, side, smaller: solved.smaller, weight: Some(weight), limit, remark })
}

/// The decomposition of a weight, from the leading singular values of the scaled one.
pub(crate) fn leading<'a>(
    solved: Solved,
    weight: Weight<'a>,
    limit: Rank,
    remark: String,
    backend: &'static str,
) -> Result<Decomposed<'a>, DecomposeError> {
    let scale = weight.scale();
    let values = solved.values.iter().map(|&v| scale.up(v)).collect();
    let spectrum = partial_spectrum(values, scale.up(scale.up(weight.energy())), backend)?;
    let side = weight.side();
    Ok(Decomposed { spectrum, side, smaller: solved.smaller, weight: Some(weight), limit, remark: Some(remark) })
}

fn partial_spectrum(values: Vec<f64>, energy: f64, backend: &'static str) -> Result<Spectrum, DecomposeError> {
    Spectrum::leading(values, energy)
        .map_err(|error| DecomposeError::NoConvergence { backend, routes: error.to_string() })
}

/// A result whose energy is not the weight's is none: a backend was once seen to return zeros.
pub(crate) fn checked(solved: Solved, energy: f64, rounding: f64) -> Option<Solved> {
    has_energy(&solved, energy, rounding).then_some(solved)
}

/// Whether all singular values were found, as far as their energy tells.
pub(crate) fn has_energy(solved: &Solved, energy: f64, rounding: f64) -> bool {
    let found: f64 = solved.values.iter().rev().map(|v| v * v).sum();
    (found - energy).abs() <= rounding * energy
}

/// Eigenvalues of a Gram matrix in `f32`, as precise as losses want them; none where `f32` does not tell.
pub(crate) fn eigh_in_single(
    s: ArrayView2<'_, f64>,
    limit: Rank,
) -> Result<Option<Decomposed<'static>>, DecomposeError> {
    let Some(full) = Shape::of(s).map(Shape::full_rank) else { return Ok(None) };
    let limit = limit.min(full);
    let rows = SymmetricRows::of(&s).filter(|_| s.nrows() >= gram::SMALLEST);
    let Some((rows, single)) = rows.and_then(|rows| Some((rows, gram::solve_symmetric_in_single(&rows, limit.get())?)))
    else {
        return Ok(None);
    };
    let (solved, remark) = match single {
        Single::Leading(solved, remark) => (solved, Some(remark)),
        Single::All(solved) if has_energy(&solved, rows.scale.down(rows.energy), SINGLE) => (solved, None),
        Single::All(_) => return Ok(None),
    };
    let values = solved.values.iter().map(|&v| rows.scale.up_root(v)).collect();
    let spectrum = match &remark {
        None => complete(values, BACKEND)?,
        Some(_) => partial_spectrum(values, rows.energy, BACKEND)?,
    };
    Ok(Some(Decomposed { spectrum, side: Side::Left, smaller: solved.smaller, weight: None, limit, remark }))
}

/// All eigenvalues of a symmetric matrix; vectors of the leading `limit`.
pub(crate) fn eigh(symmetric: &Symmetric, limit: Rank) -> Result<Decomposed<'static>, DecomposeError> {
    let limit = limit.min(symmetric.full_rank());
    let by_reduction = || reduced(symmetric.scaled());
    let by_svd = || by_singular_values(symmetric.scaled(), limit.get());
    let routes = [
        Route { name: "the tridiagonal route", solve: &by_reduction },
        Route { name: "the bidiagonal route", solve: &by_svd },
    ];
    let ((values, smaller), remark) = first_to_converge(BACKEND, &routes)?;
    symmetric.decomposed(&values, smaller, limit, remark, BACKEND)
}

fn reduced(s: &Mat<f64>) -> Option<(Vec<f64>, Smaller)> {
    let eigen = Eigen::of(Lower::of(s.as_ref()))?;
    Some((eigen.values().to_vec(), Smaller::Reduced(eigen)))
}

/// Eigenpairs from a singular value decomposition: `λᵢ = vᵢᵀ S vᵢ`, sorted.
///
/// Where `λ` and `−λ` are both eigenvalues, vectors mix; such a matrix is indefinite and refused by any mixture's trace.
fn by_singular_values(s: &Mat<f64>, kept: usize) -> Option<(Vec<f64>, Smaller)> {
    let (_, vectors) = bidiagonal::right_vectors(s)?;
    let images = crate::products::product(s.as_ref(), vectors.as_ref());
    let quotient = |j: usize| vectors.col(j).iter().zip(images.col(j).iter()).map(|(a, b)| a * b).sum::<f64>();
    let mut pairs: Vec<(f64, usize)> = (0..s.nrows()).map(|j| (quotient(j), j)).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let sorted = Mat::from_fn(s.nrows(), kept, |i, j| vectors[(i, pairs[j].1)]);
    Some((pairs.into_iter().map(|(value, _)| value).collect(), Smaller::Ready(sorted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_routes_find_the_same_eigenpairs() {
        let x = Mat::from_fn(9, 5, |i, j| ((i * 7 + j * 3) % 11) as f64 - 5.0 + (i as f64) / 10.0);
        let s = crate::products::product(x.as_ref(), x.transpose());
        let (first, _) = reduced(&s).unwrap();
        let (second, vectors) = by_singular_values(&s, 5).unwrap();
        assert!(first.iter().zip(&second).all(|(a, b)| (a - b).abs() < 1e-12 * first[0]), "{first:?} {second:?}");
        let v = vectors.leading(5).unwrap();
        let back = crate::products::product(s.as_ref(), v.as_ref());
        let off = (0..5).flat_map(|j| (0..9).map(move |i| (i, j))).map(|(i, j)| back[(i, j)] - second[j] * v[(i, j)]);
        assert!(off.fold(0.0, |max: f64, x| max.max(x.abs())) < 1e-11 * first[0]);
    }

    #[test]
    fn a_result_that_lost_the_energy_is_none() {
        let solved = || Solved { values: vec![2.0, 1.0], smaller: Smaller::Ready(Mat::identity(2, 2)) };
        assert!(checked(solved(), 5.0, DOUBLE).is_some());
        assert!(checked(solved(), 5.1, DOUBLE).is_none());
    }
}
