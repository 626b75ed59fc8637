//! Factors of weights that are stored as integers, stored as integers again.

use calabi_api::ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use calabi_api::{DType, Factors, FormatError, WriteOptions};
use proptest::prelude::*;

use crate::schema::{Graph, Model, Node, Tensor};
use crate::support::{Case, FLOAT, counting, factors, layer, model, node, raw, value};

const INT8: i32 = 3;

#[derive(Debug, Clone, Copy)]
enum Way {
    MatMul,
    /// The weight on the left.
    Left,
    /// The weight turned by its node.
    Gemm,
    /// Turned between its integers and its node.
    Turned,
    Batched,
    Conv,
    Gather,
}

impl Way {
    /// The dimensions of the integers, and the node that reads `w`, which is made of them.
    fn of(self) -> (Vec<i64>, Node) {
        match self {
            Self::MatMul | Self::Turned => (vec![4, 3], node("MatMul", &["x", "w"], "y")),
            Self::Left => (vec![3, 4], node("MatMul", &["w", "x"], "y")),
            Self::Gemm => (vec![3, 4], node("Gemm", &["x", "w"], "y").integer("transB", 1)),
            Self::Batched => (vec![2, 2, 3], node("MatMul", &["x", "w"], "y")),
            Self::Conv => (vec![3, 2, 2], node("Conv", &["x", "w"], "y")),
            Self::Gather => (vec![4, 3], node("Gather", &["w", "x"], "y")),
        }
    }

    fn model(self, opset: i64) -> Model {
        let (dims, reader) = self.of();
        let bytes: Vec<u8> = (0..12).map(|i: i8| (7 * i - 40).cast_unsigned()).collect();
        let dims = if matches!(self, Self::Turned) { vec![3, 4] } else { dims };
        let weight = Tensor { name: "q".into(), data_type: INT8, dims, raw: Some(bytes), ..Default::default() };
        let scale = raw("s", DType::F32, &[], [0.5]);
        let mut nodes = vec![node("DequantizeLinear", &["q", "s"], "w")];
        if matches!(self, Self::Turned) {
            nodes[0].outputs = vec!["t".into()];
            nodes.push(node("Transpose", &["t"], "w"));
        }
        nodes.push(reader.named("linear"));
        let initializers = vec![weight, scale];
        model(opset, Graph { nodes, initializers, outputs: vec![value("y", FLOAT, &[-1])], ..Default::default() })
    }
}

fn options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.requantise = true;
    options
}

/// What a `DequantizeLinear` of the graph gives, and along which axis its scales lie.
fn scaled(graph: &Graph, node: &Node) -> (ArrayD<f32>, usize) {
    let tensor = |name: &String| graph.initializers.iter().find(|tensor| tensor.name == *name).unwrap();
    let (integers, scales) = (tensor(&node.inputs[0]), tensor(&node.inputs[1]));
    assert_eq!((integers.data_type, scales.data_type), (INT8, FLOAT));
    let dims: Vec<usize> = integers.dims.iter().map(|&dim| usize::try_from(dim).unwrap()).collect();
    let values = integers.raw.as_ref().unwrap().iter().map(|&byte| f32::from(byte.cast_signed()));
    let mut values = ArrayD::from_shape_vec(IxDyn(&dims), values.collect()).unwrap();
    let axis = node.attributes.iter().find(|attribute| attribute.name == "axis").unwrap().integer.unwrap();
    let scales: Array1<f32> = DType::F32.decode(scales.raw.as_ref().unwrap()).collect();
    let axis = usize::try_from(axis).unwrap();
    for (mut along, scale) in values.axis_iter_mut(Axis(axis)).zip(scales) {
        along *= scale;
    }
    (values, axis)
}

/// Both factors of a rewritten graph, right before left, as they are read back.
fn read_back(graph: &Graph, m: usize, n: usize, rank: usize) -> [Array2<f32>; 2] {
    ["w.right", "w.left", "q.right", "q.left"]
        .iter()
        .filter_map(|name| {
            let node = graph.nodes.iter().find(|node| node.inputs.first().is_some_and(|input| input == name))?;
            assert_eq!(node.operator, "DequantizeLinear");
            let (values, axis) = scaled(graph, node);
            let (rows, cols) = if name.ends_with("right") { (rank, n) } else { (m, rank) };
            let flat: Vec<f32> = values.iter().copied().collect();
            let stored = if axis == 0 { (rows, cols) } else { (cols, rows) };
            let stored = Array2::from_shape_vec(stored, flat).unwrap();
            Some(if axis == 0 { stored } else { stored.t().to_owned() })
        })
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

proptest! {
    #[test]
    fn what_is_read_back_is_what_was_said_to_be(
        way in prop::sample::select(vec![Way::MatMul, Way::Left, Way::Gemm, Way::Turned, Way::Conv, Way::Batched, Way::Gather]),
        numbers in prop::collection::vec(-3.0_f32..3.0, 14),
    ) {
        let case = Case::new(&way.model(17));
        let source = case.open();
        let linear = layer(&*source, "linear");
        let [m, n] = [linear.shape.rows(), linear.shape.cols()];
        let factors = Factors {
            left: Array2::from_shape_fn((m, 2), |(i, j)| numbers[2 * i + j]),
            right: Array2::from_shape_fn((2, n), |(i, j)| numbers[6 + n * i + j]),
            bias: None,
        };
        let expected = source.rounded(linear, factors.clone(), &options());
        for (rounded, exact) in [(&expected.left, &factors.left), (&expected.right, &factors.right)] {
            for (rounded, exact) in rounded.outer_iter().zip(exact.outer_iter()) {
                let largest = exact.fold(0.0_f32, |largest, value| largest.max(value.abs()));
                let off = (&rounded - &exact).fold(0.0_f32, |most, value| most.max(value.abs()));
                prop_assert!(off <= 0.501 * largest / 127.0, "{off} of {largest}");
            }
        }
        let (written, bytes) = case.rewrite_so(&options(), &[("linear", factors)]);
        let graph = written.graph.unwrap();
        prop_assert!(bytes.cost.bytes > 0 && graph.initializers.iter().all(|tensor| tensor.name != "s"), "the old scale is gone");
        let [right, left] = read_back(&graph, m, n, 2);
        let near = |a: &Array2<f32>, b: &Array2<f32>| (a - b).iter().all(|off| off.abs() < 1e-5);
        prop_assert!(near(&left, &expected.left) && near(&right, &expected.right), "{left} {right} {expected:?}");
    }
}

#[test]
fn what_cannot_be_integers_is_refused_where_it_is_asked_for() {
    let old = Case::new(&Way::MatMul.model(12));
    let source = old.open();
    let declared = [crate::support::declare(layer(&*source, "linear"), &factors(3, 4, 2))];
    let refused = source.create(&old.output(), &declared, &options()).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, FormatError::Limit { .. }), "{refused:?}");
    let told = refused.to_string();
    assert!(
        told.contains("layer linear: its factors cannot be integers: the model is of an opset before 13"),
        "{told}"
    );
    assert!(source.create(&old.output(), &declared, &WriteOptions::default()).is_ok());
}

#[test]
fn weights_of_floating_point_stay_so() {
    let mut mixed = Way::MatMul.model(17);
    mixed.main().initializers.push(counting("v", &[4, 3]));
    mixed.main().nodes.push(node("MatMul", &["x", "v"], "z").named("float"));
    let graph = Case::new(&mixed).rewrite_so(&options(), &[("float", factors(3, 4, 2))]).0.graph.unwrap();
    let types: Vec<_> = graph.initializers.iter().map(|tensor| (tensor.name.as_str(), tensor.data_type)).collect();
    assert_eq!(types, [("q", INT8), ("s", FLOAT), ("v.right", FLOAT), ("v.left", FLOAT)]);
}

#[test]
fn integers_cost_a_byte_each_and_their_scales() {
    let case = Case::new(&Way::MatMul.model(17));
    let source = case.open();
    let linear = layer(&*source, "linear");
    let cost = source.cost(linear, &options());
    assert_eq!((linear.cost.dense.bytes, cost.fixed.bytes, cost.per_rank.bytes), (12, 3 * 4, 3 + 4 + 4));
    assert_eq!(source.cost(linear, &WriteOptions::default()), linear.cost);
}
