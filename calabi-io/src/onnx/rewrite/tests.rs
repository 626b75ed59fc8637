//! Tests with a lower limit than protobuf's: nobody wants to write 2 GiB to see what happens there.

use std::fs;

use calabi_api::{LayerFormat, LayerSource, Rank};
use prost::Message;

use super::{LIMIT, Place, Plan, Target, plan};
use crate::Onnx;
use crate::file::Input;
use crate::onnx::fields::{graph, model, node, tensor};
use crate::onnx::splice::{Part, Piece, message, message_with_hole};
use crate::onnx::structure::Structure;
use crate::onnx::{Model, external, layers, scan, schema};

/// `y = x · w`, w of shape 40 × 30, and a vector that is small.
fn bytes() -> Vec<u8> {
    let linear = [("x", node::INPUT), ("w", node::INPUT), ("y", node::OUTPUT), ("MatMul", node::OPERATOR)]
        .map(|(text, field)| message(field, text.as_bytes()))
        .concat();
    let body = [message(graph::NODE, &linear), initializer("w", &[40, 30]), initializer("b", &[30])].concat();
    [vec![0x08, 10], message(model::GRAPH, &body), message(model::OPSET, &[0x10, 17])].concat()
}

fn initializer(name: &str, dims: &[i64]) -> Vec<u8> {
    let head = schema::Tensor { dims: dims.into(), data_type: 1, name: name.into(), ..Default::default() };
    let length = 4 * dims.iter().product::<i64>().cast_unsigned();
    let pieces = message_with_hole(graph::INITIALIZER, &head.encode_to_vec(), tensor::RAW, 0, length);
    let bytes = pieces.into_iter().map(|piece| match piece {
        Piece::Bytes(bytes) => bytes,
        Piece::Hole { length, .. } => vec![0; usize::try_from(length).unwrap()],
    });
    bytes.collect::<Vec<_>>().concat()
}

fn open(bytes: &[u8]) -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, bytes).unwrap();
    let input = Input::open(&path).unwrap();
    let mut structure: Structure = scan::scan(&input).unwrap();
    let files = external::resolve(&input, &mut structure).unwrap();
    (folder, Model { input, structure, files })
}

fn planned(model: &Model, limit: u64) -> Result<Plan, calabi_api::FormatError> {
    let found = layers::find(model);
    let target = Target {
        layer: &found.layers[0],
        site: &found.sites[0],
        rank: Rank::new(8).unwrap(),
        bias: None,
        integers: None,
    };
    plan(model, &[target], "small.onnx", limit)
}

fn places(plan: &Plan) -> [Place; 2] {
    [plan.factors[0].right.place, plan.factors[0].left.place]
}

#[test]
fn below_the_limit_weights_stay_inside() {
    let (_folder, model) = open(&bytes());
    let plan = planned(&model, LIMIT).unwrap();
    assert!(plan.store.is_none());
    assert!(places(&plan).iter().all(|place| matches!(place, Place::Hole(_))));
}

#[test]
fn above_the_limit_large_weights_move_outside() {
    let (_folder, model) = open(&bytes());
    let plan = planned(&model, 1000).unwrap();
    assert!(places(&plan).iter().all(|place| matches!(place, Place::Store(_))));
    assert!(plan.layout.length <= 1000 && plan.layout.holes.is_empty());
    // The small vector stays.
    let copied = |part: &Part| matches!(part, Part::Copy { from, .. } if from.len() >= 120);
    assert!(plan.layout.parts.iter().any(copied));
}

#[test]
fn kept_weights_move_outside_as_well() {
    let (folder, model) = open(&bytes());
    let plan = plan(&model, &[], "small.onnx", 1000).unwrap();
    assert_eq!(plan.store.as_ref().unwrap().copies.len(), 1);
    let source: Box<dyn LayerSource> = Onnx::default().open(model.input.path()).unwrap();
    let path = folder.path().join("small.onnx");
    let model = std::sync::Arc::new(model);
    let sink = crate::onnx::sink::Sink::new(model, plan, &path, &[], 0).unwrap();
    let written = calabi_api::LayerSink::finish(Box::new(sink)).unwrap();
    assert_eq!(written.paths.len(), 2);
    let again = Onnx::default().open(&path).unwrap();
    assert_eq!(again.layers(), source.layers());
    assert_eq!(again.read(&again.layers()[0]).unwrap(), source.read(&source.layers()[0]).unwrap());
}

#[test]
fn what_is_too_large_without_weights_is_an_error() {
    let (_folder, model) = open(&bytes());
    let error = planned(&model, 50).unwrap_err();
    assert!(error.to_string().contains("and protobuf allows 50"), "{error}");
}
