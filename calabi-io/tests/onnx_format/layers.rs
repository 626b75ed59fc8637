//! Which weights are layers, and why the others are not.

use crate::schema::{Annotation, Function, Graph, Model, Opset, Sparse, Training};
use crate::support::{Case, FLOAT, INT8, counting, entries, left_alone, model, node, raw, small, value};
use calabi_api::{DType, Role, Wiring};

#[test]
fn a_layer_is_told_by_name_shape_and_cost() {
    let source = Case::new(&small()).open();
    let [layer] = source.layers() else { panic!("one layer") };
    assert_eq!((layer.name.as_str(), layer.shape.rows(), layer.shape.cols()), ("linear", 3, 4));
    assert_eq!((layer.dtype, layer.role), (DType::F32, Role::Linear));
    assert_eq!((layer.cost.dense.parameters, layer.cost.dense.bytes), (12, 48));
    assert_eq!((layer.cost.per_rank.parameters, layer.cost.fixed.parameters), (7, 0));
    assert!(source.left_alone().is_empty());
}

#[test]
fn a_layer_is_wired_by_the_names_of_its_values() {
    let mut model = small();
    model.main().nodes[0].operator = "Gemm".into();
    let wiring = |model: &Model| Case::new(model).open().layers()[0].wiring.clone();
    let [weight, x, y] = ["w", "x", "y"].map(str::to_owned);
    let expected = Wiring { weight, input: Some(x), output: Some(y), ..Wiring::default() };
    assert_eq!(wiring(&model), expected);
    // Gemm, its data transposed: its features lie along the first axis.
    model.main().nodes[0] = node("Gemm", &["x", "w"], "y").integer("transA", 1);
    let unseen = Some("its node reads its input transposed".to_owned());
    let along_the_first = Wiring { input: None, unseen, ..expected.clone() };
    assert_eq!(wiring(&model), along_the_first);
    model.main().nodes[0] = node("Gemm", &["w", "x"], "y");
    assert_eq!(wiring(&model), along_the_first);
    model.main().nodes[0] = node("Gemm", &["w", "x"], "y").integer("transB", 1);
    assert_eq!(wiring(&model), expected);
    model.main().nodes[0] = node("MatMul", &["w", "x"], "y");
    assert_eq!(wiring(&model), along_the_first);
}

#[test]
fn a_layer_without_a_node_name_has_its_weights() {
    let mut model = small();
    model.main().nodes[0].name.clear();
    assert_eq!(Case::new(&model).open().layers()[0].name, "w");
}

/// The only weight of a small model after a change, and why it is left alone.
fn why(change: impl FnOnce(&mut Model)) -> String {
    let mut model = small();
    change(&mut model);
    let left = left_alone(&model);
    let [(_, why)] = left.as_slice() else { panic!("{left:?}") };
    why.clone()
}

#[test]
fn weights_that_are_used_elsewhere_are_left_alone() {
    let second = |model: &mut Model| model.main().nodes.push(node("Relu", &["w"], "z"));
    assert!(why(second).contains("1 more readers"));
    let captured = |model: &mut Model| {
        let body = Graph { nodes: vec![node("Relu", &["w"], "z")], ..Default::default() };
        model.main().nodes.push(node("If", &["y"], "u").graph("else_branch", body));
    };
    assert!(why(captured).contains("1 more readers"));
    assert!(why(|model| model.main().outputs.push(value("w", FLOAT, &[4, 3]))).contains("an output of a graph"));
    assert!(why(|model| model.main().inputs.push(value("w", FLOAT, &[4, 3]))).contains("an input of the model"));
    let annotated = |model: &mut Model| model.main().annotations.push(Annotation { tensor: "w".into() });
    assert!(why(annotated).contains("quantisation annotation"));
    let trained = |model: &mut Model| {
        model.training.push(Training { bindings: entries(&[("w", "updated")]), ..Default::default() });
    };
    assert!(why(trained).contains("training"));
    assert!(why(|model| model.main().nodes[0].devices = entries(&[("d", "")])).contains("devices"));
}

#[test]
fn weights_from_elsewhere_are_left_alone() {
    for (operator, part) in [("Relu", "through Relu"), ("Cast", "Cast to integers"), ("Reshape", "shape is not known")]
    {
        let why = why(|model| {
            let graph = model.main();
            graph.initializers[0].name = "w0".into();
            graph.nodes.insert(0, node(operator, &["w0"], "w"));
        });
        assert!(why.contains(part), "{why}");
    }
    let computed = |model: &mut Model| {
        let graph = model.main();
        graph.initializers[0].name = "w0".into();
        graph.initializers.push(counting("w1", &[1, 1]));
        graph.nodes.insert(0, node("Add", &["w0", "w1"], "w"));
    };
    assert!(why(computed).contains("through Add"));
    let sparse = |model: &mut Model| {
        let graph = model.main();
        graph.initializers.clear();
        let mut indices = raw("", DType::F64, &[1], [0.0]);
        indices.data_type = 7;
        graph.sparse = vec![Sparse { values: Some(counting("w", &[1])), indices: Some(indices), dims: vec![4, 3] }];
    };
    assert!(why(sparse).contains("sparse"));
}

#[test]
fn a_function_of_the_model_hides_the_standards_operator() {
    let hidden = |model: &mut Model| model.functions.push(Function { name: "MatMul".into(), ..Default::default() });
    assert!(why(hidden).contains("functions"));
}

#[test]
fn weights_of_other_shapes_and_types_are_left_alone() {
    assert!(why(|model| model.main().initializers[0] = counting("w", &[0, 3])).contains("empty"));
    let whole = |model: &mut Model| {
        let weight = &mut model.main().initializers[0];
        weight.data_type = INT8;
        weight.raw = Some(vec![1; 12]);
    };
    assert!(why(whole).contains("stored as INT8"));
    let folded = |model: &mut Model| model.main().initializers.push(counting("x", &[2, 4]));
    let mut model = small();
    folded(&mut model);
    model.main().inputs.clear();
    assert!(left_alone(&model).iter().all(|(_, why)| why.contains("constant")));
    assert_eq!(left_alone(&model).len(), 2);
}

#[test]
fn other_operators_with_weights_are_left_alone() {
    let table = [
        ("", "Conv", 1, "has 2 dimensions"),
        ("", "DeformConv", 1, "deformable"),
        ("", "MatMulInteger", 1, "quantised"),
        ("", "QLinearMatMul", 3, "quantised"),
        ("", "LSTM", 1, "recurrent"),
        ("", "GRU", 2, "recurrent"),
        ("", "Einsum", 1, "without an equation"),
        ("com.microsoft", "MatMulNBits", 1, "quantised"),
        ("com.microsoft", "FusedConv", 1, "fused"),
        ("com.microsoft", "Attention", 1, "fused"),
        ("somebody", "Unheard", 2, "not known"),
    ];
    for (domain, operator, slot, part) in table {
        let why = why(|model| {
            let node = &mut model.main().nodes[0];
            node.domain = domain.into();
            node.operator = operator.into();
            node.inputs = (0..slot + 2).map(|i| if i == slot { "w".into() } else { format!("x{i}") }).collect();
        });
        assert!(why.contains(part), "{operator}: {why}");
    }
}

#[test]
fn transposed_data_before_optional_bias_is_left_alone() {
    let gemm = |opset| {
        let nodes = vec![node("Gemm", &["x", "w", "c"], "y").integer("transA", 1)];
        let initializers = vec![counting("w", &[4, 3]), counting("c", &[3])];
        left_alone(&model(opset, Graph { nodes, initializers, ..Default::default() }))
    };
    assert!(gemm(10)[0].1.contains("opset 11"));
    assert!(gemm(11).is_empty());
}

#[test]
fn what_is_left_alone_is_told_by_dimensions_and_type() {
    let mut model = small();
    model.main().nodes[0] = node("Conv", &["x", "w"], "y").named("linear").integer("group", 2);
    model.main().initializers[0] = raw("w", DType::BF16, &[2, 2, 1, 3], [0.0; 12]);
    model.opsets.push(Opset { domain: "ai.onnx.ml".into(), version: 1 });
    let source = Case::new(&model).open();
    let [left] = source.left_alone() else { panic!("one weight") };
    assert_eq!(
        (left.name.as_str(), left.dims.as_slice(), left.dtype.as_str()),
        ("linear", &[2, 2, 1, 3][..], "BFLOAT16")
    );
}
