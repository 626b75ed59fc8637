//! Factors multiplied out again: names, orientation, configuration, shards, and what is refused.

use std::fs;
use std::path::Path;

use calabi_api::{DType, FormatError, WriteOptions};
use serde_json::Value;

use super::support::{Place, Tensor, open, reference, tensors, write};

fn tensor(name: &str, dims: &[usize]) -> Tensor {
    Tensor::counting(name, DType::F32, dims)
}

fn parsed(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn densify(from: &Path, to: &Path, shard_size: Option<u64>) -> Result<(), FormatError> {
    let mut options = WriteOptions::default();
    options.shard_size = shard_size;
    open(from)?.densify(to, &options).map(drop)
}

/// A folder `g` of this configuration and of `a` with a bias, `b` without, and a norm; `out` has these layers as factors.
fn factorized(place: &Place, config: &str, wanted: &[(&str, usize, bool)]) {
    place.write("g/config.json", config.as_bytes());
    let all =
        [tensor("a.weight", &[6, 8]), tensor("a.bias", &[6]), tensor("b.weight", &[8, 6]), tensor("norm.weight", &[8])];
    place.write("g/model.safetensors", &reference(&all));
    write(&*open(&place.path("g")).unwrap(), &place.path("out"), wanted, None);
}

#[test]
fn configuration_and_names_are_those_of_the_original() {
    let place = Place::new();
    let config =
        r#"{"model_type":"own","eps":1e-05,"auto_map":{"AutoConfig":"c.OwnConfig","AutoTokenizer":["t.Slow",null]}}"#;
    factorized(&place, config, &[("a", 2, false), ("b", 3, false)]);
    densify(&place.path("out"), &place.path("dense"), None).unwrap();
    assert_eq!(parsed(&place.path("dense/config.json")), serde_json::from_str::<Value>(config).unwrap());
    assert!(!place.path("dense/modeling_calabi.py").exists());
    let (original, dense) = ["g", "dense"].map(|name| tensors(&place.path(name).join("model.safetensors"))).into();
    let shapes = |all: &std::collections::BTreeMap<String, Tensor>| -> Vec<_> {
        all.values().map(|tensor| (tensor.name.clone(), tensor.dims.clone(), tensor.dtype)).collect()
    };
    assert_eq!(shapes(&original), shapes(&dense));
    for kept in ["a.bias", "norm.weight"] {
        assert_eq!(original[kept].bytes, dense[kept].bytes);
    }
}

#[test]
fn a_factor_pair_across_shards_becomes_one_weight() {
    let place = Place::new();
    place.write("g/config.json", br#"{"model_type":"llama"}"#);
    place.write("g/model.safetensors", &reference(&[tensor("a.weight", &[6, 8]), tensor("b.weight", &[8, 6])]));
    write(&*open(&place.path("g")).unwrap(), &place.path("out"), &[("a", 2, false), ("b", 3, false)], Some(300));
    assert!(!place.path("out/model.safetensors").exists(), "its parts lie in several shards");
    densify(&place.path("out"), &place.path("dense"), Some(1 << 20)).unwrap();
    let dense = tensors(&place.path("dense/model.safetensors"));
    assert_eq!(dense.keys().collect::<Vec<_>>(), ["a.weight", "b.weight"]);
    write(&*open(&place.path("g")).unwrap(), &place.path("whole"), &[("a", 2, false), ("b", 3, false)], None);
    densify(&place.path("whole"), &place.path("same"), None).unwrap();
    let same = tensors(&place.path("same/model.safetensors"));
    assert!(dense.iter().all(|(name, tensor)| tensor.bytes == same[name].bytes));
}

#[test]
fn a_bias_without_a_place_and_a_model_without_factors_are_refused() {
    let place = Place::new();
    factorized(&place, r#"{"model_type":"llama"}"#, &[("a", 2, true), ("b", 3, true)]);
    let error = densify(&place.path("out"), &place.path("dense"), None).unwrap_err().to_string();
    assert!(error.contains("layer b has a bias"), "{error}");
    let error = densify(&place.path("g"), &place.path("dense"), None).unwrap_err().to_string();
    assert!(error.contains("has no factors"), "{error}");
    assert!(!place.path("dense").exists());
}

#[test]
fn a_file_without_a_configuration_is_known_by_its_pairs() {
    let place = Place::new();
    let file = place.write("m.safetensors", &reference(&[tensor("a.weight", &[6, 8]), tensor("b.weight", &[8, 6])]));
    let small = place.path("small.safetensors");
    write(&*open(&file).unwrap(), &small, &[("a", 2, false)], None);
    densify(&small, &place.path("dense.safetensors"), None).unwrap();
    let dense = tensors(&place.path("dense.safetensors"));
    assert_eq!(dense.keys().collect::<Vec<_>>(), ["a.weight", "b.weight"]);
    assert_eq!(dense["b.weight"].bytes, tensors(&file)["b.weight"].bytes);
}
