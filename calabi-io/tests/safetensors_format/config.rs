//! `config.json`: how a factorized model names itself, and what is refused.

use std::fs;
use std::path::Path;

use calabi_api::DType;
use serde_json::{Value, json};

use super::support::{Place, Tensor, open, reference, refused, write};

fn a() -> Tensor {
    Tensor::counting("a.weight", DType::F32, &[6, 8])
}

fn b() -> Tensor {
    Tensor::counting("b.weight", DType::F32, &[8, 6])
}

fn refuse(path: &Path) -> (String, String) {
    refused(&open(path).expect_err("the folder should be refused"))
}

/// A folder of one file with this configuration, and what its output says of itself once `a` has rank 2.
fn configured(place: &Place, config: Option<&str>) -> String {
    if let Some(config) = config {
        place.write("g/config.json", config.as_bytes());
    }
    place.write("g/model.safetensors", &reference(&[a(), b()]));
    let output = place.path("out");
    write(&*open(&place.path("g")).unwrap(), &output, &[("a", 2, false)], None);
    fs::read_to_string(output.join("config.json")).unwrap()
}

#[test]
fn a_factorized_model_names_itself() {
    let config = r#"{"architectures":["X"],"model_type":"llama","eps":1e-05,"big":123456789012345678901234567890}"#;
    let expected = r#"{
  "architectures": ["X"],
  "model_type": "calabi",
  "eps": 1e-05,
  "big": 123456789012345678901234567890,
  "calabi": {
    "version": 1,
    "base_model_type": "llama",
    "ranks": {
      "a": 2
    }
  }
}
"#;
    assert_eq!(configured(&Place::new(), Some(config)), expected);
}

#[test]
fn a_model_without_a_type_or_a_configuration_names_itself_too() {
    let expected = json!({
        "model_type": "calabi",
        "calabi": { "version": 1, "base_model_type": null, "ranks": { "a": 2 } }
    });
    for config in [None, Some("{}"), Some(r#"{"model_type":null}"#)] {
        let text = configured(&Place::new(), config);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected, "{config:?}");
    }
}

#[test]
fn a_factorized_model_can_be_factorized_further() {
    let place = Place::new();
    configured(&place, Some(r#"{"model_type":"gpt2"}"#));
    let source = open(&place.path("out")).unwrap();
    assert_eq!(source.layers().len(), 1);
    let again = place.path("again");
    write(&*source, &again, &[("b", 3, false)], None);
    let config: Value = serde_json::from_slice(&fs::read(again.join("config.json")).unwrap()).unwrap();
    let expected = json!({ "version": 1, "base_model_type": "gpt2", "ranks": { "a": 2, "b": 3 } });
    assert_eq!((&config["model_type"], &config["calabi"]), (&json!("calabi"), &expected));
}

#[test]
fn a_configuration_that_is_none_is_refused() {
    for (config, wrong) in [
        ("", "EOF"),
        ("[]", "invalid type"),
        (r#"{"model_type":"a","model_type":"b"}"#, "the key model_type stands there twice"),
        (r#"{"model_type":1}"#, "model_type: invalid type"),
        (r#"{"model_type":"calabi"}"#, "its model_type is calabi, but it has no `calabi` with the ranks"),
        (r#"{"calabi":{"version":2}}"#, "calabi: its version is 2, and this program knows 1"),
        (r#"{"calabi":{"version":1}}"#, "calabi: its ranks are missing"),
        (r#"{"eps": Infinity}"#, "expected value"),
    ] {
        let place = Place::new();
        place.write("g/config.json", config.as_bytes());
        place.write("g/model.safetensors", &reference(&[a()]));
        let (problem, _) = refuse(&place.path("g"));
        assert!(problem.starts_with(wrong), "{config}: {problem}");
    }
}
