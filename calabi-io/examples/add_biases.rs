//! Gives every layer of a model factors that are the weight itself, and a bias; prints what the format says of each layer.
//!
//! `cargo run -p calabi-io --example add_biases -- MODEL OUTPUT`; `tests/python/check_biases.py` checks what comes out.
//! Output `i` of a layer gets `0.01 ((7 i) mod 13 − 6)` more.

use std::error::Error;
use std::path::PathBuf;

use calabi_api::ndarray::{Array1, Array2};
use calabi_api::{Factors, Layer, LayerFormat, LayerSource, Replacement, WriteOptions};
use calabi_io::{Onnx, SafeTensors};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(model), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: add_biases MODEL OUTPUT".into());
    };
    let formats: [&dyn LayerFormat; 2] = [&SafeTensors {}, &Onnx::default()];
    let format = formats.into_iter().find(|format| format.detect(&model)).ok_or("of neither format")?;
    let source = format.open(&model)?;
    for layer in source.layers() {
        println!("{}", described(&*source, layer)?);
    }
    let rank = |layer: &Layer| layer.shape.full_rank();
    let replaced: Vec<_> =
        source.layers().iter().map(|layer| Replacement { layer, rank: rank(layer), bias: true }).collect();
    let mut sink = source.create(&output, &replaced, &WriteOptions::default())?;
    for layer in source.layers() {
        sink.write(layer, &biased(source.read(layer)?))?;
    }
    sink.finish()?;
    Ok(())
}

fn described(source: &dyn LayerSource, layer: &Layer) -> Result<serde_json::Value, Box<dyn Error>> {
    let norm = source.normalisation(layer)?;
    let wiring = &layer.wiring;
    Ok(json!({
        "name": layer.name,
        "weight": wiring.weight,
        "input": wiring.input,
        "output": wiring.output,
        "bias": layer.bias,
        "gamma": norm.as_ref().map(|norm| norm.gamma.to_vec()),
        "beta": norm.and_then(|norm| norm.beta).map(|beta| beta.to_vec()),
    }))
}

/// The weight times the identity, or the identity times the weight.
fn biased(weight: Array2<f32>) -> Factors {
    let (m, n) = weight.dim();
    let bias = Some(Array1::from_shape_fn(m, |i| 0.01 * ((7 * i % 13) as f32 - 6.0)));
    if n <= m {
        Factors { left: weight, right: Array2::eye(n), bias }
    } else {
        Factors { left: Array2::eye(m), right: weight, bias }
    }
}
