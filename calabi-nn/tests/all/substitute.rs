//! Factors in the place of a graph's weights.

use crate::models::{FLOAT, Graph, array, file, kept, layer, samples, single};
use calabi_api::{Factors, Layer, Runner, Runtime as _, Samples, Tensor};
use calabi_nn::OnnxRuntime;
use ndarray::{Array1, Array2, ArrayD, Ix2};
use proptest::prelude::*;

const M: usize = 4;
const N: usize = 3;

/// How a layer's weight enters its node.
#[derive(Debug, Clone, Copy)]
enum Way {
    MatMul,
    /// `W x`, with samples along the first axis: the outputs lie along the last but one.
    Left,
    Gemm,
    GemmTurned,
    /// Behind a Transpose.
    Behind,
}

const WAYS: [Way; 5] = [Way::MatMul, Way::Left, Way::Gemm, Way::GemmTurned, Way::Behind];

fn graph(way: Way, weight: &Array2<f32>) -> Graph {
    let stored = match way {
        Way::Left | Way::GemmTurned | Way::Behind => weight.clone(),
        Way::MatMul | Way::Gemm => weight.t().as_standard_layout().into_owned(),
    };
    let graph = match way {
        Way::Left => Graph::new().input("x", FLOAT, &["n", "3", "2"]).output("y", FLOAT, &["n", "4", "2"]),
        _ => Graph::new().input("x", FLOAT, &["n", "3"]).output("y", FLOAT, &["n", "4"]),
    };
    let graph = graph.weight("w", stored.shape(), stored.as_slice().unwrap());
    match way {
        Way::MatMul => graph.node("MatMul", &["x", "w"], "y"),
        Way::Left => graph.node("MatMul", &["w", "x"], "y"),
        Way::Gemm => graph.gemm(&["x", "w"], "y", [false, false]),
        Way::GemmTurned => graph.gemm(&["x", "w"], "y", [false, true]),
        Way::Behind => graph.node("Transpose", &["w"], "turned").node("MatMul", &["x", "turned"], "y"),
    }
}

/// `W x + b`, samples along the first axis.
fn oracle(way: Way, weight: &Array2<f32>, bias: &Array1<f32>, x: &ArrayD<f32>) -> ArrayD<f32> {
    match way {
        Way::Left => {
            let mut y = ArrayD::zeros(vec![x.shape()[0], M, 2]);
            for (mut y, x) in y.outer_iter_mut().zip(x.outer_iter()) {
                let product = weight.dot(&x.into_dimensionality::<Ix2>().unwrap());
                y.assign(&(product + bias.view().insert_axis(ndarray::Axis(1))));
            }
            y
        }
        _ => (x.view().into_dimensionality::<Ix2>().unwrap().dot(&weight.t()) + bias).into_dyn(),
    }
}

fn given(way: Way, count: usize) -> (ArrayD<f32>, Samples) {
    let shape: &[usize] = if matches!(way, Way::Left) { &[count, N, 2] } else { &[count, N] };
    let x = array(shape, |i| (i * i % 13) as f32 - 6.0);
    (x.clone(), samples([("x", Tensor::F32(x))]))
}

/// A matrix of small whole numbers: products are exact.
fn whole(rows: usize, cols: usize) -> impl Strategy<Value = Array2<f32>> {
    prop::collection::vec(-3_i8..=3, rows * cols)
        .prop_map(move |v| Array2::from_shape_vec((rows, cols), v.into_iter().map(f32::from).collect()).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn factors_and_bias_take_the_weights_place_and_leave_it_again(
        way in prop::sample::select(WAYS.to_vec()),
        weight in whole(M, N),
        left in whole(M, 2),
        right in whole(2, N),
        bias in prop::option::of(whole(1, M)),
    ) {
        let (_folder, mut runner) = kept(graph(way, &weight));
        let layer = layer("w", (M, N), "x", "y");
        let (x, given) = given(way, 40);
        let before = single(runner.outputs(&given)).values;
        prop_assert_eq!(&before, &oracle(way, &weight, &Array1::zeros(M), &x));

        let bias = bias.map(|bias| bias.row(0).to_owned());
        let factors = Factors { left: left.clone(), right: right.clone(), bias: bias.clone() };
        runner.substitute(&layer, Some(&factors)).unwrap();
        let bias = bias.unwrap_or_else(|| Array1::zeros(M));
        prop_assert_eq!(single(runner.outputs(&given)).values, oracle(way, &left.dot(&right), &bias, &x));

        runner.substitute(&layer, None).unwrap();
        prop_assert_eq!(single(runner.outputs(&given)).values, before);
    }
}

/// Two layers, one behind the other, the second with weights in another file.
fn chain() -> Graph {
    Graph::new()
        .input("x", FLOAT, &["n", "3"])
        .output("y", FLOAT, &["n", "2"])
        .weight("first", &[3, 4], &[1.0; 12])
        .weight_beside("second", &[4, 2], "weights.data")
        .node("MatMul", &["x", "first"], "middle")
        .node("MatMul", &["middle", "second"], "y")
}

#[test]
fn what_is_substituted_flows_on_and_is_watched() {
    let (folder, path) = file("model.onnx", &chain().model());
    let second: Vec<u8> = (0..8_u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    std::fs::write(folder.path().join("weights.data"), second).unwrap();
    let mut runner = OnnxRuntime::default().load(&path).unwrap();
    let (first, second) = (layer("first", (4, 3), "x", "middle"), layer("second", (2, 4), "middle", "y"));

    let given = samples([("x", Tensor::F32(array(&[1, 3], |_| 1.0)))]);
    assert_eq!(single(runner.outputs(&given)).values, array(&[1, 2], |i| if i == 0 { 36.0 } else { 48.0 }));
    let bias = Some(Array1::from_vec(vec![0.0, 0.0, 0.0, 5.0]));
    let factors = Factors { left: Array2::ones((4, 1)), right: Array2::ones((1, 3)) * 2.0, bias };
    runner.substitute(&first, Some(&factors)).unwrap();
    let middle = [6.0, 6.0, 6.0, 11.0];
    assert_eq!(watched(&mut *runner, &given, &second), middle);
    let expected = |j: usize| (0..4).map(|i| middle[i] * (2 * i + j) as f32).sum::<f32>();
    assert_eq!(single(runner.outputs(&given)).values, array(&[1, 2], expected), "and data beside the model are there");

    let half = Factors { left: Array2::ones((2, 1)), right: Array2::ones((1, 4)), bias: None };
    runner.substitute(&second, Some(&half)).unwrap();
    assert_eq!(single(runner.outputs(&given)).values, array(&[1, 2], |_| 29.0), "two layers at once");
    runner.substitute(&first, None).unwrap();
    assert_eq!(watched(&mut *runner, &given, &second), [3.0; 4]);
    assert_eq!(single(runner.outputs(&given)).values, array(&[1, 2], |_| 12.0));
}

fn watched(runner: &mut dyn Runner, given: &Samples, layer: &Layer) -> Vec<f32> {
    let mut rows = Vec::new();
    let seen = runner.observe(given, &[layer], &mut |_, values| {
        rows.extend(values.iter().copied());
        Ok(())
    });
    seen.map(|()| rows).unwrap()
}

#[test]
fn factors_that_do_not_fit_are_refused() {
    let (_folder, mut runner) = kept(graph(Way::MatMul, &Array2::ones((M, N))));
    let layer = layer("w", (M, N), "x", "y");
    let mut problem = |left, right, bias: Option<usize>| {
        let factors = Factors { left: Array2::ones(left), right: Array2::ones(right), bias: bias.map(Array1::ones) };
        runner.substitute(&layer, Some(&factors)).unwrap_err().to_string()
    };
    assert!(
        problem((N, 1), (1, N), None).contains("layer w: factors of (3, 1) and (1, 3) do not fit a weight of 4 x 3")
    );
    assert!(problem((M, 1), (2, N), None).contains("do not fit"));
    assert!(problem((M, 1), (1, N), Some(N)).contains("do not fit"));
}

#[test]
fn a_weight_that_others_read_is_not_replaced() {
    let graph = Graph::new()
        .input("x", FLOAT, &["n", "3"])
        .output("y", FLOAT, &["n", "3"])
        .weight("w", &[3, 3], &[1.0; 9])
        .node("MatMul", &["x", "w"], "middle")
        .node("MatMul", &["middle", "w"], "y");
    let (_folder, mut runner) = kept(graph);
    let factors = Factors { left: Array2::ones((3, 1)), right: Array2::ones((1, 3)), bias: None };
    let error = runner.substitute(&layer("w", (3, 3), "x", "middle"), Some(&factors)).unwrap_err().to_string();
    assert!(error.contains("layer w: its weight w is read by other nodes as well"), "{error}");
}
