//! What a factorized layer computes, how it is written, and what stays as it was.

use calabi_api::ndarray::Array2;
use calabi_api::{DType, Factors, FormatError, Rank, Replacement, WriteOptions};
use proptest::prelude::*;
use prost::Message;

use crate::evaluate::evaluate;
use crate::schema::{Graph, Model, Tensor};
use crate::support::{Case, FLOAT, counting, entries, factors, layer, model, node, raw, small, value};

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Storage {
    Raw,
    Typed,
    External,
}

/// A model of one layer.
#[derive(Debug, Clone)]
struct Single {
    gemm: bool,
    /// The input that is the weight.
    slot: usize,
    trans: [bool; 2],
    alpha: Option<f32>,
    /// Beta and the dimensions of `C`, as rows and columns that are not broadcast.
    bias: Option<(f32, [bool; 2])>,
    opset: i64,
    dtype: DType,
    storage: Storage,
    /// Outputs, inputs, samples.
    dims: [usize; 3],
    rank: usize,
}

fn single() -> impl Strategy<Value = Single> {
    let layout = (any::<bool>(), 0..2_usize, any::<[bool; 2]>(), prop::sample::select(vec![7, 9, 11, 13, 22]));
    let scales = (
        prop::option::of(prop::sample::select(vec![1.0_f32, 0.5, -2.0])),
        prop::option::of((prop::sample::select(vec![1.0_f32, 0.25]), any::<[bool; 2]>())),
    );
    let stored = (
        prop::sample::select(vec![DType::F32, DType::F16, DType::BF16, DType::F64]),
        prop::sample::select(vec![Storage::Raw, Storage::Typed, Storage::External]),
    );
    let sizes = (prop::array::uniform3(1..7_usize), 0..6_usize);
    (layout, scales, stored, sizes).prop_map(|((gemm, slot, trans, opset), (alpha, bias), (dtype, storage), sizes)| {
        let (dims, rank) = sizes;
        let bias = bias.or((opset < 11).then_some((1.0, [false, false])));
        let trans = if opset < 11 && gemm {
            // Transposed data is left alone there.
            let mut only = [false, false];
            only[slot] = trans[slot];
            only
        } else {
            trans
        };
        let rank = 1 + rank % dims[0].min(dims[1]);
        Single { gemm, slot, trans, alpha, bias, opset, dtype, storage, dims, rank }
    })
}

impl Single {
    /// Whether a matrix is stored with rows and columns exchanged.
    fn flipped(&self, slot: usize) -> bool {
        self.gemm && self.trans[slot]
    }

    /// `W`, `m × n`.
    fn weight(&self) -> Array2<f32> {
        Array2::from_shape_fn((self.dims[0], self.dims[1]), |(i, j)| (7 * i + j) as f32 - 5.0)
    }

    /// The weight's tensor for these values of `W`.
    fn tensor(&self, weight: &Array2<f32>) -> Tensor {
        let transposed = (self.slot == 1) != self.flipped(self.slot);
        let stored = if transposed { weight.t().as_standard_layout().into_owned() } else { weight.clone() };
        raw("w", self.dtype, stored.shape(), stored.iter().copied())
    }

    fn model(&self, weight: Tensor) -> Model {
        let [m, _, p] = self.dims;
        let (rows, cols) = if self.slot == 1 { (p, m) } else { (m, p) };
        let inputs = if self.slot == 1 { ["x", "w"] } else { ["w", "x"] };
        let mut initializers = vec![weight];
        let mut linear = node(if self.gemm { "Gemm" } else { "MatMul" }, &inputs, "y").named("linear");
        if self.gemm {
            linear = linear.integer("transA", self.trans[0].into()).integer("transB", self.trans[1].into());
            if let Some(alpha) = self.alpha {
                linear = linear.float("alpha", alpha);
            }
            if let Some((beta, [full_rows, full_cols])) = self.bias {
                linear = linear.float("beta", beta);
                linear.inputs.push("c".into());
                let dims = [if full_rows { rows } else { 1 }, if full_cols { cols } else { 1 }];
                let count = dims[0] * dims[1];
                initializers.push(raw("c", self.dtype, &dims, (0..count).map(|i| i as f32)));
            }
        }
        let [rows, cols] = [rows, cols].map(|size| i64::try_from(size).unwrap());
        let element = crate::support::data_type(self.dtype);
        let outputs = vec![value("y", element, &[rows, cols])];
        model(self.opset, Graph { nodes: vec![linear], initializers, outputs, ..Default::default() })
    }

    /// `x` as the node wants it.
    fn data(&self) -> Array2<f64> {
        let [_, n, p] = self.dims;
        let x = Array2::from_shape_fn((n, p), |(i, j)| (i as f64 - 2.0) * 0.5 + j as f64);
        let upright = (self.slot == 0) != self.flipped(1 - self.slot);
        if upright { x } else { x.reversed_axes() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_factorized_layer_computes_what_the_product_of_its_factors_does(single in single()) {
        let folder = tempfile::tempdir().unwrap();
        let [m, n, _] = single.dims;
        let tensor = match single.storage {
            Storage::Raw => single.tensor(&single.weight()),
            Storage::Typed => single.tensor(&single.weight()).typed(),
            Storage::External => single.tensor(&single.weight()).external(folder.path(), "weights.bin"),
        };
        let case = Case::inside(folder, &single.model(tensor).encode_to_vec());
        let source = case.open();
        prop_assert_eq!(source.read(layer(&*source, "linear")).unwrap(), single.weight());
        prop_assert_eq!(layer(&*source, "linear").dtype, single.dtype);

        let factors = factors(m, n, single.rank);
        let (written, _) = case.rewrite(&[("linear", factors.clone())]);
        let dense = single.model(single.tensor(&factors.left.dot(&factors.right)));
        let inputs = [("x", single.data())];
        let expected = &evaluate(&dense, case.folder.path(), &inputs)["y"];
        let values = evaluate(&written, case.folder.path(), &inputs);
        let error = (&values["y"] - expected).mapv(f64::abs).into_iter().fold(0.0, f64::max);
        prop_assert!(error < 1e-9, "{error}: {written:?}");

        // The shape that is written down for the value between the nodes is the one that it has.
        let inner = &written.graph.as_ref().unwrap().values[0];
        let shape = inner.kind.clone().unwrap().tensor.unwrap().shape.unwrap();
        let dims: Vec<_> = shape.dims.iter().map(|dim| usize::try_from(dim.value.unwrap()).unwrap()).collect();
        prop_assert_eq!(values[&inner.name].shape(), dims.as_slice());
        let again = Case { path: case.output(), folder: case.folder };
        prop_assert_eq!(again.open().layers().len(), 2);
    }
}

#[test]
fn the_two_nodes_stand_in_the_place_of_one() {
    let mut original = small();
    original.main().nodes[0].doc = "of the author".into();
    original.main().nodes[0].metadata = entries(&[("namespace", "encoder")]);
    original.main().nodes[0].unknown = "kept".into();
    original.main().inputs[0].name = "before".into();
    original.main().nodes.insert(0, node("Relu", &["before"], "x"));
    original.main().nodes.push(node("Relu", &["y"], "after"));
    let (written, _) = Case::new(&original).rewrite(&[("linear", factors(3, 4, 2))]);
    let nodes = &written.graph.as_ref().unwrap().nodes;
    let outputs: Vec<_> = nodes.iter().map(|node| node.outputs[0].as_str()).collect();
    assert_eq!(outputs, ["x", "y.inner", "y", "after"]);
    assert_eq!(nodes[1], node("MatMul", &["x", "w.right"], "y.inner").named("linear.right"));
    let mut second = original.main().nodes[1].clone();
    second.inputs = vec!["y.inner".into(), "w.left".into()];
    assert_eq!(nodes[2], second);
}

#[test]
fn new_names_are_none_of_the_models_own() {
    let mut original = small();
    original.main().values = ["w.left", "w.left.2", "y.inner"].map(|name| value(name, FLOAT, &[1])).into();
    let body = Graph { nodes: vec![node("Relu", &["x"], "w.right")], ..Default::default() };
    original.main().nodes.push(node("If", &["x"], "z").named("linear.right").graph("then_branch", body));
    let (written, _) = Case::new(&original).rewrite(&[("linear", factors(3, 4, 2))]);
    let graph = written.graph.unwrap();
    let names: Vec<_> = graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["w.right.2", "w.left.3"]);
    assert_eq!(graph.nodes[0], node("MatMul", &["x", "w.right.2"], "y.inner.2").named("linear.right.2"));
}

#[test]
fn two_layers_of_one_name_get_names_of_their_own() {
    let mut original = small();
    original.main().nodes.push(node("MatMul", &["y", "w2"], "z").named("linear"));
    original.main().nodes.push(node("MatMul", &["z", "w3"], "u").named("linear#2"));
    original.main().initializers.extend([counting("w2", &[3, 3]), counting("w3", &[3, 3])]);
    let source = Case::new(&original).open();
    let names: Vec<_> = source.layers().iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["linear", "linear#2", "linear#2#2"]);
}

#[test]
fn everything_else_is_as_it_was() {
    let mut original = small();
    original.main().nodes.push(node("Relu", &["y"], "z"));
    original.main().initializers.insert(0, counting("other", &[2, 2]));
    original.metadata = entries(&[("author", "someone"), ("calabi", "of an earlier run")]);
    original.unknown = "model".into();
    original.main().unknown = "graph".into();
    original.main().initializers[0].unknown = "tensor".into();
    let (mut written, result) = Case::new(&original).rewrite(&[("linear", factors(3, 4, 1))]);
    let record = written.metadata.pop().unwrap();
    assert_eq!((record.key.as_str(), record.value.as_str()), ("calabi.2", r#"{"ranks":{"linear":1},"version":1}"#));
    let new = written.main();
    assert_eq!(new.initializers[1], raw("w.right", DType::F32, &[4, 1], factors(3, 4, 1).right.into_iter()));
    assert_eq!(new.initializers[2], raw("w.left", DType::F32, &[1, 3], factors(3, 4, 1).left.into_iter()));
    new.nodes = original.main().nodes.clone();
    new.initializers = original.main().initializers.clone();
    new.values.clear();
    assert_eq!(written, original);
    assert_eq!(result.cost.parameters, 4 + 7);
}

#[test]
fn what_is_said_of_the_weights_type_goes_with_it() {
    let mut original = small();
    original.main().values = vec![value("w", FLOAT, &[4, 3]), value("z", FLOAT, &[1])];
    let (written, _) = Case::new(&original).rewrite(&[("linear", factors(3, 4, 1))]);
    let values = written.graph.unwrap().values;
    assert_eq!(values, [value("z", FLOAT, &[1]), value("y.inner", FLOAT, &[-1, 1])]);
}

#[test]
fn what_is_written_weighs_what_is_reported() {
    let case = Case::new(&small());
    let (_, written) = case.rewrite(&[("linear", factors(3, 4, 2))]);
    assert_eq!(written.cost.parameters, 14);
    assert_eq!(written.cost.bytes, std::fs::metadata(case.output()).unwrap().len());
    assert_eq!(written.paths, [case.output()]);
}

/// Declares a rank for the layer of a small model, then writes these factors so many times.
fn misuse(rank: usize, bias: bool, written: &[Factors]) -> FormatError {
    let case = Case::new(&small());
    let source = case.open();
    let layer = layer(&*source, "linear");
    let declared = [Replacement { layer, rank: Rank::new(rank).unwrap(), bias }];
    let mut sink = match source.create(&case.output(), &declared, &WriteOptions::default()) {
        Ok(sink) => sink,
        Err(error) => return error,
    };
    for factors in written {
        if let Err(error) = sink.write(layer, factors) {
            return error;
        }
    }
    sink.finish().unwrap_err()
}

#[test]
fn the_sinks_contract_is_enforced() {
    let good = factors(3, 4, 2);
    let biased = Factors { bias: Some([0.0; 3].into_iter().collect()), ..good.clone() };
    let cases = [
        (misuse(4, false, &[]), "rank is larger"),
        (misuse(2, false, &[]), "not written"),
        (misuse(2, false, &[good.clone(), good.clone()]), "twice"),
        (misuse(2, false, &[factors(3, 4, 1)]), "other shapes"),
        (misuse(2, false, &[biased]), "bias"),
    ];
    for (error, part) in cases {
        assert!(matches!(error, FormatError::Misuse(_)) && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn factors_that_overflow_sixteen_bits_are_an_error() {
    let mut original = small();
    original.main().initializers = vec![raw("w", DType::F16, &[4, 3], [1.0; 12])];
    let case = Case::new(&original);
    let source = case.open();
    let layer = layer(&*source, "linear");
    let declared = [Replacement { layer, rank: Rank::ONE, bias: false }];
    let mut sink = source.create(&case.output(), &declared, &WriteOptions::default()).unwrap();
    let mut large = factors(3, 4, 1);
    large.left[[0, 0]] = 70000.0;
    assert!(sink.write(layer, &large).unwrap_err().to_string().contains("F16 cannot hold"));
}

#[test]
fn a_weight_that_is_not_finite_names_its_tensor() {
    let mut original = small();
    let mut values = [1.0; 12];
    values[5] = f32::NAN;
    original.main().initializers = vec![raw("w", DType::F32, &[4, 3], values)];
    let source = Case::new(&original).open();
    let error = source.read(layer(&*source, "linear")).unwrap_err();
    assert!(matches!(&error, FormatError::NonFinite { row: 2, col: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("tensor w holds NaN"), "{error}");
}
