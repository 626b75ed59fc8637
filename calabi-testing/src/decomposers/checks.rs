//! One decomposition against what is known of its matrix.

use calabi_api::{Basis, DecomposeError, Decomposer, Decomposition, Rank, Shape, Side, Vectors};
use ndarray::{Array2, ArrayView2, Axis, Slice, aview1};

use super::cases::{self, Case};
use crate::matrices::widened;

/// How far from orthonormal singular vectors may be.
const ORTHONORMAL: f64 = 1e-5;

/// A share of the energy below which a loss is rounding.
const NEGLIGIBLE: f64 = 1e-10;

/// Checks one matrix at several limits and ranks.
pub(super) fn check(decomposer: &dyn Decomposer, case: &Case, accuracy: f64) {
    let full = case.values.len();
    let mut limits = vec![full, (full / 2).max(1), (full / 5).max(1), 1];
    limits.dedup();
    for limit in limits {
        let context = format!("{} at limit {limit}", case.name);
        let decomposition = svd(decomposer, case.matrix.view(), limit, &context);
        spectrum(&*decomposition, case, limit, accuracy, &context);
        for r in [1, limit.div_ceil(2), limit] {
            vectors(&*decomposition, case, r, accuracy, &format!("{context}, rank {r}"));
        }
        beyond(&*decomposition, limit, &context);
        prefixes(&*decomposition, limit, &context);
    }
}

/// Huge and tiny weights, entries below the smallest normal `f32` among them, are weights like any other.
pub(super) fn scales(decomposer: &dyn Decomposer, accuracy: f64) {
    for case in cases::all().into_iter().filter(|case| case.name.ends_with("96x60") || case.name.ends_with("20x300")) {
        let largest = case.matrix.iter().fold(0.0_f32, |max, v| max.max(v.abs())).max(1e-3);
        for target in [3.3e38_f32, 1e30, 1e-20, 1e-40] {
            let matrix = case.matrix.mapv(|v| v / largest * target);
            let scale = f64::from(target) / f64::from(largest);
            let context = format!("{} scaled to {target:e}", case.name);
            let decomposition = svd(decomposer, matrix.view(), case.values.len(), &context);
            // At 1e-40 entries are multiples of 1.4e-45.
            let rounding = 2.0 * case.rounding() * scale + 0.5 * 1.5e-45 * (matrix.len() as f64).sqrt();
            let near = accuracy * case.values[0] * scale + rounding;
            values_near(&*decomposition, case.values.iter().map(|v| v * scale), near, &context);
            let Vectors { u, v } =
                decomposition.vectors(rank(case.values.len())).unwrap_or_else(|e| panic!("{context}: {e}"));
            orthonormal(u.view(), &context);
            orthonormal(v.unwrap_or_else(|| panic!("{context}: no right vectors")).view(), &context);
        }
    }
}

/// The decomposition of a matrix that has one.
pub(super) fn svd<'a>(
    decomposer: &dyn Decomposer,
    a: ArrayView2<'a, f32>,
    limit: usize,
    context: &str,
) -> Box<dyn Decomposition + 'a> {
    decomposer.svd(a, rank(limit)).unwrap_or_else(|error| panic!("{context}: {error}"))
}

/// A rank that the suite knows to be one.
pub(super) fn rank(r: usize) -> Rank {
    Rank::new(r).unwrap_or(Rank::ONE)
}

fn spectrum(decomposition: &dyn Decomposition, case: &Case, limit: usize, accuracy: f64, context: &str) {
    let spectrum = decomposition.spectrum();
    let shape = Shape::of(case.matrix.view()).unwrap_or_else(|| panic!("{context}: empty"));
    assert!(spectrum.fits(shape), "{context}: {} singular values for a {shape} matrix", spectrum.known());
    assert!(spectrum.known() >= limit, "{context}: {} singular values known", spectrum.known());
    let near = accuracy * case.values[0] + case.rounding();
    values_near(decomposition, case.values.iter().copied(), near, context);
    let energy: f64 = case.matrix.iter().map(|&v| f64::from(v).powi(2)).sum();
    assert!(
        (spectrum.energy() - energy).abs() <= 1e-6 * energy,
        "{context}: the spectrum's energy is {:e}, the matrix's {energy:e}",
        spectrum.energy()
    );
}

fn values_near(decomposition: &dyn Decomposition, wanted: impl Iterator<Item = f64>, near: f64, context: &str) {
    for (i, (&value, wanted)) in decomposition.spectrum().values().iter().zip(wanted).enumerate() {
        assert!(
            (value - wanted).abs() <= near,
            "{context}: singular value {i} is {value:e}, not {wanted:e} (± {near:e})"
        );
    }
}

fn vectors(decomposition: &dyn Decomposition, case: &Case, r: usize, accuracy: f64, context: &str) {
    let Vectors { u, v } = decomposition.vectors(rank(r)).unwrap_or_else(|error| panic!("{context}: {error}"));
    let v = v.unwrap_or_else(|| panic!("{context}: an SVD has right singular vectors"));
    let (m, n) = case.matrix.dim();
    assert_eq!((u.dim(), v.dim()), ((m, r), (n, r)), "{context}: shapes of U and V");
    orthonormal(u.view(), context);
    orthonormal(v.view(), context);
    let basis = decomposition.basis(rank(r)).unwrap_or_else(|error| panic!("{context}: {error}"));
    basis_of(&basis, &u, &v, context);
    signs(&basis.vectors, context);
    let a = widened(case.matrix.view());
    let sigma: Vec<f64> = decomposition.spectrum().values()[..r].to_vec();
    let rebuilt = (widened(u.view()) * aview1(&sigma)).dot(&widened(v.view()).t());
    no_worse(norm2(&(&a - &rebuilt)), case, r, accuracy, &format!("{context}: U Σ Vᵀ"));
    let factors = projected(&basis, &case.matrix);
    let measured = norm2(&(&a - &factors));
    no_worse(measured, case, r, accuracy, &format!("{context}: the projection on the basis"));
    predicted(decomposition, r, measured, context);
}

/// The basis is the smaller side's vectors, the left ones of a square matrix.
fn basis_of(basis: &Basis, u: &Array2<f32>, v: &Array2<f32>, context: &str) {
    let (side, wanted) = if u.nrows() <= v.nrows() { (Side::Left, u) } else { (Side::Right, v) };
    assert_eq!(basis.side, side, "{context}: the basis is of the smaller side");
    assert_eq!(basis.vectors.dim(), wanted.dim(), "{context}: shape of the basis");
    assert!(near(&basis.vectors, wanted, 1e-6), "{context}: the basis and the vectors of its side differ");
}

/// `W_r` as factors give it: `U (Uᵀ W)` or `(W V) Vᵀ`, the projected factor rounded to `f32`.
fn projected(basis: &Basis, a: &Array2<f32>) -> Array2<f64> {
    let (q, a) = (widened(basis.vectors.view()), widened(a.view()));
    let stored = |factor: Array2<f64>| widened(crate::matrices::rounded(&factor).view());
    match basis.side {
        Side::Left => q.dot(&stored(q.t().dot(&a))),
        Side::Right => stored(a.dot(&q)).dot(&q.t()),
    }
}

fn no_worse(loss: f64, case: &Case, r: usize, accuracy: f64, context: &str) {
    let optimum = case.loss(r).sqrt() + case.rounding();
    let allowed = (1.0 + accuracy) * optimum.powi(2) + NEGLIGIBLE * case.energy();
    assert!(loss <= allowed, "{context} loses {loss:e}, the optimum is {:e}", case.loss(r));
}

/// The loss that the spectrum states is the one that is measured, as the reports of the engine promise.
fn predicted(decomposition: &dyn Decomposition, r: usize, measured: f64, context: &str) {
    let energy = decomposition.spectrum().energy();
    let predicted = decomposition.spectrum().loss(r);
    let allowed = 2e-3 * predicted + 1e-12 * energy;
    assert!(
        (measured - predicted).abs() <= allowed,
        "{context}: the spectrum states a loss of {predicted:e}, measured is {measured:e}"
    );
}

/// Columns are orthonormal to [`ORTHONORMAL`].
pub(super) fn orthonormal(q: ArrayView2<'_, f32>, context: &str) {
    let q = widened(q);
    let off = q.t().dot(&q) - Array2::<f64>::eye(q.ncols());
    let worst = off.iter().fold(0.0_f64, |max, v| if v.is_nan() { f64::NAN } else { max.max(v.abs()) });
    assert!(worst <= ORTHONORMAL, "{context}: vectors are orthonormal to {worst:e} only");
}

/// The entry of largest magnitude of each column is positive, the first of equal ones.
pub(super) fn signs(q: &Array2<f32>, context: &str) {
    for (j, column) in q.columns().into_iter().enumerate() {
        let leading = column.iter().fold(0.0_f32, |largest, &v| if v.abs() > largest.abs() { v } else { largest });
        assert!(leading > 0.0, "{context}: the largest entry of basis vector {j} is {leading:e}, not positive");
    }
}

fn beyond(decomposition: &dyn Decomposition, limit: usize, context: &str) {
    for asked in [limit + 1, usize::MAX] {
        let refused = |what: &str, error: Option<DecomposeError>| {
            let right = matches!(error, Some(DecomposeError::Beyond { asked: a, .. }) if a == asked);
            assert!(right, "{context}: {what} of rank {asked} must be refused as beyond the limit, got {error:?}");
        };
        refused("vectors", decomposition.vectors(rank(asked)).err());
        refused("a basis", decomposition.basis(rank(asked)).err());
    }
}

/// Asking again, for fewer or as many, gives the same vectors.
fn prefixes(decomposition: &dyn Decomposition, limit: usize, context: &str) {
    let basis = |r| decomposition.basis(rank(r)).unwrap_or_else(|error| panic!("{context}: {error}")).vectors;
    let most = basis(limit);
    assert_eq!(most, basis(limit), "{context}: the basis differs when it is asked for again");
    for r in [1, limit.div_ceil(2)] {
        let head = most.slice_axis(Axis(1), Slice::from(..r)).to_owned();
        assert!(near(&basis(r), &head, 1e-5), "{context}: the basis of rank {r} is not the head of a larger one");
    }
}

/// Whether no entry differs by more than `by`.
pub(super) fn near(a: &Array2<f32>, b: &Array2<f32>, by: f32) -> bool {
    a.dim() == b.dim() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= by)
}

fn norm2(a: &Array2<f64>) -> f64 {
    a.iter().map(|v| v * v).sum()
}
