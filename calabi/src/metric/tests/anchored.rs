//! The anchored objective: predicted as measured, and the best map of its rank from what the compressed prefix gives.

use super::*;
use crate::statistics::{CrossMoments, CrossStatistics};

/// A layer whose inputs are moved: mixed a little, noisy, shifted.
fn moved(case: &Case) -> Array2<f32> {
    let n = case.inputs.ncols();
    let mix = Array2::<f64>::eye(n) + 0.2 * gaussian(n, n, case.seed ^ 3);
    let shift = 0.5 * gaussian(1, n, case.seed ^ 4).row(0).to_owned();
    let noise = 0.1 * gaussian(case.inputs.nrows(), n, case.seed ^ 5);
    rounded(&(case.inputs.mapv(f64::from).dot(&mix) + shift + noise))
}

fn pairs(x: &Array2<f32>, y: &Array2<f32>) -> CrossStatistics {
    let cross = x.mapv(f64::from).t().dot(&y.mapv(f64::from)) / x.nrows() as f64;
    CrossStatistics { original: exact(x), compressed: exact(y), cross }
}

fn share(share: f64) -> Shrinkage {
    Shrinkage::Fixed(calabi_api::settings::Share::new(share).unwrap())
}

fn whole(case: &Case, anchored: &Anchored) -> (Array2<f32>, Factorization<'static>) {
    let refitted = anchored.refit(case.weight.view()).unwrap();
    let found =
        anchored.factorize(case.weight.view(), refitted.view(), &Faer::default(), rank(case.full_rank())).unwrap();
    (refitted, found)
}

/// The error against the original outputs on the moved inputs, token by token.
fn on_pairs(case: &Case, y: &Array2<f32>, replaced: &Array2<f64>, bias: Bias) -> f64 {
    let original = case.inputs.mapv(f64::from).dot(&case.weight.mapv(f64::from).t());
    mean_square(&(original - y.mapv(f64::from).dot(&replaced.t())), bias)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn predicted_is_measured(case in cases()) {
        let y = moved(&case);
        for bias in BIASES {
            for shrinkage in [share(0.0), share(0.4), Shrinkage::FromTokens] {
                let anchored = Anchored::new(pairs(&case.inputs, &y), bias, shrinkage);
                let (refitted, found) = whole(&case, &anchored);
                let spectrum = found.spectrum();
                for r in 0..=case.full_rank() {
                    let product = replaced(refitted.mapv(f64::from).view(), &found, r);
                    let measured = on_pairs(&case, &y, &product, bias);
                    // What the factors give is part of the sum that is subtracted.
                    let given = on_pairs(&case, &y, &Array2::zeros(product.dim()), Bias::None)
                        .max(y.mapv(f64::from).dot(&product.t()).mapv(|v| v * v).sum() / y.nrows() as f64);
                    same(spectrum.loss(r), measured, spectrum.loss(0), 4.0 * given)
                        .map_err(|error| TestCaseError::fail(format!("{bias:?} {shrinkage:?} rank {r}: {error}")))?;
                }
            }
        }
    }

    #[test]
    fn written_factors_are_measured_as_they_are(case in cases()) {
        let y = moved(&case);
        for bias in BIASES {
            let anchored = Anchored::new(pairs(&case.inputs, &y), bias, Shrinkage::FromTokens);
            let (refitted, found) = whole(&case, &anchored);
            for r in 1..=case.full_rank() {
                let factors = factors_from_basis(refitted.view(), found.basis(rank(r)).unwrap());
                let added = anchored.compensation(case.weight.view(), &factors);
                let measured = anchored.measured_loss(case.weight.view(), &factors, added.as_ref());
                let product = factors.left.mapv(f64::from).dot(&factors.right.mapv(f64::from));
                let raw = on_pairs(&case, &y, &product, bias);
                let tolerance = 1e-9 * raw + 1e-12 * found.spectrum().energy();
                prop_assert!((measured - raw).abs() <= tolerance, "{measured:e} {raw:e}");
            }
        }
    }

    /// On inputs that did not move it is the plain metric, but for the ridge.
    #[test]
    fn inputs_that_did_not_move(case in cases()) {
        for bias in BIASES {
            let anchored = Anchored::new(pairs(&case.inputs, &case.inputs), bias, share(0.2));
            let (refitted, found) = whole(&case, &anchored);
            let drift = (&refitted - &case.weight).iter().fold(0.0_f32, |max, v| max.max(v.abs()));
            prop_assert!(drift < 1e-4, "the weight drifts by {drift}");
            let plain = super::whole(&case.weight, &Metric::gram(case.statistics(), bias, share(0.2)));
            for r in 0..=case.full_rank() {
                let off = (found.spectrum().loss(r) - plain.spectrum().loss(r)).abs();
                prop_assert!(off <= 1e-5 * plain.spectrum().energy(), "{bias:?} rank {r}: {off:e}");
            }
        }
    }

    /// Reduced-rank regression: with enough tokens, factors of the weight itself on the same inputs lose no less.
    #[test]
    fn never_worse_than_without_the_refit(m in 1_usize..10, n in 1_usize..10, seed: u64) {
        let case = case(m, n, 8 * n + 30, Defect::None, 1.0, seed);
        let y = moved(&case);
        let weight = case.weight.mapv(f64::from);
        for bias in [Bias::None, Bias::Joint] {
            let (refitted, found) = whole(&case, &Anchored::new(pairs(&case.inputs, &y), bias, share(0.0)));
            let plain = super::whole(&case.weight, &Metric::gram(exact(&y), bias, share(0.0)));
            for r in 1..=case.full_rank() {
                let product = replaced(refitted.mapv(f64::from).view(), &found, r);
                let anchored = on_pairs(&case, &y, &product, bias);
                let without = on_pairs(&case, &y, &replaced(weight.view(), &plain, r), bias);
                // The ridge moves the optimum by its own small share.
                let bound = 1.02 * without + 1e-6 * found.spectrum().energy();
                prop_assert!(anchored <= bound, "{bias:?} {r}: {anchored} {without}");
            }
        }
    }
}

#[test]
fn moments_of_pairs_are_those_of_the_tokens() {
    let case = case(3, 7, 1100, Defect::None, 1000.0, 9);
    let y = moved(&case);
    let wanted = pairs(&case.inputs, &y);
    let summed = |piece: usize| {
        let mut moments = CrossMoments::new(7);
        for (x, y) in case.inputs.axis_chunks_iter(Axis(0), piece).zip(y.axis_chunks_iter(Axis(0), piece)) {
            moments.add(x, y).unwrap();
        }
        moments.finish().unwrap()
    };
    let found = summed(1100);
    assert_eq!(found, summed(1));
    assert_eq!(found, summed(333));
    for i in 0..7 {
        for j in 0..7 {
            let centred = |s: &CrossStatistics| s.cross[(i, j)] - s.original.mean[i] * s.compressed.mean[j];
            let scale = (exact(&case.inputs).gram[(i, i)] - wanted.original.mean[i].powi(2)).sqrt();
            let scale = scale * (wanted.compressed.gram[(j, j)] - wanted.compressed.mean[j].powi(2)).sqrt();
            let off = (centred(&found) - centred(&wanted)).abs();
            assert!(off < 1e-5 * scale, "{i} {j}: {off:e} of {scale:e}");
        }
    }
}
