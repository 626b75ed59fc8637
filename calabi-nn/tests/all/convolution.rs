//! What flows into convolutions, and factors in the place of their kernels.

use calabi_api::{Factors, Layer, Padding, Samples, Tensor, Window};
use ndarray::{Array1, Array2, ArrayD};
use proptest::prelude::*;

use crate::models::{FLOAT, Graph, Message, array, kept, layer, samples, single};

const SAMPLES: usize = 3;
const CHANNELS: usize = 2;
const OUTPUTS: usize = 3;

#[derive(Debug, Clone)]
struct Case {
    window: Window,
    sizes: Vec<usize>,
}

impl Case {
    fn places(&self) -> usize {
        self.window.kernel.iter().product()
    }

    fn layer(&self) -> Layer {
        let mut layer = layer("w", (OUTPUTS, CHANNELS * self.places()), "x", "y");
        layer.wiring.window = Some(self.window.clone());
        layer
    }

    fn graph(&self, weight: &Array2<f32>, bias: &Array1<f32>) -> Graph {
        let dims: Vec<usize> = [OUTPUTS, CHANNELS].into_iter().chain(self.window.kernel.clone()).collect();
        let free: Vec<&str> = ["n", "c"].into_iter().chain(self.sizes.iter().map(|_| "s")).collect();
        let list = |name: &str, numbers: &[usize]| {
            let head = Message::new().bytes(1, name).int(20, 7);
            numbers.iter().fold(head, |attribute, &number| attribute.int(8, number as u64))
        };
        let text = |name: &str, value: &str| Message::new().bytes(1, name).bytes(4, value).int(20, 3);
        let mut attributes = vec![list("strides", &self.window.strides), list("dilations", &self.window.dilations)];
        attributes.push(match &self.window.padding {
            Padding::SameUpper => text("auto_pad", "SAME_UPPER"),
            Padding::SameLower => text("auto_pad", "SAME_LOWER"),
            Padding::Given { before, behind } => list("pads", &[before.as_slice(), behind].concat()),
        });
        let sizes: Vec<String> = [CHANNELS].iter().chain(&self.sizes).map(ToString::to_string).collect();
        let input: Vec<&str> = std::iter::once("n").chain(sizes.iter().map(String::as_str)).collect();
        Graph::new()
            .input("x", FLOAT, &input)
            .output("y", FLOAT, &free)
            .weight("w", &dims, weight.as_slice().unwrap())
            .weight("b", &[OUTPUTS], bias.as_slice().unwrap())
            .node_of("Conv", &["x", "w", "b"], "y", &attributes)
    }

    fn samples(&self) -> Samples {
        let shape: Vec<usize> = [SAMPLES, CHANNELS].into_iter().chain(self.sizes.clone()).collect();
        samples([("x", Tensor::F32(array(&shape, |i| ((i * i + i / 3) % 17) as f32 - 8.0)))])
    }
}

/// Windows over one or two axes; strides, dilations and every kind of padding.
fn case() -> impl Strategy<Value = Case> {
    // Kernel, stride, dilation, zeros before and behind, size.
    let axis = [1_usize..4, 1..4, 1..3, 0..3, 0..3, 5..9];
    (prop::collection::vec(axis, 1..3), 0..3).prop_map(|(axes, kind)| {
        let of = |index: usize| axes.iter().map(|axis: &[usize; 6]| axis[index]).collect::<Vec<_>>();
        let zeros = vec![0; axes.len()];
        let padding = match kind {
            0 => Padding::Given { before: of(3), behind: of(4) },
            1 => Padding::Given { before: zeros.clone(), behind: zeros },
            // rten takes `SAME_LOWER` for `SAME_UPPER`, and refuses `VALID`.
            _ => Padding::SameUpper,
        };
        // rten pads by size only where kernels are dense.
        let dilations = if kind > 1 { vec![1; axes.len()] } else { of(2) };
        Case { window: Window { kernel: of(0), strides: of(1), dilations, padding }, sizes: of(5) }
    })
}

fn whole(rows: usize, cols: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, cols), |(i, j)| ((i * 7 + j * 5 + seed) % 11) as f32 - 5.0)
}

/// Rows of outputs as the graph gives them: samples, then outputs, then places.
fn laid_out(rows: &Array2<f32>) -> Vec<f32> {
    let places = rows.nrows() / SAMPLES;
    let at = |sample, output, place| rows[[sample * places + place, output]];
    let outputs = move |sample| (0..OUTPUTS).flat_map(move |m| (0..places).map(move |place| at(sample, m, place)));
    (0..SAMPLES).flat_map(outputs).collect()
}

fn flat(values: &ArrayD<f32>) -> Vec<f32> {
    values.iter().copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_rows_seen_give_the_outputs_dense_and_factorized(case in case()) {
        let (weight, bias) = (whole(OUTPUTS, CHANNELS * case.places(), 3), Array1::from_vec(vec![1.0, -2.0, 3.0]));
        let (_folder, mut runner) = kept(case.graph(&weight, &bias));
        let (given, layer) = (case.samples(), case.layer());
        let mut rows = Array2::zeros((0, layer.shape.cols()));
        runner.observe(&given, &[&layer], &mut |_, seen| {
            rows.append(ndarray::Axis(0), seen).unwrap();
            Ok(())
        }).unwrap();
        let dense = runner.outputs(&given).unwrap();
        prop_assert_eq!(laid_out(&(rows.dot(&weight.t()) + &bias)), flat(&single(Ok(dense)).values));

        let factors = Factors {
            left: whole(OUTPUTS, 1, 1),
            right: whole(1, layer.shape.cols(), 2),
            bias: Some(Array1::from_vec(vec![4.0, 5.0, -6.0])),
        };
        runner.substitute(&layer, Some(&factors)).unwrap();
        let expected = rows.dot(&factors.left.dot(&factors.right).t()) + &bias + factors.bias.as_ref().unwrap();
        let factorized = runner.outputs(&given).unwrap();
        prop_assert_eq!(laid_out(&expected), flat(&single(Ok(factorized)).values));
    }
}

#[test]
fn what_windows_differ_in_tells_their_inputs_apart() {
    let padding = Padding::Given { before: vec![1], behind: vec![1] };
    let window = Window { kernel: vec![3], strides: vec![1], dilations: vec![1], padding };
    let case = Case { window, sizes: vec![8] };
    let weight = whole(OUTPUTS, CHANNELS * 3, 0);
    let pointwise = Window { kernel: vec![1], padding: Padding::SameUpper, ..case.window.clone() };
    let graph = case.graph(&weight, &Array1::zeros(OUTPUTS)).weight("v", &[OUTPUTS, CHANNELS, 1], &[1.0; 6]).node(
        "Conv",
        &["x", "v"],
        "z",
    );
    let (_folder, mut runner) = kept(graph.output("z", FLOAT, &["n", "c", "s"]));
    let mut other = layer("v", (OUTPUTS, CHANNELS), "x", "z");
    other.wiring.window = Some(pointwise);
    let layers = [&case.layer(), &other];
    assert_eq!(runner.sources(&layers).unwrap(), ["x (3, padding 1)", "x (1, padding same upper)"]);
    let mut seen = Vec::new();
    runner
        .observe(&case.samples(), &layers, &mut |name, rows| {
            seen.push((name.to_owned(), rows.dim()));
            Ok(())
        })
        .unwrap();
    let expected: Vec<_> = (0..SAMPLES)
        .map(|_| ("x (3, padding 1)".to_owned(), (8, 6)))
        .chain((0..SAMPLES).map(|_| ("x (1, padding same upper)".to_owned(), (8, 2))))
        .collect();
    seen.sort_by_key(|(_, (_, features))| std::cmp::Reverse(*features));
    assert_eq!(seen, expected);
}
