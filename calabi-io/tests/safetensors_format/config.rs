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

/// What stands under these keys of a configuration.
fn said<'a>(config: &'a Value, keys: &[&str]) -> Vec<&'a Value> {
    keys.iter().map(|key| &config[key]).collect()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_factorized_model_names_itself() {
    let config = r#"{"architectures":["X"],"model_type":"llama","eps":1e-05,"big":123456789012345678901234567890}"#;
    let text = configured(&Place::new(), Some(config));
    let begins = r#"{
  "architectures": ["X"],
  "model_type": "calabi",
  "eps": 1e-05,
  "big": 123456789012345678901234567890,
  "auto_map": {
    "AutoConfig": "modeling_calabi.CalabiConfig",
    "AutoModel": "modeling_calabi.CalabiModel",
"#;
    let ends = r#"
  },
  "transformers_weights": "factors: load them with an Auto class and trust_remote_code=True",
  "calabi": {
    "version": 1,
    "base_model_type": "llama",
    "ranks": {
      "a": 2
    }
  }
}
"#;
    assert!(text.starts_with(begins) && text.ends_with(ends), "{text}");
    let causal = &parsed(&text)["auto_map"]["AutoModelForCausalLM"];
    assert_eq!(causal, "modeling_calabi.CalabiModelForCausalLM");
}

#[test]
fn a_model_without_a_type_or_a_configuration_names_itself_too() {
    let expected = json!({ "version": 1, "base_model_type": null, "ranks": { "a": 2 } });
    for config in [None, Some("{}"), Some(r#"{"model_type":null}"#)] {
        let config = parsed(&configured(&Place::new(), config));
        assert_eq!(said(&config, &["model_type", "calabi"]), [&json!("calabi"), &expected]);
    }
}

#[test]
fn a_factorized_model_can_be_factorized_further() {
    let place = Place::new();
    let first = parsed(&configured(&place, Some(r#"{"model_type":"gpt2"}"#)));
    let source = open(&place.path("out")).unwrap();
    assert_eq!(source.layers().len(), 1);
    place.write("out/modeling_calabi.py", b"of an older version");
    let again = place.path("again");
    write(&*source, &again, &[("b", 3, true)], None);
    let text = fs::read_to_string(again.join("config.json")).unwrap();
    let config = parsed(&text);
    let ranks = json!({ "a": 2, "b": 3 });
    let expected = json!({ "version": 1, "base_model_type": "gpt2", "ranks": ranks, "biases": ["b"],
        "added_biases": ["b"] });
    assert_eq!(said(&config, &["model_type", "calabi"]), [&json!("calabi"), &expected]);
    assert_eq!(config["auto_map"], first["auto_map"]);
    assert_eq!(text.matches("auto_map").count(), 1);
    let file = |folder: &str| fs::read_to_string(place.path(folder).join("modeling_calabi.py")).unwrap();
    assert!(file("again").contains("class CalabiConfig("), "the file is the one that this version knows");
}

#[test]
fn the_modelling_file_goes_where_factors_are() {
    let place = Place::new();
    configured(&place, Some(r#"{"model_type":"gpt2"}"#));
    assert!(place.path("out/modeling_calabi.py").is_file());
    write(&*open(&place.path("g")).unwrap(), &place.path("copy"), &[], None);
    assert!(!place.path("copy/modeling_calabi.py").exists());
    assert_eq!(fs::read(place.path("copy/config.json")).unwrap(), fs::read(place.path("g/config.json")).unwrap());
    write(&*open(&place.path("out")).unwrap(), &place.path("same"), &[], None);
    for file in ["config.json", "modeling_calabi.py"] {
        assert_eq!(fs::read(place.path("same").join(file)).unwrap(), fs::read(place.path("out").join(file)).unwrap());
    }
}

#[test]
fn code_of_the_models_own_stays_known() {
    let place = Place::new();
    let config = r#"{"model_type":"own","transformers_weights":"x.safetensors","auto_map":{"AutoConfig":"c.OwnConfig",
        "AutoModelForOddities":"m.Own","AutoTokenizer":["t.Slow",null]}}"#;
    let own = json!({ "AutoConfig": "c.OwnConfig", "AutoModelForOddities": "m.Own" });
    let text = configured(&place, Some(config));
    let again = place.path("again");
    write(&*open(&place.path("out")).unwrap(), &again, &[("b", 3, false)], None);
    for text in [text, fs::read_to_string(again.join("config.json")).unwrap()] {
        let config = parsed(&text);
        assert_eq!(config["calabi"]["auto_map"], own);
        let map = &config["auto_map"];
        let expected = ["modeling_calabi.CalabiConfig", "modeling_calabi.CalabiModelForOddities"].map(Value::from);
        assert_eq!(said(map, &["AutoConfig", "AutoModelForOddities"]), expected.iter().collect::<Vec<_>>());
        assert_eq!(map["AutoTokenizer"], json!(["t.Slow", null]));
        assert_eq!(text.matches("transformers_weights").count(), 1);
    }
}

#[test]
fn an_auto_map_that_is_none_is_refused() {
    let place = Place::new();
    place.write("g/config.json", br#"{"auto_map": ["modeling_x.X"]}"#);
    place.write("g/model.safetensors", &reference(&[a(), b()]));
    let (problem, _) = refuse(&place.path("g"));
    assert!(problem.starts_with("auto_map: invalid type"), "{problem}");
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
