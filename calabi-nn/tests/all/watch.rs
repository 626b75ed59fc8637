//! What flows into the layers of a graph.

use std::collections::BTreeMap;

use crate::models::{FLOAT, Graph, INT64, array, kept, layer, samples, single};
use calabi_api::{Layer, RunError, Runner, Samples, Tensor};
use ndarray::{Array2, ArrayD, Axis, concatenate};
use proptest::prelude::*;

const TOKENS: usize = 5;

/// Weights of an MLP, `n × m`: 3 to 4, 4 to 2, and a second layer on the first input, 3 to 2.
fn weights() -> [Array2<f32>; 3] {
    [(3, 4), (4, 2), (3, 2)].map(|dim| Array2::from_shape_fn(dim, |(i, j)| (i * 7 + j * 5) as f32 % 11.0 - 5.0))
}

/// `up`, `down` and `side`, which shares its input with `up`, over tokens; `first` is the axis of samples.
fn mlp(first: &str) -> Graph {
    let [up, down, side] = weights();
    let weight = |graph: Graph, name: &str, w: &Array2<f32>| graph.weight(name, w.shape(), w.as_slice().unwrap());
    let graph = Graph::new()
        .input("x", FLOAT, &[first, "s", "3"])
        .input("attention_mask", INT64, &[first, "s"])
        .output("y", FLOAT, &[first, "s", "2"])
        .output("z", FLOAT, &[first, "s", "2"])
        .output("mask", INT64, &[first, "s"]);
    weight(weight(weight(graph, "up", &up), "down", &down), "side", &side)
        .node("MatMul", &["x", "up"], "high")
        .node("Relu", &["high"], "active")
        .node("MatMul", &["active", "down"], "y")
        .node("MatMul", &["x", "side"], "z")
        .node("Identity", &["attention_mask"], "mask")
}

fn layers() -> [Layer; 3] {
    [layer("up", (4, 3), "x", "high"), layer("down", (2, 4), "active", "y"), layer("side", (2, 3), "x", "z")]
}

/// Whole numbers, so that sums are exact.
fn x(count: usize) -> ArrayD<f32> {
    array(&[count, TOKENS, 3], |i| (i * i % 23) as f32 - 11.0)
}

fn fed(count: usize, mask: &[bool]) -> Samples {
    let mask = array(&[count, TOKENS], |i| i64::from(mask[i]));
    samples([("x", Tensor::F32(x(count))), ("attention_mask", Tensor::I64(mask))])
}

/// All rows seen of each source, and how many times each was shown.
type Seen = BTreeMap<String, (Array2<f32>, usize)>;

fn observed(runner: &mut dyn Runner, samples: &Samples, layers: &[&Layer]) -> Result<Seen, RunError> {
    let mut seen = Seen::new();
    runner.observe(samples, layers, &mut |name, rows| {
        let entry = seen.entry(name.to_owned()).or_insert_with(|| (Array2::zeros((0, rows.ncols())), 0));
        entry.0 = concatenate(Axis(0), &[entry.0.view(), rows]).unwrap();
        entry.1 += 1;
        Ok(())
    })?;
    Ok(seen)
}

/// The rows of tokens that the mask keeps.
fn expected(count: usize, mask: &[bool]) -> [Array2<f32>; 2] {
    let all = x(count).into_shape_with_order((count * TOKENS, 3)).unwrap();
    let kept: Vec<_> = (0..all.nrows()).filter(|&row| mask[row]).collect();
    let input = all.select(Axis(0), &kept);
    let active = input.dot(&weights()[0]).mapv(|value| value.max(0.0));
    [input, active]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_token_is_seen_once_and_padding_never(
        count in 1_usize..70,
        first in prop::sample::select(vec!["n", "1", "4", "32"]),
        mask in prop::collection::vec(prop::bool::weighted(0.8), 70 * TOKENS),
    ) {
        let (_folder, mut runner) = kept(mlp(first));
        let layers = layers();
        let seen = observed(&mut *runner, &fed(count, &mask), &layers.each_ref()).unwrap();
        let [input, active] = expected(count, &mask);
        prop_assert_eq!(seen.len(), if input.is_empty() { 0 } else { 2 });
        if !input.is_empty() {
            prop_assert_eq!(&seen["x"].0, &input);
            prop_assert_eq!(&seen["active"].0, &active);
            prop_assert_eq!(seen["x"].1, seen["active"].1, "layers that share an input are shown it once");
        }
    }
}

#[test]
fn layers_that_share_an_input_share_its_name() {
    let ((_folder, mut runner), layers) = (kept(mlp("n")), layers());
    assert_eq!(runner.sources(&layers.each_ref()).unwrap(), ["x", "active", "x"]);
    let seen = observed(&mut *runner, &fed(2, &[true; 2 * TOKENS]), &[&layers[1]]).unwrap();
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["active"], "what was not asked for is not shown");
}

#[test]
fn samples_and_tokens_on_one_axis_are_masked_too() {
    let graph = Graph::new()
        .input("x", FLOAT, &["n", "s", "3"])
        .input("attention_mask", INT64, &["n", "s"])
        .output("y", FLOAT, &["rows", "2"])
        .weight("w", &[3, 2], &[1.0; 6])
        .node_with("Flatten", &["x"], "flat", &[("axis", 2)])
        .gemm(&["flat", "w"], "y", [false, false]);
    let (_folder, mut runner) = kept(graph);
    let mask: Vec<_> = (0..40 * TOKENS).map(|i| i % 7 > 2).collect();
    let seen = observed(&mut *runner, &fed(40, &mask), &[&layer("w", (2, 3), "flat", "y")]).unwrap();
    assert_eq!(seen["flat"].0, expected(40, &mask)[0]);
}

#[test]
fn what_cannot_be_watched_is_refused_with_the_layers_name() {
    let (_folder, runner) = kept(mlp("n"));
    let problem = |layer: Layer| runner.sources(&[&layer]).unwrap_err().to_string();
    let mut inner = layer("deep", (4, 3), "x", "high");
    inner.wiring.input = None;
    assert!(problem(inner).contains("layer deep: it stands in a subgraph or a function"));
    assert!(
        problem(layer("lost", (4, 3), "x", "none"))
            .contains("layer lost: no node of the main graph gives its output none")
    );
    assert!(problem(layer("other", (4, 3), "z", "high")).contains("exactly one of its inputs has to be z"));
    assert!(problem(layer("relu", (4, 4), "high", "active")).contains("it is a node Relu, not MatMul or Gemm"));
    let turned = Graph::new()
        .input("x", FLOAT, &["3", "n"])
        .output("y", FLOAT, &["n", "2"])
        .weight("w", &[3, 2], &[1.0; 6])
        .gemm(&["x", "w"], "y", [true, false]);
    let error = kept(turned).1.sources(&[&layer("turned", (2, 3), "x", "y")]).unwrap_err().to_string();
    assert!(error.contains("layer turned: its node reads its input transposed"), "{error}");
}

#[test]
fn an_input_of_other_features_is_refused() {
    let (_folder, mut runner) = kept(mlp("n"));
    let wrong = layer("up", (4, 7), "x", "high");
    let error = observed(&mut *runner, &fed(1, &[true; TOKENS]), &[&wrong]).unwrap_err().to_string();
    assert!(error.contains("value x: its shape is [1, 5, 3] where a layer reads 7 features"), "{error}");
    let both = [&layers()[0], &wrong].map(Clone::clone);
    let error = observed(&mut *runner, &fed(1, &[true; TOKENS]), &both.each_ref()).unwrap_err().to_string();
    assert!(error.contains("layer up reads 7 features of a value of 3"), "{error}");
}

#[test]
fn a_watcher_that_fails_ends_the_run() {
    let (_folder, mut runner) = kept(mlp("n"));
    let layers = layers();
    let mut calls = 0;
    let error = runner.observe(&fed(40, &[true; 40 * TOKENS]), &layers.each_ref(), &mut |_, _| {
        calls += 1;
        Err(RunError::Failed("enough".to_owned()))
    });
    assert!(error.unwrap_err().to_string().contains("enough"));
    assert_eq!(calls, 1);
}

#[test]
fn streamed_outputs_are_the_outputs() {
    let (_folder, mut runner) = kept(mlp("n"));
    let given = fed(70, &[true; 70 * TOKENS]);
    let whole = runner.outputs(&given).unwrap();
    let (mut next, mut parts) = (0, vec![Vec::new(); whole.len()]);
    runner
        .stream(&given, &mut |start, outputs| {
            assert_eq!(start, next);
            next += outputs[0].values.shape()[0];
            outputs.into_iter().zip(&mut parts).for_each(|(output, parts)| parts.push(output.values));
            Ok(())
        })
        .unwrap();
    assert_eq!(next, 70);
    for (output, parts) in whole.iter().zip(&parts) {
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        assert_eq!(output.values, concatenate(Axis(0), &views).unwrap());
    }
}

#[test]
fn outputs_after_watching_are_those_before() {
    let (_folder, mut runner) = kept(
        Graph::new()
            .input("x", FLOAT, &["n", "3"])
            .output("y", FLOAT, &["n", "2"])
            .weight("w", &[3, 2], &[0.1, 0.7, -0.3, 0.9, 0.2, 0.5])
            .node("MatMul", &["x", "w"], "y"),
    );
    let given = samples([("x", Tensor::F32(array(&[9, 3], |i| (i as f32).sin())))]);
    let before = single(runner.outputs(&given));
    observed(&mut *runner, &given, &[&layer("w", (2, 3), "x", "y")]).unwrap();
    assert_eq!(before, single(runner.outputs(&given)));
}
