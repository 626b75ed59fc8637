//! Eigendecompositions of symmetric positive semidefinite matrices.

use calabi_api::{Decomposer, Side};
use ndarray::{Array2, aview1};

use super::checks::{orthonormal, rank, signs};
use crate::matrices::{clustered, gaussian, graded, slow, widened, with_eigenvalues};

pub(super) fn check(decomposer: &dyn Decomposer, accuracy: f64) {
    for n in [1, 2, 3, 50, 140] {
        known(decomposer, n, &slow(n), accuracy);
        known(decomposer, n, &graded(n, 1e9), accuracy);
        known(decomposer, n, &clustered(n), accuracy);
        known(decomposer, n, &slow(n.div_ceil(5)), accuracy);
        known(decomposer, n, &[], accuracy);
    }
    scales(decomposer, accuracy);
    few_tokens(decomposer);
}

/// Eigenvalues are compared where the decomposer works: the square of a root.
fn known(decomposer: &dyn Decomposer, n: usize, values: &[f64], accuracy: f64) {
    let s = with_eigenvalues(n, values, n as u64);
    decomposed(decomposer, &s, values, n, accuracy, &format!("eigh of {n}x{n}, {} eigenvalues", values.len()));
    let limit = (n / 3).max(1);
    decomposed(decomposer, &s, values, limit, accuracy, &format!("eigh of {n}x{n} at limit {limit}"));
}

fn decomposed(
    decomposer: &dyn Decomposer,
    s: &Array2<f64>,
    values: &[f64],
    limit: usize,
    accuracy: f64,
    context: &str,
) {
    let decomposition = decomposer.eigh(s.view(), rank(limit)).unwrap_or_else(|error| panic!("{context}: {error}"));
    let spectrum = decomposition.spectrum();
    assert!(spectrum.known() >= limit, "{context}: {} eigenvalues known", spectrum.known());
    assert!(!spectrum.is_complete() || spectrum.known() == s.nrows(), "{context}: a complete spectrum has n values");
    let largest = values.first().copied().unwrap_or_default();
    for (i, &root) in spectrum.values().iter().enumerate() {
        let wanted = values.get(i).copied().unwrap_or_default();
        let off = (root * root - wanted).abs();
        assert!(off <= accuracy * largest, "{context}: the square of root {i} is {:e}, not {wanted:e}", root * root);
    }
    let trace = s.diag().sum();
    assert!((spectrum.energy() - trace).abs() <= 1e-6 * trace.abs(), "{context}: the energy is not the trace");
    let vectors = decomposition.vectors(rank(limit)).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(vectors.v.is_none(), "{context}: an eigendecomposition has one side");
    orthonormal(vectors.u.view(), context);
    signs(&vectors.u, context);
    let basis = decomposition.basis(rank(limit)).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(basis.side == Side::Left && basis.vectors == vectors.u, "{context}: the basis is the vectors");
    eigenpairs(s, &widened(vectors.u.view()), &spectrum.values()[..limit], accuracy, context);
    assert!(decomposition.basis(rank(limit + 1)).is_err(), "{context}: a rank beyond the limit must be refused");
}

/// `S u = λ u` to the accuracy, as a share of the largest eigenvalue.
fn eigenpairs(s: &Array2<f64>, u: &Array2<f64>, roots: &[f64], accuracy: f64, context: &str) {
    let largest = roots.first().map_or(1.0, |root| if *root > 0.0 { root * root } else { 1.0 });
    let shares: Vec<f64> = roots.iter().map(|v| v * v / largest).collect();
    let off = (s / largest).dot(u) - u * &aview1(&shares);
    let worst = off.columns().into_iter().map(|column| column.dot(&column).sqrt()).fold(0.0, f64::max);
    assert!(worst <= accuracy + 1e-6, "{context}: S u differs from λ u by {worst:e} of λ₁");
}

fn scales(decomposer: &dyn Decomposer, accuracy: f64) {
    for scale in [1e-200, 1e-60, 1e80, 1e200] {
        let values: Vec<f64> = graded(30, 1e6).iter().map(|v| v * scale).collect();
        let s = with_eigenvalues(30, &values, 4);
        decomposed(decomposer, &s, &values, 30, accuracy, &format!("eigh scaled by {scale:e}"));
    }
}

/// A Gram matrix of fewer tokens than dimensions, summed in `f32`: negative eigenvalues of the size of rounding are zeros.
fn few_tokens(decomposer: &dyn Decomposer) {
    let x = crate::matrices::rounded(&gaussian(80, 12, 9));
    let s = widened(x.dot(&x.t()).view());
    let decomposition =
        decomposer.eigh(s.view(), rank(80)).unwrap_or_else(|error| panic!("Gram matrix in f32: {error}"));
    let values = decomposition.spectrum().values();
    assert!(values[11] > 0.1 * values[0], "12 tokens give 12 eigenvalues: {:e} of {:e}", values[11], values[0]);
    assert!(values[12] < 2e-3 * values[0], "12 tokens give no more: {:e} of {:e}", values[12], values[0]);
}
