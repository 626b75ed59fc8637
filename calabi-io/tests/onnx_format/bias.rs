//! Biases that factors bring: what the model computes with them, where they go, and what stays as it was.

use calabi_api::ndarray::{Array1, Array2, Axis};
use calabi_api::{DType, Factors, FormatError, Rank, Replacement, WriteOptions};
use proptest::prelude::*;
use prost::Message;

use crate::evaluate::evaluate;
use crate::schema::{Graph, Model, Tensor};
use crate::support::{Case, FLOAT, counting, data_type, entries, factors, layer, model, node, raw, small, value};

/// What a model adds to its layer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Added {
    Nothing,
    /// A vector with a number for each output, in this shape: as few dimensions as broadcast, or all two.
    Features {
        two: bool,
    },
    /// A number for each sample, or one for each sample and output.
    Others {
        all: bool,
    },
}

/// What else refers to what is added.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reader {
    None,
    Node,
    Output,
    Caller,
}

#[derive(Debug, Clone)]
struct Biased {
    gemm: bool,
    slot: usize,
    trans: [bool; 2],
    alpha: f32,
    /// None is 1.
    beta: Option<f32>,
    added: Added,
    reader: Reader,
    /// Whether the sum without the bias is an output too, where it has a name.
    seen: bool,
    /// Whether a `MatMul`'s bias is the first input of its `Add`.
    swapped: bool,
    opset: i64,
    dtype: DType,
    /// How the bias is stored: raw, typed, external.
    storage: usize,
    /// Outputs, inputs, samples.
    dims: [usize; 3],
}

fn biased() -> impl Strategy<Value = Biased> {
    let layout = (any::<bool>(), 0..2_usize, any::<[bool; 2]>(), prop::sample::select(vec![7, 9, 11, 13, 22]));
    let scales = (prop::sample::select(vec![1.0, -2.0]), prop::sample::select(vec![None, Some(1.0), Some(0.5)]));
    let added = prop::sample::select(vec![
        Added::Nothing,
        Added::Features { two: false },
        Added::Features { two: true },
        Added::Others { all: false },
        Added::Others { all: true },
    ]);
    let reader = prop::sample::select(vec![Reader::None, Reader::None, Reader::Node, Reader::Output, Reader::Caller]);
    let rest = (prop::bool::weighted(0.2), any::<bool>(), 0..3_usize, prop::array::uniform3(2..6_usize));
    let dtype = prop::sample::select(vec![DType::F32, DType::F16, DType::BF16, DType::F64]);
    (layout, scales, added, reader, dtype, rest).prop_map(|(layout, (alpha, beta), added, reader, dtype, rest)| {
        let ((gemm, slot, mut trans, opset), (seen, swapped, storage, dims)) = (layout, rest);
        let added = if gemm && opset < 11 && added == Added::Nothing { Added::Features { two: true } } else { added };
        if opset < 11 || !gemm {
            trans[1 - slot] = false;
        }
        Biased { gemm, slot, trans, alpha, beta, added, reader, seen, swapped, opset, dtype, storage, dims }
    })
}

impl Biased {
    /// Rows and columns of what is added; outputs lie along the columns where the weight is the second input.
    fn added_dims(&self) -> Option<Vec<usize>> {
        let [m, _, p] = self.dims;
        let (all, features, others) = if self.slot == 1 { ([p, m], [1, m], [p, 1]) } else { ([m, p], [m, 1], [1, p]) };
        match self.added {
            Added::Nothing => None,
            Added::Features { two: false } if self.slot == 1 => Some(vec![m]),
            Added::Features { .. } => Some(features.into()),
            Added::Others { all: true } => Some(all.into()),
            Added::Others { all: false } => Some(others.into()),
        }
    }

    /// Whether the new bias can be added to the values of what the model adds.
    fn is_own(&self) -> bool {
        let features = matches!(self.added, Added::Features { .. });
        let alone = self.reader == Reader::None;
        let plain = if self.gemm { self.beta != Some(0.5) } else { self.slot == 1 && !self.seen };
        features && alone && plain
    }

    fn weight(&self, weight: &Array2<f32>) -> Tensor {
        let transposed = (self.slot == 1) != (self.gemm && self.trans[self.slot]);
        let stored = if transposed { weight.t().as_standard_layout().into_owned() } else { weight.clone() };
        raw("w", self.dtype, stored.shape(), stored.iter().copied())
    }

    fn model(&self, weight: Tensor, added: Option<Tensor>) -> Model {
        let inputs = if self.slot == 1 { ["x", "w"] } else { ["w", "x"] };
        let mut graph = Graph { initializers: vec![weight], ..Default::default() };
        if self.gemm {
            let mut linear = node("Gemm", &inputs, "y").named("linear");
            linear = linear.integer("transA", self.trans[0].into()).integer("transB", self.trans[1].into());
            linear = linear.float("alpha", self.alpha);
            linear = if let Some(beta) = self.beta { linear.float("beta", beta) } else { linear };
            linear.inputs.extend(added.is_some().then(|| "c".to_owned()));
            graph.nodes.push(linear);
        } else if added.is_some() {
            graph.nodes.push(node("MatMul", &inputs, "product").named("linear"));
            graph.nodes.push(node("Add", &if self.swapped { ["c", "product"] } else { ["product", "c"] }, "y"));
        } else {
            graph.nodes.push(node("MatMul", &inputs, "y").named("linear"));
        }
        let element = data_type(self.dtype);
        let [m, _, p] = self.dims.map(|dim| i64::try_from(dim).unwrap());
        let dims = if self.slot == 1 { [p, m] } else { [m, p] };
        graph.outputs.push(value("y", element, &dims));
        let product = value("product", element, &dims);
        let described = if self.seen { &mut graph.outputs } else { &mut graph.values };
        described.push(product);
        if let Some(tensor) = added {
            let described = value("c", element, &tensor.dims);
            match self.reader {
                Reader::None => {}
                Reader::Node => graph.nodes.push(node("Identity", &["c"], "again")),
                Reader::Output => graph.outputs.push(described),
                Reader::Caller => graph.inputs.push(described),
            }
            graph.initializers.push(tensor);
        }
        model(self.opset, graph)
    }

    fn data(&self) -> Array2<f64> {
        let [_, n, p] = self.dims;
        let x = Array2::from_shape_fn((n, p), |(i, j)| (i as f64 - 2.0) * 0.5 + j as f64);
        let upright = (self.slot == 0) != (self.gemm && self.trans[1 - self.slot]);
        if upright { x } else { x.reversed_axes() }
    }
}

fn delta(m: usize) -> Array1<f32> {
    Array1::from_shape_fn(m, |i| 3.0 * i as f32 - 4.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn a_bias_is_added_to_what_the_layer_gives(biased in biased()) {
        let folder = tempfile::tempdir().unwrap();
        let [m, n, _] = biased.dims;
        let added = biased.added_dims().map(|dims| {
            let count = dims.iter().product();
            let tensor = raw("c", biased.dtype, &dims, (0..count).map(|i: usize| i as f32 + 1.0));
            match biased.storage {
                0 => tensor,
                1 => tensor.typed(),
                _ => tensor.external(folder.path(), "weights.bin"),
            }
        });
        let weight = Array2::from_shape_fn((m, n), |(i, j)| (7 * i + j) as f32 - 5.0);
        let original = biased.model(biased.weight(&weight), added.clone());
        let case = Case::inside(folder, &original.encode_to_vec());
        let source = case.open();
        prop_assert_eq!(layer(&*source, "linear").bias, biased.is_own());

        let factors = Factors { bias: Some(delta(m)), ..factors(m, n, 1) };
        let (written, result) = case.rewrite(&[("linear", factors.clone())]);
        let dense = biased.model(biased.weight(&factors.left.dot(&factors.right)), added.clone());
        let inputs = [("x", biased.data())];
        let expected = evaluate(&dense, case.folder.path(), &inputs);
        let values = evaluate(&written, case.folder.path(), &inputs);
        let bias = delta(m).mapv(f64::from).insert_axis(Axis(1 - biased.slot));
        let error = (&values["y"] - &expected["y"] - &bias).mapv(f64::abs).into_iter().fold(0.0, f64::max);
        prop_assert!(error < 1e-9, "{error}: {written:?}");

        // What others see of the model's own bias is what it was.
        if !biased.is_own() && biased.added != Added::Nothing {
            prop_assert_eq!(&values["c"], &expected["c"]);
        }
        let new = if biased.is_own() { 0 } else { m };
        let before = source.totals().cost.parameters;
        prop_assert_eq!(result.cost.parameters, before - (m * n) as u64 + (m + n + new) as u64);

        // Types that are written down are true, and the model is read back as it was reported.
        let graph = written.graph.as_ref().unwrap();
        for value in graph.values.iter().filter(|value| values.contains_key(&value.name)) {
            let shape = value.kind.clone().unwrap().tensor.unwrap().shape.unwrap();
            let dims: Vec<_> = shape.dims.iter().map(|dim| usize::try_from(dim.value.unwrap()).unwrap()).collect();
            prop_assert_eq!(values[&value.name].shape(), dims.as_slice());
        }
        let again = Case { path: case.output(), folder: case.folder };
        prop_assert_eq!(again.open().totals().cost, result.cost);
    }
}

/// `y = x · w + c`, w of shape 4 × 3, with unknown fields.
fn with_add() -> Model {
    let mut model = small();
    let graph = model.main();
    graph.nodes[0].outputs = vec!["product".into()];
    graph.nodes.push(node("Add", &["c", "product"], "y").named("add"));
    graph.nodes[1].unknown = "kept".into();
    graph.initializers.push(Tensor { unknown: "kept".into(), ..counting("c", &[1, 1, 3]) });
    graph.outputs[0] = value("y", FLOAT, &[1, -1, 3]);
    model
}

fn with_bias(bias: &[f32]) -> Factors {
    Factors { bias: Some(Array1::from_vec(bias.to_vec())), ..factors(3, 4, 2) }
}

#[test]
fn the_values_of_an_add_are_replaced_and_nothing_else() {
    let original = with_add();
    let (mut written, _) = Case::new(&original).rewrite(&[("linear", with_bias(&[10.0, 20.0, 40.0]))]);
    let graph = written.main();
    let expected = Tensor { unknown: "kept".into(), ..raw("c", DType::F32, &[1, 1, 3], [7.0, 18.0, 39.0]) };
    assert_eq!(graph.initializers.pop(), Some(expected));
    assert_eq!(graph.nodes.pop().as_ref(), original.graph.as_ref().unwrap().nodes.last());
    assert_eq!((graph.nodes.len(), graph.initializers.len()), (2, 2));
    assert_eq!((&graph.inputs, &graph.outputs), {
        let original = original.graph.as_ref().unwrap();
        (&original.inputs, &original.outputs)
    });
}

#[test]
fn all_bytes_but_the_values_stand_as_they_stood() {
    let case = Case::new(&with_add());
    case.rewrite(&[("linear", with_bias(&[10.0, 20.0, 40.0]))]);
    let with = std::fs::read(case.output()).unwrap();
    std::fs::remove_file(case.output()).unwrap();
    case.rewrite(&[("linear", factors(3, 4, 2))]);
    let without = std::fs::read(case.output()).unwrap();
    let different: Vec<_> = (0..without.len()).filter(|&i| with[i] != without[i]).collect();
    assert_eq!(with.len(), without.len());
    assert!(different.last().unwrap() - different[0] < 12, "{different:?}");
}

#[test]
fn a_new_add_stands_behind_its_layer_and_before_what_follows() {
    let mut original = small();
    original.main().nodes.push(node("MatMul", &["y", "v"], "z").named("next"));
    original.main().initializers.push(counting("v", &[3, 3]));
    original.main().outputs = vec![value("z", FLOAT, &[-1, 3])];
    original.main().values = vec![value("y", FLOAT, &[-1, 3])];
    let next = Factors { bias: Some(delta(3)), ..factors(3, 3, 1) };
    // The later layer first: the order of the nodes does not follow the order of the declarations.
    let replaced = [("next", next), ("linear", with_bias(&[1.0, 2.0, 3.0]))];
    let (written, _) = Case::new(&original).rewrite(&replaced);
    let graph = written.graph.unwrap();
    let outputs: Vec<_> = graph.nodes.iter().map(|node| node.outputs[0].as_str()).collect();
    assert_eq!(outputs, ["y.inner", "y.unbiased", "y", "z.inner", "z.unbiased", "z"]);
    assert_eq!(graph.nodes[2], node("Add", &["y.unbiased", "w.bias"], "y").named("linear.bias"));
    let typed: Vec<_> = graph.values.iter().map(|value| value.name.as_str()).collect();
    assert_eq!(typed, ["y", "z.inner", "z.unbiased", "y.inner", "y.unbiased"]);
    assert!(graph.initializers.contains(&raw("w.bias", DType::F32, &[3], [1.0, 2.0, 3.0])));
}

#[test]
fn attributes_may_fill_in_the_fields_of_all_types() {
    let mut original = small();
    let gemm = &mut original.main().nodes[0];
    gemm.operator = "Gemm".into();
    gemm.inputs.push("c".into());
    let full = |name: &str, float, integer, kind| crate::schema::Attribute {
        name: name.into(),
        float: Some(float),
        integer: Some(integer),
        kind,
        ..Default::default()
    };
    gemm.attributes = vec![full("transB", 0.0, 1, 2), full("beta", 1.0, 0, 1)];
    original.main().initializers = vec![counting("w", &[3, 4]), counting("c", &[3])];
    let source = Case::new(&original).open();
    let layer = layer(&*source, "linear");
    assert_eq!((layer.shape.rows(), layer.shape.cols(), layer.bias), (3, 4, true));
    original.main().nodes[0].attributes[1] = full("beta", 0.5, 1, 1);
    assert!(!Case::new(&original).open().layers()[0].bias);
}

#[test]
fn an_omitted_bias_of_a_gemm_is_named() {
    for omitted in [false, true] {
        let mut original = small();
        let gemm = &mut original.main().nodes[0];
        gemm.operator = "Gemm".into();
        gemm.unknown = "kept".into();
        gemm.inputs.extend(omitted.then(String::new));
        let (written, _) = Case::new(&original).rewrite(&[("linear", with_bias(&[1.0, 2.0, 3.0]))]);
        let nodes = written.graph.unwrap().nodes;
        assert_eq!(nodes[0].inputs, ["x", "w.right"]);
        assert_eq!((nodes[1].inputs.join(" "), nodes[1].unknown.as_str()), ("y.inner w.left w.bias".into(), "kept"));
        assert_eq!(nodes.len(), 2);
    }
}

/// What a sink says to these factors of a declared bias.
fn refusal(model: &Model, factors: &Factors) -> FormatError {
    let case = Case::new(model);
    let source = case.open();
    let layer = layer(&*source, "linear");
    let declared = [Replacement { layer, rank: Rank::new(factors.left.ncols()).unwrap(), bias: true }];
    match source.create(&case.output(), &declared, &WriteOptions::default()) {
        Ok(mut sink) => sink.write(layer, factors).unwrap_err(),
        Err(error) => error,
    }
}

#[test]
fn a_sum_that_the_type_cannot_hold_is_refused() {
    let mut model = with_add();
    model.main().initializers =
        vec![raw("w", DType::F16, &[4, 3], [1.0; 12]), raw("c", DType::F16, &[3], [60000.0; 3])];
    let error = refusal(&model, &with_bias(&[0.0, 0.0, 60000.0]));
    assert!(matches!(error, FormatError::Limit { .. }) && error.to_string().contains("F16 cannot hold"), "{error}");
    model.main().initializers[1] = raw("c", DType::F16, &[3], [0.0, f32::NAN, 0.0]);
    let error = refusal(&model, &with_bias(&[0.0; 3]));
    assert!(error.to_string().contains("tensor c holds NaN"), "{error}");
}

#[test]
fn a_bias_that_cannot_be_broadcast_is_refused_with_a_way_out() {
    let mut old = with_add();
    old.opsets[0].version = 6;
    let error = refusal(&old, &with_bias(&[0.0; 3]));
    assert!(error.to_string().contains("linear: its bias cannot be added: the model is of opset 6"), "{error}");
    assert!(error.help().unwrap().contains("opset 13"));

    let mut unknown = small();
    unknown.main().nodes[0].inputs = vec!["w".into(), "x".into()];
    unknown.main().outputs.clear();
    let error = refusal(&unknown, &Factors { bias: Some(delta(4)), ..factors(4, 3, 2) });
    assert!(error.to_string().contains("how many dimensions"), "{error}");
}

#[test]
fn a_vectors_product_gets_a_vector() {
    let mut model = small();
    model.main().nodes[0].inputs = vec!["w".into(), "x".into()];
    model.main().outputs = vec![value("y", FLOAT, &[4])];
    let (written, _) = Case::new(&model).rewrite(&[("linear", Factors { bias: Some(delta(4)), ..factors(4, 3, 2) })]);
    let bias = written.graph.unwrap().initializers.pop().unwrap();
    assert_eq!((bias.name.as_str(), bias.dims.as_slice()), ("w.bias", &[4][..]));
}

#[test]
fn a_bias_must_have_a_number_for_each_output() {
    let error = refusal(&small(), &with_bias(&[0.0; 4]));
    assert!(matches!(&error, FormatError::Misuse(text) if text.contains("another length")), "{error}");
    let error = refusal(&small(), &factors(3, 4, 2));
    assert!(matches!(&error, FormatError::Misuse(text) if text.contains("lack the bias")), "{error}");
}

#[test]
fn a_bias_that_training_or_quantisation_names_is_left_as_it_is() {
    let mut model = with_add();
    model.training = vec![crate::schema::Training { bindings: entries(&[("c", "updated")]), ..Default::default() }];
    assert!(!Case::new(&model).open().layers()[0].bias);
    let mut model = with_add();
    model.main().annotations = vec![crate::schema::Annotation { tensor: "c".into() }];
    assert!(!Case::new(&model).open().layers()[0].bias);
    assert!(Case::new(&with_add()).open().layers()[0].bias);
}
