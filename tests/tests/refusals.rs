//! Bad input is refused with a message that points at the line and names the way out, and nothing is written.

use calabi_tests::{Ran, Workplace, decaying};
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

const PIPELINE: &str = "\
[model]
input = \"model.safetensors\"
output = \"small.safetensors\"

[layers]
include = [\"*\"]

[rank]
kind = \"energy\"
threshold = 0.9
";

fn workplace() -> Workplace {
    let work = Workplace::new(PROGRAM);
    let weight = decaying(40, 60, 0.8, 3);
    work.model("model.safetensors", Dtype::F32, &[("a.weight", weight.clone()), ("b.weight", weight)]);
    work
}

/// Runs a pipeline that must be refused, and checks that nothing is left behind.
fn refused(work: &Workplace, pipeline: &str, code: i32, line: &str, words: &[&str]) -> Ran {
    work.write("p.toml", pipeline);
    let before = work.names();
    let ran = work.run(&["run", "p.toml"]);
    let message = ran.stderr();
    assert_eq!(ran.code(), code, "{message}");
    assert_eq!(ran.stdout(), "");
    assert_eq!(work.names(), before, "nothing is written, and nothing is lost");
    assert!(message.contains(line), "`{line}` is not shown:\n{message}");
    for word in words {
        assert!(message.contains(word), "`{word}` is missing:\n{message}");
    }
    ran
}

#[test]
fn what_is_refused_is_otherwise_run() {
    let work = workplace();
    work.write("p.toml", PIPELINE);
    let ran = work.run(&["run", "p.toml"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!(work.names(), ["model.safetensors", "p.toml", "small.safetensors"]);
}

#[test]
fn an_unknown_kind_is_answered_with_the_nearest() {
    let pipeline = PIPELINE.replace("\"energy\"", "\"enrgy\"");
    let words = ["unknown rank rule `enrgy`", "did you mean `energy`?", "spectral-gap", "p.toml:9"];
    refused(&workplace(), &pipeline, 2, "kind = \"enrgy\"", &words);
}

#[test]
fn a_misspelt_setting_is_answered_with_the_nearest() {
    let pipeline = PIPELINE.replace("threshold", "treshold");
    refused(&workplace(), &pipeline, 2, "treshold = 0.9", &["did you mean `threshold`?", "p.toml:10"]);
    let pipeline = PIPELINE.replace("include", "inclde");
    refused(&workplace(), &pipeline, 2, "inclde = ", &["did you mean `include`?", "p.toml:6"]);
    let pipeline = PIPELINE.replace("[layers]", "[layer]");
    refused(&workplace(), &pipeline, 2, "[layer]", &["did you mean `layers`?", "p.toml:5"]);
}

#[test]
fn a_value_out_of_its_range_is_refused() {
    for value in ["1.5", "0", "-0.1", "nan", "inf"] {
        let pipeline = PIPELINE.replace("0.9", value);
        let line = format!("threshold = {value}");
        refused(&workplace(), &pipeline, 2, &line, &["larger than 0 and at most 1", "p.toml:10"]);
    }
    let pipeline = PIPELINE.replace("include = [\"*\"]", "multiple = 0");
    refused(&workplace(), &pipeline, 2, "multiple = 0", &["p.toml:6", "nonzero", "calabi-cli plugins layers"]);
}

#[test]
fn a_pattern_that_matches_nothing_is_refused() {
    let pipeline = PIPELINE.replace("\"*\"", "\"*\", \"encoder.*\"");
    let words = ["\"encoder.*\" matches no layer", "such as a", "p.toml:6:17"];
    refused(&workplace(), &pipeline, 2, "encoder.*", &words);
    let pipeline = format!("{PIPELINE}\n[[override]]\nlayers = [\"c\"]\nrank = {{ kind = \"fixed\", rank = 3 }}\n");
    refused(&workplace(), &pipeline, 2, "layers = [\"c\"]", &["\"c\" matches no layer", "p.toml:13"]);
}

#[test]
fn a_missing_file_is_refused() {
    let pipeline = PIPELINE.replace("model.safetensors", "nowhere.safetensors");
    let words = ["nowhere.safetensors is not there", "relative to the pipeline file", "p.toml:2"];
    refused(&workplace(), &pipeline, 2, "input = ", &words);
    let ran = workplace().run(&["run", "no.toml"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr().contains("no.toml cannot be read"), "{}", ran.stderr());
}

#[test]
fn a_weight_that_is_not_finite_is_refused_by_name() {
    for value in [f32::NAN, f32::INFINITY] {
        let work = workplace();
        let mut weight = decaying(40, 60, 0.8, 3);
        weight[(7, 11)] = value;
        work.model("model.safetensors", Dtype::F32, &[("a.weight", weight)]);
        let words = ["a.weight", "row 7, column 11", "exclude", "p.toml:2"];
        refused(&work, PIPELINE, 4, "input = \"model.safetensors\"", &words);
        let dense = PIPELINE.replace("include = [\"*\"]", "on_error = \"dense\"");
        refused(&work, &dense, 4, "input = \"model.safetensors\"", &words);
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let work = workplace();
    let whole = std::fs::read(work.path("model.safetensors")).unwrap();
    for length in [0, 4, 40, whole.len() / 2, whole.len() - 1] {
        work.write("model.safetensors", &whole[..length]);
        refused(&work, PIPELINE, 4, "input = \"model.safetensors\"", &["model.safetensors", "p.toml:2"]);
    }
}

#[test]
fn garbage_is_refused() {
    let work = workplace();
    work.write("model.onnx", b"this is no graph at all, but text that goes on and on");
    let pipeline = PIPELINE.replace("model.safetensors", "model.onnx").replace("small.safetensors", "small.onnx");
    refused(&work, &pipeline, 4, "input = \"model.onnx\"", &["model.onnx", "p.toml:2"]);
}

#[test]
fn the_input_is_never_the_output() {
    let work = workplace();
    let same = PIPELINE.replace("small.safetensors", "model.safetensors");
    refused(&work, &same, 2, "output = ", &["is the input itself", "p.toml:3"]);
    std::os::unix::fs::symlink(work.path("model.safetensors"), work.path("link.safetensors")).unwrap();
    let linked = PIPELINE.replace("small.safetensors", "link.safetensors");
    refused(&work, &linked, 2, "output = ", &["is the input itself"]);
    std::fs::hard_link(work.path("model.safetensors"), work.path("hard.safetensors")).unwrap();
    work.write("p.toml", PIPELINE.replace("small.safetensors", "hard.safetensors"));
    let forced = work.run(&["run", "p.toml", "--force"]);
    assert_eq!(forced.code(), 2, "{}", forced.stderr());
}

#[test]
fn what_exists_is_kept_unless_forced() {
    let work = workplace();
    work.write("small.safetensors", b"precious");
    refused(&work, PIPELINE, 2, "output = \"small.safetensors\"", &["exists already", "--force"]);
    assert_eq!(std::fs::read(work.path("small.safetensors")).unwrap(), b"precious");
    let forced = work.run(&["run", "p.toml", "--force"]);
    assert_eq!(forced.code(), 0, "{}", forced.stderr());
    assert!(std::fs::read(work.path("small.safetensors")).unwrap().len() > 1000);
    // A folder that holds something else is not replaced, whatever is said.
    work.write("home/letters.txt", "dear reader");
    work.write("p.toml", PIPELINE.replace("small.safetensors", "home"));
    assert_eq!(work.run(&["run", "p.toml", "--force"]).code(), 2);
    assert!(work.path("home/letters.txt").exists());
}

#[test]
fn a_budget_that_cannot_be_met_is_refused() {
    let pipeline = PIPELINE.replace("\"energy\"\nthreshold = 0.9", "\"budget\"\nkeep = 0.0001");
    refused(&workplace(), &pipeline, 2, "[rank]", &["p.toml:8", "smallest"]);
}

#[test]
fn an_allocator_is_no_rule_for_an_override() {
    let pipeline = format!("{PIPELINE}\n[[override]]\nlayers = [\"a\"]\nrank = {{ kind = \"budget\", keep = 0.5 }}\n");
    refused(&workplace(), &pipeline, 2, "kind = \"budget\"", &["override", "[rank]"]);
}

#[test]
fn usage_errors_end_with_2() {
    assert_eq!(workplace().run(&["run"]).code(), 2);
    assert_eq!(workplace().run(&["compress"]).code(), 2);
    assert_eq!(workplace().run(&["run", "p.toml", "--set", "nonsense"]).code(), 2);
    assert_eq!(workplace().run(&["--help"]).code(), 0);
    assert_eq!(workplace().run(&["plugins", "enrgy"]).code(), 2);
}
