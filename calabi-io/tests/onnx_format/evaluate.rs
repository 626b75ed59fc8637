//! A tiny reference: runs graphs of `MatMul`, Gemm and Add on matrices, in the order of their nodes.

use std::collections::HashMap;
use std::path::Path;

use calabi_api::DType;
use calabi_api::ndarray::Array2;

use crate::schema::{Model, Node, Tensor};

/// The values of a model by name, given those of its inputs.
pub(crate) fn evaluate(model: &Model, folder: &Path, inputs: &[(&str, Array2<f64>)]) -> HashMap<String, Array2<f64>> {
    let graph = model.graph.as_ref().unwrap();
    let mut values: HashMap<String, Array2<f64>> = inputs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    for tensor in &graph.initializers {
        values.insert(tensor.name.clone(), matrix(tensor, folder));
    }
    for node in &graph.nodes {
        let inputs: Vec<_> = node.inputs.iter().map(|name| &values[name]).collect();
        let output = match node.operator.as_str() {
            "MatMul" => inputs[0].dot(inputs[1]),
            "Gemm" => gemm(node, &inputs),
            "Add" if inputs[0].len() < inputs[1].len() => inputs[1] + inputs[0],
            "Add" => inputs[0] + inputs[1],
            "Identity" => inputs[0].clone(),
            other => panic!("no {other} here"),
        };
        assert!(values.insert(node.outputs[0].clone(), output).is_none(), "defined twice");
    }
    values
}

/// `alpha · A' · B' + beta · C`
fn gemm(node: &Node, inputs: &[&Array2<f64>]) -> Array2<f64> {
    let attribute = |name: &str| node.attributes.iter().find(|attribute| attribute.name == name);
    let flag = |name: &str| attribute(name).is_some_and(|attribute| attribute.integer == Some(1));
    let factor = |name: &str| attribute(name).map_or(1.0, |attribute| f64::from(attribute.float.unwrap()));
    let a = if flag("transA") { inputs[0].t() } else { inputs[0].view() };
    let b = if flag("transB") { inputs[1].t() } else { inputs[1].view() };
    let product = a.dot(&b) * factor("alpha");
    match inputs.get(2) {
        Some(c) => product + *c * factor("beta"),
        None => product,
    }
}

fn matrix(tensor: &Tensor, folder: &Path) -> Array2<f64> {
    let dims: Vec<usize> = tensor.dims.iter().map(|&dim| usize::try_from(dim).unwrap()).collect();
    let shape = match *dims {
        [cols] => (1, cols),
        [rows, cols] => (rows, cols),
        _ => panic!("not a matrix"),
    };
    let dtype = match tensor.data_type {
        1 => DType::F32,
        10 => DType::F16,
        11 => DType::F64,
        16 => DType::BF16,
        other => panic!("no type {other} here"),
    };
    let values = dtype.decode(&tensor.bytes(folder)).map(f64::from).collect();
    Array2::from_shape_vec(shape, values).unwrap()
}
