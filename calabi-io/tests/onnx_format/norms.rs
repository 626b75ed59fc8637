//! Which normalisation stands before a layer.

use calabi_api::{DType, Normalisation};

use crate::schema::{Model, Node, Tensor};
use crate::support::{Case, counting, node, raw, small};

const GAMMA: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const BETA: [f32; 4] = [0.5, 0.25, -1.0, 8.0];

/// A small model whose `x` is made by these nodes of `h`, with `gamma` and `beta`.
fn behind(nodes: Vec<Node>, tensors: Vec<Tensor>) -> Model {
    let mut model = small();
    model.main().inputs[0].name = "h".into();
    model.main().nodes.splice(0..0, nodes);
    model.main().initializers.extend(tensors);
    model
}

fn norm(model: &Model) -> Option<Normalisation> {
    let source = Case::new(model).open();
    let layer = source.layers().iter().find(|layer| layer.name == "linear").unwrap();
    source.normalisation(layer).unwrap()
}

fn gamma(dtype: DType, dims: &[usize]) -> Tensor {
    raw("gamma", dtype, dims, GAMMA)
}

fn beta() -> Tensor {
    raw("beta", DType::F32, &[4], BETA)
}

fn expected(beta: bool) -> Normalisation {
    Normalisation { gamma: GAMMA.into_iter().collect(), beta: beta.then(|| BETA.into_iter().collect()) }
}

#[test]
fn a_node_of_its_own() {
    for operator in ["LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"] {
        let tensors = vec![gamma(DType::F32, &[4]), beta()];
        assert_eq!(norm(&behind(vec![node(operator, &["h", "gamma"], "x")], tensors.clone())), Some(expected(false)));
        let with_beta = node(operator, &["h", "gamma", "beta"], "x");
        assert_eq!(norm(&behind(vec![with_beta], tensors)), Some(expected(true)), "{operator}");
    }
}

#[test]
fn a_scale_and_a_shift_for_each_feature() {
    for dims in [&[4][..], &[1, 1, 4]] {
        let tensors = vec![gamma(DType::BF16, dims), beta()];
        for (mul, add) in [(["u", "gamma"], ["v", "beta"]), (["gamma", "u"], ["beta", "v"])] {
            let start = node("Relu", &["h"], "u");
            let scaled = |output| node("Mul", &mul, output);
            let shift = node("Add", &add, "x");
            let both = vec![start.clone(), scaled("v"), shift];
            assert_eq!(norm(&behind(both, tensors.clone())), Some(expected(true)));
            assert_eq!(norm(&behind(vec![start, scaled("x")], tensors.clone())), Some(expected(false)));
        }
    }
    // From a Constant node.
    let constant = node("Constant", &[], "gamma").tensor("value", raw("", DType::F32, &[4], GAMMA));
    assert_eq!(norm(&behind(vec![constant, node("Mul", &["h", "gamma"], "x")], Vec::new())), Some(expected(false)));
}

#[test]
fn anything_else_is_none() {
    let table: Vec<(Vec<Node>, Vec<Tensor>)> = vec![
        (vec![], vec![]),
        (vec![node("Relu", &["h"], "x")], vec![]),
        (vec![node("Add", &["h", "beta"], "x")], vec![beta()]),
        (vec![node("Mul", &["h", "gamma"], "x")], vec![raw("gamma", DType::F32, &[1], [2.0])]),
        (vec![node("Mul", &["h", "gamma"], "x")], vec![counting("gamma", &[4, 1])]),
        (vec![node("Mul", &["h", "g"], "x")], vec![]),
        (vec![node("LayerNormalization", &["h", "gamma"], "x")], vec![counting("gamma", &[3])]),
        (vec![node("LayerNormalization", &["h", "g"], "x")], vec![]),
        (vec![node("LayerNormalization", &["h", "gamma", "b"], "x")], vec![gamma(DType::F32, &[4])]),
    ];
    for (nodes, tensors) in table {
        assert_eq!(norm(&behind(nodes.clone(), tensors)), None, "{nodes:?}");
    }
    let mut foreign = node("LayerNormalization", &["h", "gamma"], "x");
    foreign.domain = "own".into();
    assert_eq!(norm(&behind(vec![foreign], vec![gamma(DType::F32, &[4])])), None);
}

#[test]
fn features_along_another_axis_have_none() {
    let mut model = behind(vec![node("Mul", &["h", "gamma"], "x")], vec![gamma(DType::F32, &[4])]);
    model.main().nodes[1] = node("Gemm", &["x", "w"], "y").named("linear").integer("transA", 1);
    assert_eq!(norm(&model), None);
}

#[test]
fn a_norm_that_is_not_finite_names_its_tensor() {
    let tensor = raw("gamma", DType::F32, &[4], [1.0, f32::INFINITY, 1.0, 1.0]);
    let source = Case::new(&behind(vec![node("Mul", &["h", "gamma"], "x")], vec![tensor])).open();
    let error = source.normalisation(&source.layers()[0]).unwrap_err();
    assert!(error.to_string().contains("tensor gamma holds inf"), "{error}");
}
