//! Whole models through the library, as a Rust program compresses them.

use std::fs;
use std::path::Path;
use std::process::Command;

use calabi::api::FormatError;
use calabi::api::settings::Fraction;
use calabi::nn::LowRankLinear;
use calabi::nn::candle_core::{DType, Device, Module, Tensor};
use calabi::nn::candle_nn::{self, VarBuilder, VarMap};
use calabi::{Compression, Error, Outcome, Pattern, Report, Silent, compress_hf_model, compress_model};
use calabi_tests::{Workplace, root};
use safetensors::SafeTensors;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

fn share(value: f64) -> Fraction {
    Fraction::new(value).unwrap()
}

fn replaced(report: &Report) -> Vec<&str> {
    let factorized = report.layers.iter().filter(|layer| layer.outcome == Outcome::Factorized);
    factorized.map(|layer| layer.name.as_str()).collect()
}

/// A network of two layers whose variables are in a map.
fn network(vars: &VarMap) -> (candle_nn::Linear, candle_nn::Linear) {
    let builder = VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu);
    let first = candle_nn::linear(64, 96, builder.pp("first")).unwrap();
    (first, candle_nn::linear(96, 32, builder.pp("second")).unwrap())
}

fn names(vars: &VarMap) -> Vec<String> {
    let mut names: Vec<String> = vars.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    names
}

#[test]
fn variables_become_factors_and_compute_nearly_the_same() {
    let vars = VarMap::new();
    let (first, _) = network(&vars);
    let report = compress_model(&vars, Compression::fraction(share(1.0)).with_min_features(64), &Silent).unwrap();
    assert_eq!(replaced(&report), ["first"], "the second has too few outputs");
    assert_eq!(
        names(&vars),
        ["first.left.bias", "first.left.weight", "first.right.weight", "second.bias", "second.weight"]
    );
    let part = |name: &str| vars.data().lock().unwrap()[&format!("first.{name}")].as_tensor().clone();
    let [left, right, bias] = ["left.weight", "right.weight", "left.bias"].map(part);
    let factorized = LowRankLinear::new(left, right, Some(bias)).unwrap();
    let x = Tensor::randn(0_f32, 1.0, (7, 64), &Device::Cpu).unwrap();
    let apart = (first.forward(&x).unwrap() - factorized.forward(&x).unwrap()).unwrap().abs().unwrap();
    let largest = apart.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(largest < 1e-4, "full rank is exact: {largest}");
}

#[test]
fn a_failure_changes_no_variable() {
    let vars = VarMap::new();
    network(&vars);
    let before = names(&vars);
    let nothing = Compression::keep(share(0.5)).with_include(vec![Pattern::new("no such layer").unwrap()]);
    compress_model(&vars, nothing, &Silent).unwrap_err();
    assert_eq!(names(&vars), before);
}

/// A copy of a tiny checkpoint whose head is its own.
fn untied(work: &Workplace) {
    let folder = root().join("calabi-nn/tests/models/llama");
    work.write("model/config.json", fs::read(folder.join("config.json")).unwrap());
    work.write("model/model.safetensors", fs::read(folder.join("model.safetensors")).unwrap());
}

#[test]
fn a_checkpoint_keeps_its_head() {
    let work = Workplace::new(PROGRAM);
    untied(&work);
    let (model, [small, all]) = (work.path("model"), ["small", "all"].map(|name| work.path(name)));
    let report = compress_hf_model(&model, &small, Compression::fraction(share(0.5)), &Silent).unwrap();
    let blocks = replaced(&report).len();
    assert!(blocks > 0 && replaced(&report).iter().all(|name| name.contains("layers.")), "{:?}", replaced(&report));
    let everything = Compression::fraction(share(0.5));
    let report = compress_model((model.as_path(), all.as_path()), everything, &Silent).unwrap();
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let has_head = SafeTensors::deserialize(&bytes).unwrap().names().contains(&"lm_head.weight");
    assert_eq!(replaced(&report).len(), blocks + usize::from(has_head));
    assert!(has_head, "the fixture's head is its own: nothing is proven otherwise");
}

#[test]
fn what_is_no_checkpoint_folder_is_refused() {
    let work = Workplace::new(PROGRAM);
    let digits = root().join("examples/quickstart/digits.safetensors");
    let error = compress_hf_model(digits, work.path("out"), Compression::keep(share(0.5)), &Silent).unwrap_err();
    assert!(error.to_string().contains("no config.json"), "{error}");
    work.write("torch/config.json", "{}");
    work.write("torch/pytorch_model.bin", "PK");
    let torch = work.path("torch");
    let error = compress_hf_model(torch, work.path("out"), Compression::keep(share(0.5)), &Silent).unwrap_err();
    let Error::Input { source: FormatError::Malformed { problem, help, .. }, .. } = &error else { panic!("{error:?}") };
    assert!(problem.contains("pytorch_model.bin"), "{problem}");
    assert!(help.as_ref().is_some_and(|help| help.contains("save_pretrained")), "{help:?}");
    assert_eq!(work.names(), ["torch"]);
}

/// Runs the program with a Hugging Face cache of its own.
fn with_cache(work: &Workplace, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(PROGRAM);
    command.args(args).current_dir(work.path(".")).env("HF_HUB_CACHE", work.path("cache"));
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_model_of_the_hub_is_found_in_the_cache() {
    const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";
    let work = Workplace::new(PROGRAM);
    let folder = root().join("calabi-nn/tests/models/llama");
    let snapshot = format!("cache/models--org--tiny/snapshots/{COMMIT}");
    // As the hub's libraries lay it out: a snapshot of links to blobs.
    fs::create_dir_all(work.path(&snapshot)).unwrap();
    for name in ["config.json", "model.safetensors"] {
        work.write(&format!("cache/models--org--tiny/blobs/{name}"), fs::read(folder.join(name)).unwrap());
        let blob = Path::new("../../blobs").join(name);
        std::os::unix::fs::symlink(blob, work.path(&snapshot).join(name)).unwrap();
    }
    work.write("cache/models--org--tiny/refs/main", COMMIT);
    let pipeline = |name: &str| {
        let rank = "[rank]\nkind = \"budget\"\nkeep = 0.5\n";
        work.write("p.toml", format!("[model]\ninput = \"{name}\"\noutput = \"small\"\n{rank}"));
    };
    pipeline("hf:org/tiny");
    let (code, said) = with_cache(&work, &["run", "p.toml"]);
    assert_eq!(code, 0, "{said}");
    let config: Value = serde_json::from_slice(&fs::read(work.path("small/config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "calabi");
    pipeline("hf:org/other@v2");
    let (code, said) = with_cache(&work, &["run", "p.toml", "--force"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("hf download org/other --revision v2") && said.contains("p.toml:2"), "{said}");
    assert_eq!(with_cache(&work, &["inspect", "hf:org/tiny"]).0, 0);
    assert_eq!(with_cache(&work, &["init", "hf:org/tiny@main", "-o", "made.toml"]).0, 0);
    let made = fs::read_to_string(work.path("made.toml")).unwrap();
    assert!(made.contains("input = \"hf:org/tiny@main\"\noutput = \"tiny-small\""), "{made}");
}
