//! The accuracy that the docs state, on a matrix whose singular values are known to the last digit.

use calabi_api::{Decomposer, Rank};
use calabi_svd::{Accuracy, Faer};
use ndarray::Array2;

/// Sylvester's Hadamard matrix, `H Hᵀ = n I`.
fn hadamard(n: usize) -> Array2<f64> {
    Array2::from_shape_fn((n, n), |(i, j)| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 })
}

/// `H D Hᵀ` with powers of two from 1 to 2^-15 in `D`: its entries are exact in `f32`, its singular values are `64 D`.
fn known() -> (Array2<f32>, Vec<f64>) {
    let values: Vec<f64> = (0..64).map(|i| 0.5_f64.powi(i / 4)).collect();
    let h = hadamard(64);
    let a = calabi_testing::matrices::rounded(&(&h * &ndarray::aview1(&values)).dot(&h));
    (a, values.iter().map(|v| 64.0 * v).collect())
}

/// Errors of the singular values as shares of the largest, with the value as such a share.
fn errors(decomposer: Faer) -> Vec<(f64, f64)> {
    let (a, wanted) = known();
    let decomposition = decomposer.svd(a.view(), Rank::ONE).unwrap();
    let found = decomposition.spectrum().values();
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(&wanted).map(|(found, wanted)| (wanted / 64.0, (found - wanted).abs() / 64.0)).collect()
}

#[test]
fn input_accuracy_is_what_the_docs_state() {
    for (share, error) in errors(Faer { accuracy: Accuracy::Input }) {
        let allowed = if share >= 1e-3 { 1e-12 } else { 1e-7 };
        assert!(error <= allowed, "singular value {share:e}: error {error:e}");
    }
}

#[test]
fn full_accuracy_is_what_the_docs_state() {
    for (share, error) in errors(Faer { accuracy: Accuracy::Full }) {
        assert!(error <= 1e-13, "singular value {share:e}: error {error:e}");
    }
}

/// Zeros cost the Gram route the most: the root of what rounding leaves.
#[test]
fn zero_singular_values_stay_below_the_stated_error() {
    let (m, n) = (300, 200);
    let a = calabi_testing::matrices::gaussian(m, 20, 1).dot(&calabi_testing::matrices::gaussian(20, n, 2));
    // Entries rounded to f32 have full rank: a repeated block of rows has not.
    let block = calabi_testing::matrices::rounded(&a);
    let a = ndarray::concatenate(ndarray::Axis(0), &[block.view(), block.view()]).unwrap().reversed_axes();
    let a = a.slice_axis(ndarray::Axis(1), ndarray::Slice::from(..600)).to_owned();
    let repeated = ndarray::concatenate(ndarray::Axis(0), &[a.view(), a.view()]).unwrap();
    for (accuracy, allowed) in [(Accuracy::Input, 1e-7), (Accuracy::Full, 1e-13)] {
        let decomposition = Faer { accuracy }.svd(repeated.view(), Rank::ONE).unwrap();
        let values = decomposition.spectrum().values();
        assert!(values[200..].iter().all(|v| *v <= allowed * values[0]), "{accuracy:?}: {:e}", values[200] / values[0]);
    }
}

fn squares(decomposer: Faer, a: &Array2<f32>, limit: usize) -> Vec<f64> {
    let decomposition = decomposer.svd(a.view(), Rank::new(limit).unwrap()).unwrap();
    decomposition.spectrum().values().iter().map(|v| v * v).collect()
}

/// Weights as layers have them: `f32` is enough, and what each rank loses is known to a thousandth.
#[test]
fn loss_accuracy_is_what_the_docs_state() {
    let fading = |(m, n, fade): (usize, usize, f64)| {
        let scales = ndarray::Array1::from_shape_fn(n, |j| (1.0 + j as f64).powf(-fade));
        calabi_testing::matrices::gaussian(m, n, 3) * &scales
    };
    // As steep as is still left to f32.
    let edge: Vec<f64> =
        (0..220).map(|i| if i < 110 { 145_f64.powf(-f64::from(i) / 109.0) } else { 1.0 / 195.0 }).collect();
    let edge = calabi_testing::matrices::with_spectrum(300, 220, &edge, 5);
    for a in [(200, 500, 0.3), (260, 260, 0.5), (700, 230, 0.0)].map(fading).into_iter().chain([edge]) {
        let ((m, n), a) = (a.dim(), calabi_testing::matrices::rounded(&a));
        let limit = m.min(n) / 2;
        let (found, wanted) =
            (squares(Faer::default(), &a, limit), squares(Faer { accuracy: Accuracy::Full }, &a, limit));
        assert_ne!(found, squares(Faer { accuracy: Accuracy::Input }, &a, limit), "f32 was not tried");
        for (i, (found, wanted_one)) in found.iter().zip(&wanted).enumerate() {
            assert!((found - wanted_one).abs() <= 3e-7 * wanted[0], "{m}x{n}, value {i}: {found} for {wanted_one}");
        }
        for r in 0..=limit {
            let (lost, optimum): (f64, f64) = (found[r..].iter().sum(), wanted[r..].iter().sum());
            assert!((lost - optimum).abs() <= 1e-3 * optimum, "{m}x{n}, rank {r}: {lost} for {optimum}");
        }
    }
}

/// Where rounding could pass for a loss, `f64` is taken: the same numbers as with `input`.
#[test]
fn steep_spectra_are_not_left_to_single_precision() {
    let steep: Vec<f64> = (0..220).map(|i| 0.9_f64.powi(i)).collect();
    let low: Vec<f64> = (0..220).map(|i| if i < 40 { 1.0 } else { 0.0 }).collect();
    for (values, limit) in [(steep, 110), (low, 40)] {
        let a = calabi_testing::matrices::rounded(&calabi_testing::matrices::with_spectrum(300, 220, &values, 5));
        assert_eq!(squares(Faer::default(), &a, limit), squares(Faer { accuracy: Accuracy::Input }, &a, limit));
    }
}
