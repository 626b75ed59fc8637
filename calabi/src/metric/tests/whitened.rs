//! What `f32` finds of large layers is what `f64` finds, and where it cannot tell it is not asked.

use calabi_api::settings::Share;
use calabi_svd::{Accuracy, Faer};
use ndarray::concatenate;

use super::super::factorize::by_route;
use super::super::route::route;
use super::super::whitened;
use super::*;

const LIMIT: usize = 60;

/// Inputs whose features mix, with scales that fall by `fall` and a mean; a weight of any shape.
fn large(m: usize, n: usize, tokens: usize, fall: f64, seed: u64) -> Case {
    let mut hidden = gaussian(tokens, n, seed);
    for (j, mut feature) in hidden.columns_mut().into_iter().enumerate() {
        let scale = (-fall * j as f64 / n as f64).exp();
        feature.mapv_inplace(|v| scale * (v + 0.5));
    }
    let inputs = hidden.dot(&(gaussian(n, n, seed ^ 2) / (n as f64).sqrt()));
    Case { weight: rounded(&gaussian(m, n, seed ^ 1)), inputs: rounded(&inputs), seed }
}

fn metrics(case: &Case) -> impl Iterator<Item = (Bias, f64, Metric)> {
    let of = |share: f64| Shrinkage::Fixed(Share::new(share).unwrap());
    let statistics = case.statistics();
    let each = BIASES.into_iter().flat_map(|bias| [0.0, 0.02, 0.4].map(|share| (bias, share)));
    each.map(move |(bias, share)| (bias, share, Metric::gram(statistics.clone(), bias, of(share))))
}

/// By the quick route, where it is taken.
fn quick(case: &Case, metric: &Metric, decomposer: Faer, limit: usize) -> Option<Factorization<'static>> {
    let room = Box::leak(Box::default());
    whitened::factorize(case.weight.view(), metric, &decomposer, rank(limit), room).unwrap()
}

/// Of wide weights no root is taken, singular metrics and all.
#[test]
fn wide_weights_take_no_root() {
    let (wide, square) = (large(200, 310, 700, 3.0, 21), large(200, 260, 700, 3.0, 22));
    let unshrunk =
        |case: &Case| Metric::gram(case.statistics(), Bias::None, Shrinkage::Fixed(Share::new(0.0).unwrap()));
    for (case, taken) in [(&wide, false), (&square, true)] {
        let metric = unshrunk(case);
        assert!(quick(case, &metric, Faer::default(), LIMIT).is_some());
        assert_eq!(metric.find().has_triangle(), taken);
    }
    let few = large(200, 310, 250, 3.0, 23);
    let metric = unshrunk(&few);
    let found = quick(&few, &metric, Faer::default(), LIMIT).expect("a singular metric needs no root");
    let lost = on_data(&few, &replaced(few.weight.mapv(f64::from).view(), &found, LIMIT), Bias::None);
    assert!((found.spectrum().loss(LIMIT) / lost - 1.0).abs() < 1e-4);
}

/// Inputs and rows of one sign: rounding of one sign, which is not small where `f32` is taken, and is seen where it would count.
#[test]
fn rounding_of_one_sign_is_seen() {
    for (scale, taken) in [(0.01, true), (30.0, false)] {
        let mut case = large(256, 1024, 1100, 1.0, 31);
        case.weight.mapv_inplace(f32::abs);
        let loud = scale * gaussian(1100, 1, 32);
        case.inputs = rounded(&(case.inputs.mapv(f64::from) + &loud));
        let metric = Metric::gram(case.statistics(), Bias::None, Shrinkage::Fixed(Share::new(0.0).unwrap()));
        assert_eq!(quick(&case, &metric, Faer::default(), 128).is_some(), taken, "{scale}");
        let found = up_to(128, case.weight.view(), &metric, &Faer::default()).unwrap();
        let lost = on_data(&case, &replaced(case.weight.mapv(f64::from).view(), &found, 128), Bias::None);
        let off = found.spectrum().loss(128) / lost - 1.0;
        assert!(off.abs() < 1e-3, "{scale}: {off:e}");
    }
}

#[test]
fn losses_and_directions_are_those_of_f64() {
    for (m, n, seed) in [(200, 260, 1), (260, 200, 2), (210, 210, 3), (200, 310, 4)] {
        let case = large(m, n, 700, 3.0, seed);
        for (bias, share, metric) in metrics(&case) {
            let context = format!("{m}x{n}, {bias:?}, {share}");
            let found = quick(&case, &metric, Faer::default(), LIMIT).unwrap_or_else(|| panic!("{context}: refused"));
            let shape = calabi_api::Shape::new(m, n).unwrap();
            let route = route(shape, metric.find().form());
            let full = rank(m.min(n));
            let precise = by_route(case.weight.view(), &metric, &Faer::default(), full, route).unwrap();
            let (single, double) = (found.spectrum(), precise.spectrum());
            assert!((single.energy() / double.energy() - 1.0).abs() < 1e-5, "{context}");
            for r in 0..=LIMIT {
                let off = (single.loss(r) / double.loss(r) - 1.0).abs();
                assert!(off < 1e-4, "{context}, rank {r}: {off:e}");
            }
            let u = found.basis(rank(LIMIT)).unwrap().mapv(f64::from);
            let off = (u.t().dot(&u) - Array2::<f64>::eye(LIMIT)).fold(0.0, |max: f64, v| max.max(v.abs()));
            assert!(off < 1e-5, "{context}: U is orthonormal to {off:e}");
            for r in [1, 20, LIMIT] {
                let lost = on_data(&case, &replaced(case.weight.mapv(f64::from).view(), &found, r), bias);
                assert!((lost / double.loss(r) - 1.0).abs() < 1e-4, "{context}, rank {r}: {lost}");
            }
        }
    }
}

/// Bit for bit: a store keeps more vectors than a run without one makes.
#[test]
fn vectors_do_not_depend_on_how_many_are_asked_for() {
    for (m, n) in [(400, 200), (210, 210), (200, 310)] {
        let case = large(m, n, 700, 3.0, 41);
        for (bias, share, metric) in metrics(&case) {
            let found =
                quick(&case, &metric, Faer::default(), 150).unwrap_or_else(|| panic!("{bias:?}, {share}: refused"));
            let all = found.basis(rank(150)).unwrap();
            for r in [1, 40, 64, 100, 149] {
                let some = found.basis(rank(r)).unwrap();
                let same = some.indexed_iter().all(|(place, v)| v.to_bits() == all[place].to_bits());
                assert!(same && some.ncols() == r, "{m}x{n}, {bias:?}, {share}: {r} vectors");
            }
        }
    }
}

#[test]
fn what_is_measured_is_what_the_data_lose() {
    for (m, n, seed) in [(200, 260, 4), (260, 200, 5), (200, 310, 6)] {
        let case = large(m, n, 700, 3.0, seed);
        for (bias, share, metric) in metrics(&case) {
            let found = quick(&case, &metric, Faer::default(), LIMIT).unwrap();
            let factors = factors_from_basis(case.weight.view(), found.basis(rank(LIMIT)).unwrap());
            let added = compensation(case.weight.view(), &factors, &metric);
            let told = whitened::measured_loss(case.weight.view(), &factors, (&metric, &Room::new()), added.as_ref());
            assert!(told.is_some(), "{bias:?}, {share}: refused");
            let raw = on_data(&case, &factors.left.mapv(f64::from).dot(&factors.right.mapv(f64::from)), bias);
            let measured = measured_loss(case.weight.view(), &factors, (&metric, &Room::new()), added.as_ref());
            assert!((measured / raw - 1.0).abs() < 1e-4, "{bias:?}, {share}: {measured} {raw}");
        }
    }
}

#[test]
fn where_single_precision_cannot_tell_it_is_not_asked() {
    let unshrunk =
        |case: &Case| Metric::gram(case.statistics(), Bias::None, Shrinkage::Fixed(Share::new(0.0).unwrap()));
    for n in [260, 310] {
        let usual = large(200, n, 700, 3.0, 6);
        let metric = unshrunk(&usual);
        assert!(quick(&usual, &metric, Faer::default(), LIMIT).is_some());
        assert!(quick(&usual, &metric, Faer::default(), 200).is_none(), "full rank loses nothing");
        let exact = Faer { accuracy: Accuracy::Full };
        assert!(quick(&usual, &metric, exact, LIMIT).is_none(), "all digits are asked for");
        let few = large(200, n, 90, 3.0, 7);
        let limit = if n == 260 { LIMIT } else { 120 };
        assert!(quick(&few, &unshrunk(&few), Faer::default(), limit).is_none(), "no root, or nothing is lost");
        let steep = large(200, n, 700, 40.0, 8);
        assert!(quick(&steep, &unshrunk(&steep), Faer::default(), LIMIT).is_none(), "losses are below rounding");
        // Losses of the data, a small part of those in a metric that is all but the identity.
        let steeper = large(200, n, 700, 400.0, 8);
        let shrunk = Metric::gram(steeper.statistics(), Bias::None, Shrinkage::Fixed(Share::new(0.5).unwrap()));
        assert!(quick(&steeper, &shrunk, Faer::default(), LIMIT).is_none(), "losses are differences");
        let mut spoilt = usual.weight.clone();
        spoilt[(1, 2)] = f32::NAN;
        assert!(up_to(LIMIT, spoilt.view(), &metric, &Faer::default()).is_err());
    }
}

/// Weights that are tiny, huge, or blind to where inputs are largest.
#[test]
fn scales_change_nothing() {
    for n in [230, 320] {
        at_all_scales(n);
    }
}

fn at_all_scales(n: usize) {
    let case = large(200, n, 700, 3.0, 9);
    for scale in [1e-30_f32, 1e-12, 1e12, 1e30] {
        let scaled = Case { weight: &case.weight * scale, ..case.clone() };
        for (bias, share, metric) in metrics(&scaled) {
            let (one, other) =
                (quick(&case, &metric, Faer::default(), LIMIT), quick(&scaled, &metric, Faer::default(), LIMIT));
            let Some((one, other)) = one.zip(other) else { panic!("{bias:?}, {share}, {scale}: refused") };
            let ratio = other.spectrum().loss(LIMIT) / one.spectrum().loss(LIMIT) / f64::from(scale).powi(2);
            assert!((ratio - 1.0).abs() < 1e-4, "{bias:?}, {share}, {scale}: {ratio}");
        }
    }
    // The first direction of the inputs is a thousand times the others, and the weight does not see it.
    let loud = gaussian(1, n, 10);
    let along = &loud / loud.dot(&loud.t())[(0, 0)].sqrt();
    let tokens = case.inputs.nrows();
    let inputs = concatenate(Axis(1), &[case.inputs.mapv(f64::from).view()]).unwrap()
        + 1e3 * gaussian(tokens, 1, 11).dot(&along);
    let blind = case.weight.mapv(f64::from) - case.weight.mapv(f64::from).dot(&along.t()).dot(&along);
    let case = Case { weight: rounded(&blind), inputs: rounded(&inputs), seed: 0 };
    for (bias, share, metric) in metrics(&case) {
        let found = up_to(LIMIT, case.weight.view(), &metric, &Faer::default()).unwrap();
        let lost = on_data(&case, &replaced(case.weight.mapv(f64::from).view(), &found, LIMIT), bias);
        let off = (found.spectrum().loss(LIMIT) / lost - 1.0).abs();
        assert!(off < 2e-3, "{bias:?}, {share}: {off:e}");
    }
}
