//! The loss that is predicted is the loss that is measured, for every rank.

use calabi_api::{DType, Normalisation};
use ndarray::array;

use super::*;
use crate::statistics::Moments;

/// Every metric of these statistics.
fn metrics(statistics: &Statistics, bias: Bias) -> Vec<(&'static str, Metric)> {
    let share = |share: f64| Shrinkage::Fixed(calabi_api::settings::Share::new(share).unwrap());
    vec![
        ("gram", Metric::gram(statistics.clone(), bias, share(0.0))),
        ("shrunk", Metric::gram(statistics.clone(), bias, share(0.3))),
        ("shrunk by tokens", Metric::gram(statistics.clone(), bias, Shrinkage::FromTokens)),
        ("diagonal", Metric::diagonal(statistics.clone(), bias)),
    ]
}

fn every_rank(case: &Case, metric: &Metric, bias: Bias) -> Result<(), TestCaseError> {
    let factorization = whole(&case.weight, metric);
    let (spectrum, weight) = (factorization.spectrum(), case.weight.mapv(f64::from));
    for r in 0..=case.full_rank() {
        let measured = on_data(case, &replaced(weight.view(), &factorization, r), bias);
        same(spectrum.loss(r), measured, spectrum.loss(0), spectrum.energy())?;
        prop_assert!(r == 0 || spectrum.loss(r) <= spectrum.loss(r - 1), "losses descend");
    }
    let energy = on_data(case, &Array2::zeros(weight.dim()), Bias::None);
    prop_assert!((spectrum.energy() - energy).abs() <= 1e-12 * energy, "errors are relative to E‖W x‖²");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_the_calibration_data_in_every_bias_mode(case in cases()) {
        for bias in BIASES {
            for (name, metric) in metrics(&case.statistics(), bias) {
                every_rank(&case, &metric, bias)
                    .map_err(|error| TestCaseError::fail(format!("{name}, {bias:?}: {error}")))?;
            }
        }
    }

    #[test]
    fn of_the_weight_itself_where_there_is_no_data(case in cases()) {
        let factorization = whole(&case.weight, &Metric::identity(case.weight.ncols()));
        let (spectrum, weight) = (factorization.spectrum(), case.weight.mapv(f64::from));
        for r in 0..=case.full_rank() {
            let measured = (&weight - &replaced(weight.view(), &factorization, r)).mapv(|v| v * v).sum();
            same(spectrum.loss(r), measured, spectrum.loss(0), spectrum.energy())?;
        }
    }

    /// Inputs `γ ∘ z + β` where `z` has the mean 0 and the moments of the identity: what the metric takes for granted.
    #[test]
    fn behind_a_normalisation(m in 1_usize..10, n in 1_usize..10, shifted: bool, seed: u64) {
        let features = |seed| rounded(&gaussian(1, n, seed)).row(0).to_owned();
        let (gamma, beta) = (features(seed), shifted.then_some(features(!seed)));
        let signs = [1.0, -1.0];
        let inputs = Array2::from_shape_fn((2 * n, n), |(t, j)| {
            let z = if t / 2 == j { signs[t % 2] * (n as f32).sqrt() } else { 0.0 };
            gamma[j] * z + beta.as_ref().map_or(0.0, |beta| beta[j])
        });
        let case = Case { weight: rounded(&gaussian(m, n, seed ^ 1)), inputs, seed };
        let norm = Normalisation { gamma, beta };
        for bias in BIASES {
            let metric = Metric::of_normalisation(&norm, bias);
            let factorization = whole(&case.weight, &metric);
            let (spectrum, weight) = (factorization.spectrum(), case.weight.mapv(f64::from));
            for r in 0..=case.full_rank() {
                let measured = on_data(&case, &replaced(weight.view(), &factorization, r), bias);
                // The inputs are rounded to f32.
                let off = (spectrum.loss(r) - measured).abs();
                prop_assert!(off <= 2e-6 * spectrum.energy(), "{bias:?}, rank {r}: {} {measured}", spectrum.loss(r));
            }
        }
    }

    /// Factors as they are written: rounding moves the root of the loss by no more than it moves the factors.
    #[test]
    fn of_factors_in_the_types_of_files(case in cases()) {
        for bias in BIASES {
            for (name, metric) in metrics(&case.statistics(), bias) {
                let factorization = whole(&case.weight, &metric);
                for r in 1..=case.full_rank() {
                    written(&case, bias, &metric, &factorization, rank(r))
                        .map_err(|error| TestCaseError::fail(format!("{name}, {bias:?}, rank {r}: {error}")))?;
                }
            }
        }
    }
}

fn written(
    case: &Case,
    bias: Bias,
    metric: &Metric,
    factorization: &Factorization,
    r: Rank,
) -> Result<(), TestCaseError> {
    let weight = case.weight.view();
    let scale =
        (weight.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() * case.statistics().gram.diag().sum()).sqrt();
    for (dtype, rounding) in [(DType::F32, 6e-8), (DType::F16, 4.9e-4), (DType::BF16, 3.95e-3)] {
        let factors = factors_from_basis(weight, factorization.basis(r).unwrap()).rounded(dtype);
        let added = compensation(weight, &factors, metric);
        prop_assert_eq!(added.is_some(), bias != Bias::None);
        let measured = measured_loss(weight, &factors, (metric, &Room::new()), added.as_ref());
        let raw = on_data(case, &factors.left.mapv(f64::from).dot(&factors.right.mapv(f64::from)), bias);
        prop_assert!((measured - raw).abs() <= 1e-9 * raw + 1e-14 * scale.powi(2), "{measured:e}, on the data {raw:e}");
        let moved = (measured.sqrt() - factorization.spectrum().loss(r.get()).sqrt()).abs();
        let allowed = (1.1 * rounding * ((r.get() as f64).sqrt() + 1.0) + 1e-7) * scale;
        prop_assert!(moved <= allowed, "{dtype}: the root of the loss moved by {moved:e}, allowed are {allowed:e}");
    }
    Ok(())
}

/// Moments summed in blocks of `f32`, of features whose means are a thousand deviations.
#[test]
fn where_moments_are_summed_in_f32() {
    for (m, n, tokens, seed) in [(12, 20, 1400, 1), (20, 12, 700, 2), (16, 16, 513, 3)] {
        let case = case(m, n, tokens, Defect::None, 1000.0, seed);
        let mut moments = Moments::new(n);
        moments.add(case.inputs.view()).unwrap();
        let statistics = moments.finish().unwrap();
        for bias in BIASES {
            for (name, metric) in metrics(&statistics, bias) {
                let factorization = whole(&case.weight, &metric);
                let (spectrum, weight) = (factorization.spectrum(), case.weight.mapv(f64::from));
                for r in 0..=case.full_rank() {
                    let measured = on_data(&case, &replaced(weight.view(), &factorization, r), bias);
                    let off = (spectrum.loss(r) - measured).abs();
                    assert!(off <= 1e-6 * spectrum.loss(0), "{name} {bias:?} {r}: {off:e} of {:e}", spectrum.loss(0));
                }
            }
        }
    }
}

#[test]
fn a_bias_that_is_not_written_is_not_counted_as_written() {
    let case = case(4, 6, 30, Defect::None, 1.0, 5);
    let metric = Metric::gram(case.statistics(), Bias::Joint, Shrinkage::FromTokens);
    let factors = factors_from_basis(case.weight.view(), whole(&case.weight, &metric).basis(rank(2)).unwrap());
    let product = factors.left.mapv(f64::from).dot(&factors.right.mapv(f64::from));
    let measured = measured_loss(case.weight.view(), &factors, (&metric, &Room::new()), None);
    let raw = on_data(&case, &product, Bias::None);
    assert!((measured - raw).abs() < 1e-10 * raw, "{measured} {raw}");
}

#[test]
fn data_without_any_energy() {
    let statistics = Statistics { gram: Array2::zeros((3, 3)), mean: array![0.0, 0.0, 0.0], tokens: 5 };
    let weight = rounded(&gaussian(5, 3, 1));
    for bias in BIASES {
        for (name, metric) in metrics(&statistics, bias) {
            let factorization = whole(&weight, &metric);
            assert!((0..=3).all(|r| factorization.spectrum().loss(r) == 0.0), "{name}");
            let back = replaced(weight.mapv(f64::from).view(), &factorization, 3) - weight.mapv(f64::from);
            assert!(back.iter().all(|v| v.abs() < 1e-12), "{name}: full rank is exact");
        }
    }
}
