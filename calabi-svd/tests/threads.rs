//! Threads inside a matrix change no bit: sizes at which every step is split.

use calabi_api::{Basis, Decomposer, Rank};
use calabi_svd::dense::project;
use calabi_svd::whitening::Triangle;
use calabi_svd::{Faer, inside};
use calabi_testing::matrices::{gaussian, rounded};
use ndarray::{Array2, ArrayView2};

const RANK: usize = 290;

fn on_three_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(|| inside(work))
}

/// Singular values, a basis, and factors.
fn taken_apart(weight: ArrayView2<'_, f32>) -> (Vec<f64>, Array2<f32>, Array2<f32>) {
    let found = Faer::default().svd(weight, Rank::new(RANK).unwrap()).unwrap();
    let Basis { side, vectors } = found.basis(Rank::new(RANK).unwrap()).unwrap();
    let factors = project(weight, Basis { side, vectors }).unwrap();
    (found.spectrum().values().to_vec(), factors.left, factors.right)
}

#[test]
fn a_large_weight_has_the_same_factors() {
    let weight = rounded(&gaussian(2112, 2304, 1));
    assert_eq!(taken_apart(weight.view()), on_three_threads(|| taken_apart(weight.view())));
}

#[test]
fn a_tall_weight_has_the_same_factors() {
    let weight = rounded(&gaussian(4200, 1100, 2));
    assert_eq!(taken_apart(weight.view()), on_three_threads(|| taken_apart(weight.view())));
}

#[test]
fn errors_in_a_metric_are_the_same() {
    let (weight, inputs) = (rounded(&gaussian(2100, 300, 3)), gaussian(300, 400, 4));
    let root = Triangle::of(inputs.dot(&inputs.t()).view()).unwrap();
    let measured = || {
        let (_, left, right) = taken_apart(weight.view());
        let factors = calabi_api::Factors { left, right, bias: None };
        let images = root.images(weight.view()).unwrap();
        let lost = root.lost(images.view(), &factors).unwrap();
        (images, lost)
    };
    assert_eq!(measured(), on_three_threads(measured));
}
