//! Weights that stand elsewhere than in an initializer that one product reads, and what becomes of these places.

use calabi_api::ndarray::Array2;
use calabi_api::{DType, Factors, Role};

use crate::schema::{Attribute, Function, Graph, Model, Node, Tensor};
use crate::support::{Case, FLOAT, counting, factors, layer, model, node, raw, small, value};

/// The operators of a graph's nodes, in their order.
fn operators(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.operator.as_str()).collect()
}

fn initializers(graph: &Graph) -> Vec<&str> {
    graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect()
}

/// The small model with this between its weight and its product.
fn through(weight: Tensor, nodes: Vec<Node>) -> Model {
    let mut model = small();
    model.main().initializers = vec![weight];
    model.main().nodes.splice(0..0, nodes);
    model
}

fn rewritten(model: &Model, m: usize, n: usize) -> Graph {
    Case::new(model).rewrite(&[("linear", factors(m, n, 2))]).0.graph.unwrap()
}

/// The values of a tensor as a matrix of so many columns.
fn matrix(tensor: &Tensor, cols: usize) -> Array2<f32> {
    let values: Vec<f32> = DType::F32.decode(tensor.raw.as_ref().unwrap()).collect();
    Array2::from_shape_vec((values.len() / cols, cols), values).unwrap()
}

#[test]
fn a_constants_factors_are_constants_in_its_place() {
    let mut model = small();
    let weight = model.main().initializers.pop().unwrap();
    model.main().nodes.insert(0, node("Constant", &[], "w").named("c").tensor("value", weight));
    let graph = rewritten(&model, 3, 4);
    assert_eq!(operators(&graph), ["Constant", "Constant", "MatMul", "MatMul"]);
    assert!(graph.initializers.is_empty());
    let [right, left] = [0, 1].map(|index| graph.nodes[index].attributes[0].tensor.clone().unwrap());
    let Factors { left: l, right: r, .. } = factors(3, 4, 2);
    assert_eq!((matrix(&right, 2), matrix(&left, 3)), (r.t().to_owned(), l.t().to_owned()));
    assert_eq!([&graph.nodes[0].name, &graph.nodes[1].name], ["c.right", "c.left"]);
}

#[test]
fn what_stood_between_a_weight_and_its_product_is_gone() {
    let turned = through(counting("s", &[3, 4]), vec![node("Identity", &["s"], "i"), node("Transpose", &["i"], "w")]);
    let source = Case::new(&turned).open();
    let read = source.read(layer(&*source, "linear")).unwrap();
    assert_eq!(read, Array2::from_shape_fn((3, 4), |(i, j)| (4 * i + j) as f32 - 3.0));
    let mut turned = turned;
    turned.main().values = vec![value("i", FLOAT, &[3, 4]), value("w", FLOAT, &[4, 3])];
    let graph = rewritten(&turned, 3, 4);
    assert_eq!((operators(&graph), initializers(&graph)), (vec!["MatMul"; 2], vec!["s.right", "s.left"]));
    let values: Vec<_> = graph.values.iter().map(|value| value.name.as_str()).collect();
    assert_eq!(values, ["y.inner"]);
}

#[test]
fn a_shape_goes_with_the_last_node_that_reads_it() {
    let mut shape = raw("shape", DType::F64, &[2], [0.0; 2]);
    (shape.data_type, shape.raw) = (7, Some([4_i64, -1].iter().flat_map(|dim| dim.to_le_bytes()).collect()));
    let mut reshaped = through(counting("s", &[2, 2, 3]), vec![node("Reshape", &["s", "shape"], "w")]);
    reshaped.main().initializers.push(shape);
    assert_eq!(initializers(&rewritten(&reshaped, 3, 4)), ["s.right", "s.left"]);
    reshaped.main().nodes.push(node("Reshape", &["x", "shape"], "z"));
    assert_eq!(initializers(&rewritten(&reshaped, 3, 4)), ["s.right", "s.left", "shape"]);
}

#[test]
fn factors_of_a_cast_weight_are_cast() {
    let half = raw("s", DType::F16, &[4, 3], (0..12).map(|i| i as f32));
    let graph = rewritten(&through(half, vec![node("Cast", &["s"], "w").integer("to", 1)]), 3, 4);
    assert_eq!(operators(&graph), ["Cast", "Cast", "MatMul", "MatMul"]);
    assert!(graph.initializers.iter().all(|tensor| tensor.data_type == 10));
    assert_eq!(graph.nodes[0].attributes[0].integer, Some(1));
}

#[test]
fn all_readers_of_a_weight_read_its_factors() {
    let mut tied = small();
    tied.main().nodes = vec![
        node("Gather", &["w", "ids"], "e").named("embedding"),
        node("Transpose", &["w"], "t"),
        node("MatMul", &["h", "t"], "y").named("linear"),
        node("MatMul", &["g", "t"], "u"),
    ];
    let case = Case::new(&tied);
    let source = case.open();
    let [only] = source.layers() else { panic!("one layer") };
    assert_eq!((only.name.as_str(), only.shape.rows(), only.shape.cols()), ("linear", 4, 3));
    assert!(only.wiring.unseen.as_deref().is_some_and(|why| why.contains("several nodes")));
    let graph = rewritten(&tied, 4, 3);
    assert_eq!(initializers(&graph), ["w.right", "w.left"]);
    // The embedding has them as they are stored; they are turned once, for both products.
    let expected = ["Gather", "MatMul", "Transpose", "Transpose", "MatMul", "MatMul", "MatMul", "MatMul"];
    assert_eq!(operators(&graph), expected);
    assert_eq!(graph.nodes[0].inputs, ["w.left", "ids"]);
    assert_eq!(graph.nodes[1].inputs, ["e.inner", "w.right"]);
}

#[test]
fn initializers_that_must_be_inputs_stay_inputs() {
    let mut old = small();
    old.ir_version = 3;
    old.main().inputs.push(value("w", FLOAT, &[4, 3]));
    let graph = rewritten(&old, 3, 4);
    let expected = [value("x", FLOAT, &[-1, 4]), value("w.right", FLOAT, &[4, 2]), value("w.left", FLOAT, &[2, 3])];
    assert_eq!(graph.inputs, expected);
}

#[test]
fn a_convolution_is_followed_by_one_over_single_places() {
    let conv = node("Conv", &["x", "w", "b"], "y").named("linear").integer("group", 1).float("unknown", 2.0);
    let nodes = vec![conv.clone()];
    let graph = Graph {
        nodes,
        initializers: vec![counting("w", &[3, 2, 2, 1]), counting("b", &[3])],
        outputs: vec![value("y", FLOAT, &[1, 3, 5, 6])],
        ..Default::default()
    };
    let original = model(13, graph);
    let source = Case::new(&original).open();
    assert_eq!((source.layers()[0].role, source.layers()[0].shape.cols()), (Role::Convolution, 4));
    let graph = rewritten(&original, 3, 4);
    let [first, second] = graph.nodes.as_slice() else { panic!("two nodes") };
    let kept = Node { inputs: vec!["x".into(), "w.right".into()], outputs: vec!["y.inner".into()], ..conv };
    assert_eq!(first, &kept);
    assert_eq!(
        (second.inputs.as_slice(), second.outputs.as_slice()),
        (&["y.inner", "w.left", "b"].map(String::from)[..], &["y".to_owned()][..])
    );
    let dims: Vec<_> = graph.initializers.iter().map(|tensor| tensor.dims.clone()).collect();
    assert_eq!(dims, [vec![2, 2, 2, 1], vec![3, 2, 1, 1], vec![3]]);
    assert_eq!(graph.values, [value("y.inner", FLOAT, &[1, 2, 5, 6])]);
}

#[test]
fn a_convolutions_bias_is_added_to_its_own_or_a_new_one() {
    let conv = |bias: Option<&str>| {
        let inputs: Vec<&str> = ["x", "w"].into_iter().chain(bias).collect();
        let nodes = vec![node("Conv", &inputs, "y").named("linear"), node("Relu", &["b"], "z")];
        let nodes = if bias == Some("own") { nodes[..1].to_vec() } else { nodes };
        let initializers = vec![counting("w", &[3, 4, 1]), counting("b", &[3]), counting("own", &[3])];
        let outputs = vec![value("y", FLOAT, &[1, 3, 5])];
        model(13, Graph { nodes, initializers, outputs, ..Default::default() })
    };
    let made = {
        let mut made = conv(Some("b"));
        made.main().nodes.reverse();
        made.main().nodes[1].inputs[2] = "z".into();
        made
    };
    let graph =
        Case::new(&made).rewrite(&[("linear", Factors { bias: Some(vec![1.0; 3].into()), ..factors(3, 4, 2) })]).0;
    let graph = graph.graph.unwrap();
    assert_eq!(operators(&graph), ["Relu", "Conv", "Conv", "Add"]);
    assert_eq!((&graph.nodes[2].inputs[2], &graph.nodes[2].outputs[0]), (&"z".to_owned(), &"y.unbiased".to_owned()));
    assert_eq!(graph.nodes[3].inputs, ["y.unbiased", "w.bias"]);
    assert_eq!(graph.initializers.iter().find(|tensor| tensor.name == "w.bias").unwrap().dims, [3, 1]);

    let added = Factors { bias: Some(vec![10.0, 20.0, 30.0].into()), ..factors(3, 4, 2) };
    for (bias, read, expected) in [
        (None, "w.bias", [10.0, 20.0, 30.0]),
        (Some("b"), "w.bias", [7.0, 18.0, 29.0]),
        (Some("own"), "own", [7.0, 18.0, 29.0]),
    ] {
        let case = Case::new(&conv(bias));
        assert!(case.open().layers()[0].wiring.unseen.is_none());
        let graph = case.rewrite(&[("linear", added.clone())]).0.graph.unwrap();
        assert_eq!(graph.nodes[0].inputs, ["x", "w.right"]);
        assert_eq!(graph.nodes[1].inputs, ["y.inner", "w.left", read]);
        let tensor = graph.initializers.iter().find(|tensor| tensor.name == read).unwrap();
        let values: Vec<f32> = DType::F32.decode(tensor.raw.as_ref().unwrap()).collect();
        assert_eq!((tensor.dims.as_slice(), values.as_slice()), (&[3][..], &expected[..]));
    }
}

#[test]
fn a_convolution_says_what_it_reads_of_its_input() {
    let window = |conv: Node| {
        let initializers = vec![counting("w", &[3, 4, 2, 1])];
        let outputs = vec![value("y", FLOAT, &[-1, 3, -1, -1])];
        let graph = Graph { nodes: vec![conv.named("linear")], initializers, outputs, ..Default::default() };
        Case::new(&model(13, graph)).open().layers()[0].wiring.clone()
    };
    let conv = || node("Conv", &["x", "w"], "y");
    let plain = window(conv());
    assert_eq!((plain.input.as_deref(), plain.window.unwrap().to_string().as_str()), (Some("x"), "2x1"));
    let mut padded = conv();
    padded.attributes = [("pads", vec![1, 0, 2, 0]), ("strides", vec![2, 1])]
        .map(|(name, integers)| Attribute { name: name.into(), integers, kind: 7, ..Default::default() })
        .to_vec();
    let shown = window(padded.clone()).window.unwrap().to_string();
    assert_eq!(shown, "2x1, strides 2x1, padding 1x0 and 2x0");
    padded.attributes[0].integers = vec![-1, 0, 0, 0];
    let cut = window(padded);
    assert_eq!((cut.window, cut.input), (None, None));
    assert!(cut.unseen.unwrap().contains("attributes"));
}

#[test]
fn inner_graphs_and_functions_keep_their_weights() {
    let mut branch = small();
    let body = std::mem::take(branch.main());
    branch.main().nodes = vec![node("If", &["c"], "z").graph("then_branch", body)];
    let graph = rewritten(&branch, 3, 4);
    let body = graph.nodes[0].attributes[0].graph.as_ref().unwrap();
    assert_eq!((operators(body), initializers(body)), (vec!["MatMul"; 2], vec!["w.right", "w.left"]));

    let mut called = small();
    let weight = called.main().initializers.pop().unwrap();
    let nodes = vec![node("Constant", &[], "w").tensor("value", weight), called.main().nodes.remove(0)];
    called.functions.push(Function { name: "f".into(), domain: "own".into(), nodes, ..Default::default() });
    let written = Case::new(&called).rewrite(&[("linear", factors(3, 4, 2))]).0;
    let operators: Vec<_> = written.functions[0].nodes.iter().map(|node| node.operator.as_str()).collect();
    assert_eq!(operators, ["Constant", "Constant", "MatMul", "MatMul"]);
}

#[test]
fn a_batch_of_weights_has_a_factor_for_each_and_one_for_all() {
    let mut batched = small();
    batched.main().initializers = vec![counting("w", &[2, 4, 3])];
    let source = Case::new(&batched).open();
    let read = source.read(layer(&*source, "linear")).unwrap();
    assert_eq!(read, Array2::from_shape_fn((3, 8), |(i, j)| (3 * j + i) as f32 - 3.0));
    let graph = rewritten(&batched, 3, 8);
    let dims: Vec<_> = graph.initializers.iter().map(|tensor| tensor.dims.clone()).collect();
    assert_eq!(dims, [vec![2, 4, 2], vec![2, 3]]);
}

#[test]
fn integers_are_read_as_the_numbers_that_they_stand_for() {
    let integers = |data_type: i32, bytes: Vec<u8>, dims: &[i64]| Tensor {
        name: "q".into(),
        data_type,
        dims: dims.to_vec(),
        raw: Some(bytes),
        ..Default::default()
    };
    let scales = raw("s", DType::F32, &[3], [1.0, 2.0, 4.0]);
    let read = |weight: Tensor, scales: Vec<Tensor>, node: Node| {
        let mut quantised = through(weight, vec![node]);
        quantised.main().initializers.extend(scales);
        let source = Case::new(&quantised).open();
        (source.read(layer(&*source, "linear")).unwrap().t().to_owned(), rewritten(&quantised, 3, 4))
    };
    let dequantise = |inputs: &[&str]| node("DequantizeLinear", inputs, "w");
    let bytes: Vec<u8> = (0..12).map(|i: i8| (i - 6).cast_unsigned()).collect();
    let (weight, graph) =
        read(integers(3, bytes, &[4, 3]), vec![scales.clone()], dequantise(&["q", "s"]).integer("axis", 1));
    let expected = Array2::from_shape_fn((4, 3), |(i, j)| ((3 * i + j) as f32 - 6.0) * [1.0, 2.0, 4.0][j]);
    assert_eq!((weight, initializers(&graph)), (expected, vec!["q.right", "q.left"]));
    assert!(graph.initializers.iter().all(|tensor| tensor.data_type == FLOAT));

    // Four bits each, the low ones first, with zero points, in blocks of two rows.
    let packed: Vec<u8> = (0..6).map(|i| (2 * i) | ((2 * i + 1) << 4)).collect();
    let blocks = raw("s", DType::F32, &[2, 3], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let zero = Tensor { name: "z".into(), ..integers(21, vec![0x21, 0x43, 0x65], &[2, 3]) };
    let blocked = dequantise(&["q", "s", "z"]).integer("axis", 0).integer("block_size", 2);
    let (weight, _) = read(integers(21, packed, &[4, 3]), vec![blocks, zero], blocked);
    let place = |i: usize, j: usize| 3 * (i / 2) + j;
    let expected = Array2::from_shape_fn((4, 3), |(i, j)| {
        ((3 * i + j) as f32 - (place(i, j) + 1) as f32) * (place(i, j) + 1) as f32
    });
    assert_eq!(weight, expected);
}

#[test]
fn a_convolution_of_few_inputs_goes_along_one_axis_after_the_other() {
    let attribute = |name: &str, integers: &[i64]| Attribute {
        name: name.into(),
        integers: integers.to_vec(),
        kind: 7,
        ..Default::default()
    };
    let mut conv = node("Conv", &["x", "w"], "y").named("linear");
    conv.attributes = vec![attribute("pads", &[1, 2, 3, 4]), attribute("strides", &[5, 6])];
    let mut original = small();
    original.main().nodes = vec![conv];
    original.main().initializers = vec![counting("w", &[4, 1, 3, 2])];
    original.main().inputs = vec![value("x", FLOAT, &[1, 1, 20, 30])];
    original.main().outputs = vec![value("y", FLOAT, &[1, 4, 5, 6])];
    let source = Case::new(&original).open();
    // Rows: each output with each row of the kernel; columns: the kernel's.
    let read = source.read(layer(&*source, "linear")).unwrap();
    assert_eq!(read, Array2::from_shape_fn((12, 2), |(i, j)| (2 * i + j) as f32 - 3.0));
    let graph = rewritten(&original, 12, 2);
    let dims: Vec<_> = graph.initializers.iter().map(|tensor| tensor.dims.clone()).collect();
    assert_eq!(dims, [vec![2, 1, 1, 2], vec![4, 2, 3, 1]]);
    let left = factors(12, 2, 2).left;
    let expected = Array2::from_shape_fn((4 * 2, 3), |(mk, i)| left[[3 * (mk / 2) + i, mk % 2]]);
    assert_eq!(matrix(&graph.initializers[1], 3), expected);
    let said = |node: &Node, name: &str| {
        let mut found = node.attributes.iter().filter(|attribute| attribute.name == name);
        let integers = found.next().unwrap().integers.clone();
        assert!(found.next().is_none(), "{name} twice");
        integers
    };
    let [first, second] = graph.nodes.as_slice() else { panic!("two nodes") };
    assert_eq!((said(first, "pads"), said(second, "pads")), (vec![0, 2, 0, 4], vec![1, 0, 3, 0]));
    assert_eq!((said(first, "strides"), said(second, "strides")), (vec![1, 6], vec![5, 1]));
    assert_eq!((said(first, "kernel_shape"), said(second, "kernel_shape")), (vec![1, 2], vec![3, 1]));
    assert_eq!(graph.values, [value("y.inner", FLOAT, &[1, 2, 20, 6])]);
}
