//! The partial decomposer against its contract, and the bound that it states.

use std::num::NonZeroUsize;

use calabi_api::{Decomposer, Decomposition, Rank};
use calabi_svd::{Faer, Randomized};
use calabi_testing::matrices::{gaussian, rounded, slow, with_spectrum};
use ndarray::Array2;
use proptest::prelude::*;

#[test]
fn randomized_conforms_within_its_tolerance() {
    let decomposer = Randomized { oversampling: 8, ..Randomized::default() };
    calabi_testing::decomposers::conforms_within(&decomposer, decomposer.tolerance.get());
}

fn decomposed(a: &Array2<f32>, limit: usize) -> (Box<dyn Decomposition + '_>, String) {
    let found = Randomized::default().svd(a.view(), Rank::new(limit).unwrap()).unwrap();
    let remark = found.remark().unwrap_or_default().to_owned();
    (found, remark)
}

#[test]
fn falling_spectra_take_power_steps_alone() {
    let steep: Vec<f64> = slow(200).iter().map(|v| v.powi(3)).collect();
    for (values, limit) in [(steep, 30), (slow(10), 20)] {
        let a = rounded(&with_spectrum(260, 200, &values, 1));
        let (found, remark) = decomposed(&a, limit);
        assert!(remark.contains("power steps: loss at most"), "{} values: {remark}", values.len());
        assert!(!found.spectrum().is_complete());
        assert_eq!(found.spectrum().known(), limit);
    }
}

#[test]
fn spectra_without_a_gap_are_handed_over() {
    let tolerance = calabi_api::settings::Positive::new(1e-3).unwrap();
    let narrow = Randomized { oversampling: 0, tolerance, ..Randomized::default() };
    let a = rounded(&gaussian(200, 800, 1));
    let found = narrow.svd(a.view(), Rank::new(20).unwrap()).unwrap();
    assert_eq!(found.remark(), Some("no gap in the spectrum at rank 20: exact route taken"));
    assert!(found.spectrum().is_complete());
}

#[test]
fn large_limits_are_handed_over_at_once() {
    let a = rounded(&gaussian(120, 90, 1));
    let (found, remark) = decomposed(&a, 31);
    assert_eq!(remark, "limit 31 of 90: exact route taken, it is cheaper");
    assert!(found.spectrum().is_complete());
}

#[test]
fn a_tolerance_out_of_reach_is_handed_over() {
    let tolerance = calabi_api::settings::Positive::new(1e-9).unwrap();
    let strict = Randomized { tolerance, max_steps: NonZeroUsize::new(5).unwrap(), ..Randomized::default() };
    let a = rounded(&with_spectrum(200, 200, &slow(200), 1));
    let found = strict.svd(a.view(), Rank::new(20).unwrap()).unwrap();
    assert_eq!(found.remark(), Some("5 power steps missed the tolerance of 0.000000001: exact route taken"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// At every rank up to the limit the loss is within the tolerance of the optimum.
    #[test]
    fn the_loss_is_within_the_tolerance(power in 0.3..2.5_f64, wide: bool, limit in 1..40_usize, seed: u64) {
        let values: Vec<f64> = (0..160).map(|i| (1.0 + f64::from(i)).powf(-power)).collect();
        let mut a = rounded(&with_spectrum(200, 160, &values, seed % 4));
        if wide {
            a = a.reversed_axes();
        }
        let limit = Rank::new(limit).unwrap();
        let decomposer = Randomized { seed, ..Randomized::default() };
        let found = decomposer.svd(a.view(), limit).unwrap();
        let exact = Faer::default().svd(a.view(), limit).unwrap();
        for r in 1..=limit.get() {
            let (loss, optimum) = (found.spectrum().loss(r), exact.spectrum().loss(r));
            let allowed = optimum * (1.0 + decomposer.tolerance.get()) + 1e-12 * exact.spectrum().energy();
            prop_assert!(loss <= allowed, "rank {r}: {loss:e} above {optimum:e}, {:?}", found.remark());
        }
    }
}
