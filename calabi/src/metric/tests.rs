//! The mathematics of the metric as properties: of random layers, on data with every defect that data have.

mod anchored;
mod optimum;
mod predicted;
mod routes;
mod speed;
mod whitened;

use calabi_api::{DecomposeError, Decomposer, Rank, Statistics};
use calabi_svd::Faer;
use calabi_testing::matrices::{Random, gaussian, rounded};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use proptest::prelude::*;

use super::*;

/// A layer and what flows into it, tokens × features.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) weight: Array2<f32>,
    pub(super) inputs: Array2<f32>,
    pub(super) seed: u64,
}

/// What is wrong with the data.
#[derive(Debug, Clone, Copy)]
pub(super) enum Defect {
    None,
    /// Two features are always equal.
    Duplicate,
    /// A feature is always zero.
    Dead,
    /// A feature is always the same.
    Constant,
    OneToken,
}

pub(super) const BIASES: [Bias; 3] = [Bias::None, Bias::Residual, Bias::Joint];

/// Layers of up to 12 × 12 on up to 40 tokens, features of different scales and means.
pub(super) fn cases() -> impl Strategy<Value = Case> {
    let defects = prop::sample::select(vec![
        Defect::None,
        Defect::None,
        Defect::Duplicate,
        Defect::Dead,
        Defect::Constant,
        Defect::OneToken,
    ]);
    (1_usize..13, 1_usize..13, 1_usize..41, defects, prop::sample::select(vec![0.0, 1.0, 10.0]), any::<u64>())
        .prop_map(|(m, n, tokens, defect, mean, seed)| case(m, n, tokens, defect, mean, seed))
}

pub(super) fn case(m: usize, n: usize, tokens: usize, defect: Defect, mean: f64, seed: u64) -> Case {
    let mut random = Random::new(seed ^ 7);
    let mut inputs = gaussian(if matches!(defect, Defect::OneToken) { 1 } else { tokens }, n, seed);
    for mut feature in inputs.columns_mut() {
        let (scale, mean) = (0.1 + 2.0 * random.uniform(), mean * random.normal());
        feature.mapv_inplace(|v| scale * v + mean);
    }
    match defect {
        Defect::Duplicate => {
            let first = inputs.column(0).to_owned();
            inputs.column_mut(n - 1).assign(&first);
        }
        Defect::Dead => inputs.column_mut(0).fill(0.0),
        Defect::Constant => inputs.column_mut(0).fill(3.0),
        Defect::None | Defect::OneToken => {}
    }
    Case { weight: rounded(&gaussian(m, n, seed ^ 1)), inputs: rounded(&inputs), seed }
}

impl Case {
    pub(super) fn full_rank(&self) -> usize {
        self.weight.nrows().min(self.weight.ncols())
    }

    pub(super) fn statistics(&self) -> Statistics {
        exact(&self.inputs)
    }
}

/// Moments without any blocks or shifts.
pub(super) fn exact(inputs: &Array2<f32>) -> Statistics {
    let x = inputs.mapv(f64::from);
    let tokens = x.nrows() as f64;
    Statistics { gram: x.t().dot(&x) / tokens, mean: x.sum_axis(Axis(0)) / tokens, tokens: x.nrows() as u64 }
}

pub(super) fn rank(r: usize) -> Rank {
    Rank::new(r).unwrap()
}

/// Everything of a layer, to its full rank.
pub(super) fn whole(weight: &Array2<f32>, metric: &Metric) -> Factorization<'static> {
    up_to(weight.nrows().min(weight.ncols()), weight.view(), metric, &Faer::default()).unwrap()
}

/// A layer that needs no room: its smaller side is short.
pub(super) fn up_to(
    r: usize,
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    decomposer: &dyn Decomposer,
) -> Result<Factorization<'static>, DecomposeError> {
    let limits = Limits { kept: rank(r), known: rank(r) };
    factorize(weight, metric, decomposer, limits, Box::leak(Box::default()))
}

/// `U_r (U_rᵀ W)` in `f64`; zero for no rank.
pub(super) fn replaced(weight: ArrayView2<'_, f64>, factorization: &Factorization, r: usize) -> Array2<f64> {
    let Some(r) = Rank::new(r) else { return Array2::zeros(weight.dim()) };
    let basis = factorization.precise_basis(r).unwrap();
    basis.dot(&basis.t().dot(&weight))
}

/// The mean square of `wanted − found` over tokens, without its mean where the bias makes up for that.
pub(super) fn mean_square(difference: &Array2<f64>, bias: Bias) -> f64 {
    let mean = difference.mean_axis(Axis(0)).unwrap();
    let shift = if bias == Bias::None { Array1::zeros(mean.len()) } else { mean };
    (difference - &shift).mapv(|v| v * v).sum() / difference.nrows() as f64
}

/// The error of the outputs of a layer on its calibration data, token by token.
pub(super) fn on_data(case: &Case, replaced: &Array2<f64>, bias: Bias) -> f64 {
    let error = case.weight.mapv(f64::from) - replaced;
    mean_square(&case.inputs.mapv(f64::from).dot(&error.t()), bias)
}

/// Equal as the loss that is predicted must be to the loss that is measured: `1e-6 · loss + 1e-12 · loss(0)`, and what
/// an uncentred Gram matrix in `f64` knows of a variance beside the square of a mean.
pub(super) fn same(predicted: f64, measured: f64, none_kept: f64, energy: f64) -> Result<(), TestCaseError> {
    let tolerance = 1e-6 * measured + 1e-12 * none_kept + 2.0 * f64::EPSILON * energy;
    prop_assert!(
        (predicted - measured).abs() <= tolerance,
        "predicted {predicted:e}, measured {measured:e}, {none_kept:e} at rank 0"
    );
    Ok(())
}
