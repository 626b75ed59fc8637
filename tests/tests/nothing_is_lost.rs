//! What a run reads is never written over, and what exists is replaced only when told to.

use std::fs;

use calabi_tests::{Ran, Workplace, decaying, root};
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

fn workplace() -> Workplace {
    let work = Workplace::new(PROGRAM);
    work.model("m.safetensors", Dtype::F32, &[("a.weight", decaying(40, 60, 0.8, 3))]);
    let pipeline =
        "[model]\ninput = \"m.safetensors\"\noutput = \"s.safetensors\"\n[rank]\nkind = \"energy\"\nthreshold = 0.9\n";
    work.write("p.toml", pipeline);
    work
}

/// Runs a command that must be refused with 2, and checks that every file stays as it was.
fn refused(work: &Workplace, args: &[&str], word: &str) -> Ran {
    let content = |work: &Workplace| {
        let files = work.names().into_iter().filter(|name| work.path(name).is_file());
        files.map(|name| (fs::read(work.path(&name)).unwrap(), name)).collect::<Vec<_>>()
    };
    let (names, before) = (work.names(), content(work));
    let ran = work.run(args);
    assert_eq!(ran.code(), 2, "{args:?}: {}", ran.stderr());
    assert!(ran.stderr().contains(word), "`{word}` is missing:\n{}", ran.stderr());
    assert_eq!(work.names(), names);
    assert!(content(work) == before, "{args:?} changed a file");
    ran
}

#[test]
fn a_detour_does_not_hide_the_input() {
    let work = workplace();
    fs::create_dir(work.path("there")).unwrap();
    let through = |path: &str| format!("model.output={path}");
    refused(&work, &["run", "p.toml", "--force", "--set", &through("there/../m.safetensors")], "is the input itself");
    refused(&work, &["run", "p.toml", "--force", "--set", &through("not/../m.safetensors")], "not there");
    refused(&work, &["run", "p.toml", "--set", &through("m.safetensors/x")], "no folder");
    refused(&work, &["run", "p.toml", "--force", "--set", &through("p.toml")], "in use by this run");
}

#[test]
fn reports_and_plans_write_over_nothing_they_should_not() {
    let work = workplace();
    for place in ["m.safetensors", "p.toml"] {
        refused(&work, &["run", "p.toml", "--force", "--set", &format!("report.json={place}")], place);
        refused(&work, &["plan", "p.toml", "--force", "-o", place], place);
        refused(&work, &["plan", "p.toml", "--force", "--spectra", place], place);
    }
    refused(&work, &["run", "p.toml", "--force", "--set", "report.json=s.safetensors"], "would replace the output");
    work.write("plan.toml", "an edited plan");
    refused(&work, &["plan", "p.toml", "-o", "plan.toml"], "exists already");
    assert_eq!(work.run(&["plan", "p.toml", "-o", "plan.toml", "--force"]).code(), 0);
    let ran = work.run(&["run", "p.toml", "--set", "report.json=new/report.json"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let report: serde_json::Value = serde_json::from_slice(&fs::read(work.path("new/report.json")).unwrap()).unwrap();
    assert_eq!(report["layers"][0]["outcome"], "factorized");
}

#[test]
fn a_folder_with_something_else_in_it_is_not_replaced() {
    let work = workplace();
    fs::create_dir(work.path("model")).unwrap();
    fs::rename(work.path("m.safetensors"), work.path("model/model.safetensors")).unwrap();
    let folders = ["--set", "model.input=model", "--set", "model.output=small"];
    let run = |more: &[&str]| {
        let mut args = vec!["run", "p.toml"];
        args.extend(folders);
        args.extend(more);
        work.run(&args)
    };
    assert_eq!(run(&[]).code(), 0);
    assert_eq!(run(&["--force"]).code(), 0, "a result is replaced by a new one");
    work.write("small/notes.txt", "mine");
    let ran = run(&["--force"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr().contains("notes.txt"), "{}", ran.stderr());
    assert!(work.path("small/notes.txt").exists());
}

#[test]
fn a_result_that_fails_replaces_nothing_either() {
    let work = workplace();
    let pipeline = root().join("examples/pipelines/quickstart.toml");
    let output = format!("model.output={}", work.path("digits.onnx").display());
    let args =
        ["run", pipeline.to_str().unwrap(), "--set", &output, "--set", "rank.kind=fixed", "--set", "rank.rank=1"];
    assert_eq!(work.run(&args).code(), 3);
    let first = fs::read(work.path("digits.onnx.failed")).unwrap();
    refused(&work, &args, "exists already");
    assert_eq!(fs::read(work.path("digits.onnx.failed")).unwrap(), first);
    let forced: Vec<_> = args.into_iter().chain(["--force"]).collect();
    assert_eq!(work.run(&forced).code(), 3);
    assert_eq!(work.names(), ["digits.onnx.failed", "m.safetensors", "p.toml"]);
}

#[test]
fn data_that_does_not_fit_is_told_before_any_work() {
    let work = workplace();
    let pipeline = root().join("examples/pipelines/quickstart.toml");
    let output = format!("model.output={}", work.path("digits.onnx").display());
    let args = ["run", pipeline.to_str().unwrap(), "--set", &output, "--set", "verify.labels=lables"];
    let ran = refused(&work, &args, "did you mean labels?");
    assert!(!ran.stderr().contains("decompose"), "{}", ran.stderr());
}

#[test]
fn a_gate_that_is_not_met_ends_with_3_also_where_nobody_reads() {
    let work = workplace();
    let pipeline = root().join("examples/pipelines/quickstart.toml");
    let script = format!(
        "{{ sleep 0.2; \"$0\" run {} --set model.output={} --set rank.kind=fixed --set rank.rank=1; echo $? > code; }} | true",
        pipeline.display(),
        work.path("digits.onnx").display()
    );
    let ran = std::process::Command::new("bash").args(["-c", &script, PROGRAM]).current_dir(work.path("")).output();
    assert!(ran.unwrap().status.success());
    assert_eq!(fs::read_to_string(work.path("code")).unwrap(), "3\n");
}

#[test]
fn a_stderr_that_cannot_be_written_is_no_failure() {
    let work = workplace();
    let script = "\"$0\" run p.toml 2>/dev/full >/dev/null";
    let ran = std::process::Command::new("bash").args(["-c", script, PROGRAM]).current_dir(work.path("")).output();
    assert_eq!(ran.unwrap().status.code(), Some(0));
    assert!(work.path("s.safetensors").exists());
}
