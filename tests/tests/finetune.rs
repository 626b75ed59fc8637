//! Fine-tuning of a compressed checkpoint: better, beside it, whole or not at all, and not lost with a killed process.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use calabi_tests::{Workplace, root};

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");
const FINETUNE: &str = "[finetune]\ndata = \"data.safetensors\"\nlearning_rate = 0.003\nbatch = 4\nheld_out = 4\n";

/// A compressed checkpoint, and tokens that follow a rule.
fn compressed(finetune: &str) -> Workplace {
    let work = Workplace::new(PROGRAM);
    work.checkpoint("qwen3");
    let token = |i: i64, j: i64| (i * 7 + j * (i % 3 + 1)) % 80;
    work.token_ids(40, 16, (0..40).flat_map(|i| (0..16).map(move |j| token(i, j))));
    let rest = "[layers]\nmultiple = 1\nexclude = [\"lm_head\"]\n[rank]\nkind = \"budget\"\nkeep = 0.5\n";
    work.write("p.toml", format!("[model]\ninput = \"model\"\noutput = \"small\"\n{rest}{finetune}"));
    let ran = work.run(&["run", "p.toml"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    work
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let named = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (named(&path), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn the_result_is_better_and_stands_beside_the_compressed_model() {
    for objective in ["next-token", "distill"] {
        let work = compressed(&format!("{FINETUNE}steps = 30\nobjective = \"{objective}\"\n"));
        let before = files(&work.path("small"));
        let report = work.run(&["finetune", "p.toml", "--format", "json"]).json();
        let loss = |key: &str| report[key].as_f64().unwrap();
        assert!(loss("loss_after") < loss("loss_before"), "{report}");
        assert!((loss("perplexity_after").ln() - loss("loss_after")).abs() < 1e-9);
        assert_eq!((report["steps"].as_u64(), report["gained"].as_bool()), (Some(30), Some(true)));
        assert_eq!(files(&work.path("small")), before);
        assert_eq!(work.names(), ["data.safetensors", "model", "p.toml", "small", "small.tuned"]);
        let after = files(&work.path("small.tuned"));
        let named = |files: &[(String, Vec<u8>)]| {
            files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect::<Vec<_>>()
        };
        assert_eq!(named(&after), named(&before));
        assert_eq!(after[0], before[0], "config.json");
        assert_ne!(after, before);
        let refused = work.run(&["finetune", "p.toml"]);
        assert_eq!(refused.code(), 2);
        assert!(refused.stderr().contains("exists already"), "{}", refused.stderr());
        let ran = work.run(&["finetune", "p.toml", "-o", "other", "--threads", "1"]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(ran.stdout().contains("perplexity on the text that was kept out"), "{}", ran.stdout());
        assert_eq!(files(&work.path("other")), after);
    }
}

#[test]
fn a_killed_training_goes_on_to_the_bits_of_one_that_nothing_disturbed() {
    let work = compressed(&format!("{FINETUNE}steps = 150\nsave_minutes = 1e-6\n"));
    let ran = work.run(&["finetune", "p.toml", "-o", "whole"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let mut run = Command::new(PROGRAM);
    run.args(["finetune", "p.toml"]).current_dir(work.path("")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().unwrap();
    let (state, started) = (work.path("small.tuned.training"), Instant::now());
    while !state.exists() && started.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(2));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(state.exists() && !work.path("small.tuned").exists());
    let other = work.run(&["finetune", "p.toml", "--set", "finetune.seed=1"]);
    assert_eq!(other.code(), 2, "{}", other.stderr());
    assert!(other.stderr().contains("another training"), "{}", other.stderr());
    let ran = work.run(&["finetune", "p.toml"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert!(ran.stderr().contains("resumed: a former run was interrupted after step"), "{}", ran.stderr());
    assert_eq!(files(&work.path("small.tuned")), files(&work.path("whole")));
    assert_eq!(work.names(), ["data.safetensors", "model", "p.toml", "small", "small.tuned", "whole"]);
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_way_out() {
    let work = compressed(FINETUNE);
    fs::copy(root().join("tests/models/tiny-lm/model.onnx"), work.path("small.onnx")).unwrap();
    fs::copy(work.path("small/model.safetensors"), work.path("small.safetensors")).unwrap();
    work.write("plain.toml", fs::read_to_string(work.path("p.toml")).unwrap().split("[finetune]").next().unwrap());
    work.write("short.txt", "too short");
    for (pipeline, set, code, words) in [
        ("plain.toml", "rank.keep=0.5", 2, "the section [finetune] is missing"),
        ("p.toml", "model.output=nowhere", 2, "`calabi-cli run PIPELINE` makes it"),
        ("p.toml", "model.output=small.onnx", 2, "is no checkpoint folder"),
        ("p.toml", "model.output=small.safetensors", 2, "[finetune] cannot run"),
        ("p.toml", "model.output=model", 4, "no layer of it is factorized"),
        ("p.toml", "finetune.held_out=40", 2, "give more text"),
        ("p.toml", "finetune.data=none.txt", 2, "is not there"),
        ("p.toml", "finetune.data=short.txt", 2, "there is no tokenizer.json"),
        ("p.toml", "finetune.output=model", 2, "in use by this run"),
        ("p.toml", "finetune.output=small", 2, "is the input itself"),
        ("p.toml", "finetune.objective=copy", 2, "next-token"),
        ("p.toml", "finetune.minutes=0", 2, "minutes"),
    ] {
        let ran = work.run(&["finetune", pipeline, "--set", set, "--force"]);
        assert_eq!(ran.code(), code, "{set}: {}", ran.stderr());
        assert!(ran.stderr().contains(words), "{set}: {}", ran.stderr());
    }
    let ran = work.run(&["run", "p.toml", "--set", "model.output=data.safetensors", "--force"]);
    assert!(ran.code() == 2 && ran.stderr().contains("in use by this run"), "{}", ran.stderr());
    let names = work.names();
    assert!(names.iter().all(|name| !name.contains("tuned") && !name.starts_with('.')), "{names:?}");
}
