//! The README's first command, on the model that comes with calabi.

use calabi_tests::{Workplace, root};

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

fn quickstart(work: &Workplace, more: &[&str]) -> calabi_tests::Ran {
    let pipeline = root().join("examples/pipelines/quickstart.toml");
    let output = format!("model.output={}", work.path("digits.small.onnx").display());
    let mut args = vec!["run", pipeline.to_str().unwrap(), "--set", &output];
    args.extend(more);
    work.run(&args)
}

#[test]
fn the_quickstart_shows_size_error_and_accuracy() {
    let work = Workplace::new(PROGRAM);
    let ran = quickstart(&work, &[]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    for word in ["accuracy", "parameters of the model", "size of its files", "measured", "hidden2", "times as fast"] {
        assert!(ran.stdout().contains(word), "{word} is missing:\n{}", ran.stdout());
    }
    assert!(ran.stderr().contains("decompose"), "without a terminal there is a line a layer");
}

#[test]
fn the_quickstart_is_smaller_and_nearly_as_accurate() {
    let work = Workplace::new(PROGRAM);
    let report = quickstart(&work, &["--format", "json"]).json();
    for name in ["version", "input", "output", "parameters", "bytes", "layers"] {
        assert!(report.get(name).is_some(), "`{name}` is pinned");
    }
    let of_a_layer =
        ["name", "shape", "outcome", "rank", "break_even", "because", "predicted_error", "measured_error", "seconds"];
    for name in of_a_layer {
        assert!(report["layers"][1].get(name).is_some(), "`{name}` is pinned");
    }
    let number = |pointer: &str| report.pointer(pointer).and_then(serde_json::Value::as_f64).unwrap();
    assert!(number("/bytes/after") < 0.7 * number("/bytes/before"));
    let size = std::fs::metadata(work.path("digits.small.onnx")).unwrap().len();
    assert_eq!(report["bytes"]["after"], size);
    assert!(number("/verify/accuracy/before") > 0.95);
    assert!(number("/verify/accuracy/after") > number("/verify/accuracy/before") - 0.02);
    let factorized = report["layers"].as_array().unwrap().iter().filter(|l| l["outcome"] == "factorized");
    assert!(factorized.count() >= 1);
}

#[test]
fn at_full_rank_outputs_are_the_originals() {
    let work = Workplace::new(PROGRAM);
    let all = ["rank.kind=fraction", "rank.keep=1.0", "layers.break_even=false", "layers.min_features=1"];
    let mut args: Vec<&str> = all.iter().flat_map(|set| ["--set", set]).collect();
    args.extend(["--format", "json"]);
    let report = quickstart(&work, &args).json();
    let outputs = report["verify"]["outputs"].as_array().unwrap();
    assert!(outputs.iter().all(|output| output["relative_error"].as_f64().unwrap() < 1e-5), "{outputs:?}");
    assert!(report["layers"].as_array().unwrap().iter().all(|layer| layer["outcome"] == "factorized"));
}

#[test]
fn a_gate_that_is_not_met_ends_with_3_and_leaves_the_place_free() {
    let work = Workplace::new(PROGRAM);
    let ran =
        quickstart(&work, &["--set", "rank.kind=fixed", "--set", "rank.rank=1", "--set", "verify.min_agreement=0.999"]);
    assert_eq!(ran.code(), 3, "{}", ran.stderr());
    assert!(ran.stdout().contains("NOT MET"));
    assert_eq!(work.names(), ["digits.small.onnx.failed"]);
}
