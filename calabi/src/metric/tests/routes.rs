//! All routes lead to the same factors, and full rank is exact whatever the data.

use calabi_svd::Randomized;

use super::super::factorize::by_route;
use super::super::route::{Route, route};
use super::*;

fn largest(a: &Array2<f64>) -> f64 {
    a.iter().fold(0.0, |max: f64, v| max.max(v.abs()))
}

fn unshrunk() -> Shrinkage {
    Shrinkage::Fixed(calabi_api::settings::Share::new(0.0).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Also of ten tokens, of dead and of equal inputs, where the metric says nothing of most directions.
    #[test]
    fn full_rank_is_exact(case in cases()) {
        for bias in BIASES {
            exact_at_full_rank(&case, &Metric::gram(case.statistics(), bias, unshrunk()))?;
            exact_at_full_rank(&case, &Metric::diagonal(case.statistics(), bias))?;
        }
    }

    #[test]
    fn both_sides_give_the_same_factors(case in cases()) {
        for bias in BIASES {
            let metric = Metric::gram(case.statistics(), bias, unshrunk());
            let full = rank(case.full_rank());
            let by = |route| by_route(case.weight.view(), &metric, &Faer::default(), full, route).unwrap();
            let (outputs, inputs) = (by(Route::Outputs), by(Route::Inputs));
            let (weight, values) = (case.weight.mapv(f64::from), outputs.spectrum().values().to_vec());
            let energy = outputs.spectrum().energy();
            for r in 0..=case.full_rank() {
                let (a, b) = (outputs.spectrum().loss(r), inputs.spectrum().loss(r));
                prop_assert!((a - b).abs() <= 1e-11 * energy, "rank {r}: {a:e} {b:e}");
                // Where two eigenvalues are near each other, so are many bases.
                let apart = |r: usize| values[r - 1] > 1.05 * values[r] && values[r - 1] > 1e-2 * values[0];
                if (1..values.len()).contains(&r) && apart(r) {
                    let off = largest(&(replaced(weight.view(), &outputs, r) - replaced(weight.view(), &inputs, r)));
                    prop_assert!(off < 1e-8 * largest(&weight), "{bias:?} rank {r}: {off:e}");
                }
            }
        }
    }
}

fn exact_at_full_rank(case: &Case, metric: &Metric) -> Result<(), TestCaseError> {
    let full = case.full_rank();
    let factorization = whole(&case.weight, metric);
    let weight = case.weight.mapv(f64::from);
    let off = largest(&(replaced(weight.view(), &factorization, full) - &weight));
    prop_assert!(off < 1e-10 * largest(&weight), "off by {off:e}");
    let u = factorization.precise_basis(rank(full)).unwrap();
    prop_assert!(largest(&(u.t().dot(&u) - Array2::<f64>::eye(full))) < 1e-12, "U is orthonormal");
    Ok(())
}

#[test]
fn ten_tokens_are_enough_for_a_tall_layer() {
    let case = case(60, 40, 10, Defect::None, 1.0, 11);
    for bias in BIASES {
        let metric = Metric::gram(case.statistics(), bias, unshrunk());
        let factorization = whole(&case.weight, &metric);
        let weight = case.weight.mapv(f64::from);
        assert!(factorization.spectrum().loss(10) <= 1e-12 * factorization.spectrum().loss(0));
        // What the tokens do not show comes from the weight itself: never worse than nothing, and exact in the end.
        let left = |r| (&weight - &replaced(weight.view(), &factorization, r)).mapv(|v| v * v).sum();
        assert!((11..=40).all(|r| left(r) < left(r - 1)));
        assert!(left(40) < 1e-20 * left(0), "{:e}", left(40));
    }
}

#[test]
fn moments_of_the_identity_give_plain_singular_values() {
    for (m, n) in [(9, 14), (14, 9), (10, 10)] {
        let weight = rounded(&gaussian(m, n, 3));
        let statistics = Statistics { gram: Array2::eye(n), mean: Array1::zeros(n), tokens: 1000 };
        let plain = Faer::default().svd(weight.view(), rank(m.min(n))).unwrap();
        for bias in BIASES {
            for metric in [
                Metric::gram(statistics.clone(), bias, Shrinkage::FromTokens),
                Metric::diagonal(statistics.clone(), bias),
            ] {
                let factorization = whole(&weight, &metric);
                for r in 0..=m.min(n) {
                    let (found, wanted) = (factorization.spectrum().loss(r), plain.spectrum().loss(r));
                    assert!((found - wanted).abs() <= 1e-12 * plain.spectrum().energy(), "{m}x{n} {r}");
                }
                let plain = whole(&weight, &Metric::identity(n));
                let weight = weight.mapv(f64::from);
                let off = replaced(weight.view(), &plain, 4) - replaced(weight.view(), &factorization, 4);
                assert!(largest(&off) < 1e-6, "{m}x{n}: {off}");
            }
        }
    }
}

#[test]
fn the_cheaper_side_is_taken() {
    let form = Form::from(Array2::eye(1));
    let by = |m, n| route(calabi_api::Shape::new(m, n).unwrap(), &form);
    assert_eq!([by(576, 1536), by(576, 576)], [Route::Outputs; 2]);
    assert_eq!([by(1536, 576), by(577, 576)], [Route::Inputs; 2]);
    assert_eq!(route(calabi_api::Shape::new(9, 3).unwrap(), &Form::Identity(3)), Route::Singular);
}

/// A limit and a partial decomposer change what is computed, not what it says.
#[test]
fn limits_and_partial_decomposers() {
    for (m, n) in [(40, 60), (60, 40)] {
        let case = case(m, n, 200, Defect::None, 1.0, 17);
        for bias in BIASES {
            let metric = Metric::gram(case.statistics(), bias, Shrinkage::FromTokens);
            let all = whole(&case.weight, &metric);
            let decomposers: [&dyn Decomposer; 2] = [&Faer::default(), &Randomized::default()];
            for decomposer in decomposers {
                let some = up_to(8, case.weight.view(), &metric, decomposer).unwrap();
                let (spectrum, known) = (some.spectrum(), all.spectrum());
                assert_eq!((spectrum.known(), spectrum.is_complete()), (8, false));
                assert!((spectrum.energy() - known.energy()).abs() < 1e-10 * known.energy());
                for r in 0..=8 {
                    let off = (spectrum.loss(r) - known.loss(r)).abs() / known.loss(r);
                    assert!(off < 1e-2, "{decomposer:?} {r}: {off:e}");
                }
                assert!(some.basis(rank(9)).is_err());
            }
        }
    }
}

#[test]
fn input_that_is_not_finite_is_refused() {
    let case = case(4, 5, 9, Defect::None, 1.0, 1);
    let mut weight = case.weight.clone();
    weight[(1, 2)] = f32::NAN;
    let metric = Metric::gram(case.statistics(), Bias::None, Shrinkage::FromTokens);
    assert!(up_to(4, weight.view(), &metric, &Faer::default()).is_err());
    assert!(up_to(4, case.weight.t(), &metric, &Faer::default()).is_err(), "of another width");
}
