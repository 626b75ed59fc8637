use calabi_api::{Samples, Tensor};
use ndarray::{Array2, ArrayD, IxDyn, array};
use proptest::prelude::*;

use super::*;

fn output(name: &str, values: ArrayD<f32>) -> Output {
    Output { name: name.to_owned(), values }
}

/// The report of one output, its samples added in groups of this size.
fn compared(
    y: &Output,
    z: &Output,
    tokens: Option<&Tokens>,
    group: usize,
) -> (OutputReport, Option<(Change<f64>, u64)>) {
    let samples = y.values.shape()[0];
    let outputs = [(y.name.clone(), Meaning::of(y, tokens))];
    let mut comparison = Comparison::new(&outputs, tokens, None);
    for first in (0..samples).step_by(group) {
        let cut = |o: &Output| {
            let end = samples.min(first + group);
            output(&o.name, o.values.slice_axis(ndarray::Axis(0), (first..end).into()).to_owned())
        };
        comparison.add(first, &[cut(y)], &[cut(z)]).unwrap();
    }
    (comparison.outputs().remove(0), comparison.perplexity())
}

/// Tokens of samples with these masks; ids count up from 1.
fn tokens(mask: &Array2<i64>) -> Tokens {
    let ids = Array2::from_shape_fn(mask.dim(), |(s, t)| i64::try_from(1 + (3 * s + t) % 4).unwrap());
    let inputs = [("input_ids", ids), ("attention_mask", mask.clone())];
    Tokens::of(&Samples { inputs: inputs.map(|(name, a)| (name.to_owned(), Tensor::I64(a.into_dyn()))).into() })
        .unwrap()
}

#[test]
fn figures_of_known_outputs() {
    let y = output("y", array![[3.0_f32, 4.0], [1.0, 0.0]].into_dyn());
    let z = output("y", array![[3.0_f32, 4.0], [0.0, 1.0]].into_dyn());
    let (report, perplexity) = compared(&y, &z, None, 1);
    assert!((report.relative_error - (2.0_f64 / 26.0).sqrt()).abs() < 1e-12);
    assert!((report.cosine - 0.5).abs() < 1e-12);
    assert_eq!(report.agreement, Some(0.5));
    assert_eq!((report.kl, perplexity), (None, None), "what is not called logits has no probabilities");
}

#[test]
fn the_divergence_of_known_distributions() {
    // softmax gives 1/2, 1/2 and 1/4, 3/4: KL = ln(2)/2 + ln(2/3)/2; a shift of all logits changes nothing.
    let y = output("logits", array![[7.0_f32, 7.0]].into_dyn());
    let z = output("logits", array![[0.0_f32, 3.0_f32.ln()]].into_dyn());
    let expected = 0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
    assert!((compared(&y, &z, None, 1).0.kl.unwrap() - expected).abs() < 1e-7);
}

#[test]
fn outputs_that_are_zero_or_have_no_classes() {
    let zero = output("y", ArrayD::zeros(vec![2, 3]));
    let same = compared(&zero, &zero, None, 2).0;
    assert_eq!((same.relative_error, same.cosine), (0.0, 1.0));
    let one = output("y", zero.values.mapv(|_| 1.0));
    let other = compared(&zero, &one, None, 2).0;
    assert_eq!((other.relative_error, other.cosine), (6.0_f64.sqrt(), 0.0));
    for shape in [vec![4], vec![4, 1]] {
        let flat = output("logits", ArrayD::zeros(shape));
        let report = compared(&flat, &flat, None, 1).0;
        assert_eq!((report.agreement, report.kl, report.cosine), (None, None, 1.0));
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let y = output("logits", array![[1.0_f32, 2.0]].into_dyn());
    for bad in [f32::NAN, f32::INFINITY] {
        let report = compared(&y, &output("logits", array![[1.0, bad]].into_dyn()), None, 1).0;
        assert!(!report.kl.unwrap().is_finite() && !report.relative_error.is_finite());
    }
    let masked = output("logits", array![[1.0_f32, f32::NEG_INFINITY]].into_dyn());
    assert_eq!(compared(&masked, &masked, None, 1).0.kl, Some(0.0), "impossible for both: no difference");
    assert_eq!(compared(&y, &masked, None, 1).0.kl, Some(f64::INFINITY));
}

#[test]
fn only_logits_are_taken_for_logits() {
    let mask = Array2::ones((2, 3));
    let tokens = tokens(&mask);
    let is = |name: &str, shape: &[usize]| {
        let meaning = Meaning::of(&output(name, ArrayD::zeros(shape)), Some(&tokens));
        (meaning.logits, meaning.predicts_tokens())
    };
    assert_eq!(is("logits", &[2, 3, 9]), (true, true));
    assert_eq!(is("logits", &[2, 9]), (true, false));
    assert_eq!(is("head", &[2, 3, 5]), (true, true), "ids go up to 4");
    assert_eq!(is("head", &[2, 3, 4]), (false, false));
    assert_eq!(is("last_hidden_state", &[2, 3, 9]), (false, false));
    assert_eq!(is("present.0.key", &[2, 3, 3, 9]), (false, false));
}

#[test]
fn outputs_that_do_not_match_are_refused() {
    let y = output("y", ArrayD::zeros(vec![2, 3]));
    let outputs = [("y".to_owned(), Meaning::of(&y, None))];
    let mut comparison = Comparison::new(&outputs, None, None);
    assert!(comparison.add(0, std::slice::from_ref(&y), &[]).is_err());
    assert!(comparison.add(0, &[y], &[output("y", ArrayD::zeros(vec![3, 2]))]).is_err());
}

#[test]
fn labels_are_met_row_by_row() {
    let y = output("y", array![[0.0_f32, 1.0], [1.0, 0.0], [1.0, 0.0]].into_dyn());
    let z = output("y", array![[1.0_f32, 0.0], [1.0, 0.0], [0.0, 1.0]].into_dyn());
    let outputs = [("y".to_owned(), Meaning::of(&y, None))];
    let mut comparison = Comparison::new(&outputs, None, Some(&[1, 0, 1]));
    comparison.add(0, &[y], &[z]).unwrap();
    assert_eq!(comparison.accuracy(), Some(Change { before: 2.0 / 3.0, after: 2.0 / 3.0 }));
}

fn logits() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, Vec<i64>)> {
    let values = || proptest::collection::vec(-8.0_f32..8.0, 3 * 4 * 5);
    (values(), values(), proptest::collection::vec(0_i64..2, 3 * 4))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// All figures against their definitions, written out; groups of samples change no bit.
    #[test]
    fn figures_are_what_their_definitions_say((a, b, mask) in logits()) {
        let shape = IxDyn(&[3, 4, 5]);
        let y = output("logits", ArrayD::from_shape_vec(shape.clone(), a).unwrap());
        let z = output("logits", ArrayD::from_shape_vec(shape, b).unwrap());
        let tokens = tokens(&Array2::from_shape_vec((3, 4), mask.clone()).unwrap());
        let (report, perplexity) = compared(&y, &z, Some(&tokens), 3);
        for group in [1, 2] {
            let (again, same) = compared(&y, &z, Some(&tokens), group);
            prop_assert_eq!(format!("{again:?} {same:?}"), format!("{report:?} {perplexity:?}"));
        }
        let softmax = |o: &Output, s: usize, t: usize| {
            let e: Vec<f64> = (0..5).map(|v| f64::from(o.values[[s, t, v]]).exp()).collect();
            e.iter().map(|x| x / e.iter().sum::<f64>()).collect::<Vec<_>>()
        };
        let (mut kl, mut rows, mut nll, mut scored) = (0.0, 0.0, (0.0, 0.0), 0_u64);
        for (s, t) in (0..3).flat_map(|s| (0..4).map(move |t| (s, t))).filter(|(s, t)| mask[4 * s + t] == 1) {
            let (p, q) = (softmax(&y, s, t), softmax(&z, s, t));
            kl += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
            rows += 1.0;
            if t < 3 && mask[4 * s + t + 1] == 1 {
                let next = 1 + (3 * s + t + 1) % 4;
                nll = (nll.0 - p[next].ln(), nll.1 - q[next].ln());
                scored += 1;
            }
        }
        if rows > 0.0 {
            prop_assert!((report.kl.unwrap() - kl / rows).abs() < 1e-9, "{:?} and {}", report.kl, kl / rows);
        }
        prop_assert_eq!(perplexity.map_or(0, |(_, tokens)| tokens), scored);
        if let Some((Change { before, after }, _)) = perplexity {
            let expected = ((nll.0 / scored as f64).exp(), (nll.1 / scored as f64).exp());
            prop_assert!((before / expected.0 - 1.0).abs() < 1e-9 && (after / expected.1 - 1.0).abs() < 1e-9);
        }
    }
}
