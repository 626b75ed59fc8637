//! The work store: what was decomposed once is found again, by runs after a killed one and by runs with other rules.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use calabi_tests::{Workplace, decaying};
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");
const LAYERS: usize = 12;
const SEEDS: std::ops::Range<u64> = 0..12;
const BUDGET: &str = "kind = \"budget\"\nkeep = 0.5\n";
const ENERGY: &str = "kind = \"energy\"\nthreshold = 0.9\n";
const FIXED: &str = "kind = \"fixed\"\nrank = 13\n";
/// In a metric, where factors are made as soon as a layer is decomposed.
const NORM: &str = "kind = \"fixed\"\nrank = 13\n[calibration]\nobjective = \"norm\"\n";

fn workplace() -> Workplace {
    let work = Workplace::new(PROGRAM);
    let weights: Vec<_> =
        SEEDS.zip(0..).map(|(seed, i)| (format!("{i}.weight"), decaying(200, 200 + 8 * i, 0.99, seed))).collect();
    let weights: Vec<_> = weights.iter().map(|(name, weight)| (name.as_str(), weight.clone())).collect();
    work.model("m.safetensors", Dtype::F32, &weights);
    for (name, rule) in [("budget", BUDGET), ("energy", ENERGY), ("fixed", FIXED), ("norm", NORM)] {
        let model = format!("[model]\ninput = \"m.safetensors\"\noutput = \"{name}.safetensors\"\n");
        work.write(&format!("{name}.toml"), format!("{model}[rank]\n{rule}"));
    }
    work
}

/// The bytes that a run writes, and what it says.
fn written(work: &Workplace, rule: &str, more: &[&str]) -> (Vec<u8>, String) {
    let pipeline = format!("{rule}.toml");
    let ran = work.run(&[&["run", &pipeline, "--force", "--verbose"], more].concat());
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    (std::fs::read(work.path(&format!("{rule}.safetensors"))).unwrap(), ran.stderr())
}

fn found(count: usize) -> String {
    format!("{count} of {LAYERS} layers were decomposed before")
}

#[test]
fn a_rule_after_another_decomposes_nothing_and_writes_what_it_would_have() {
    let work = workplace();
    let (rules, store) = (["budget", "energy", "fixed"], ["--work", "store"]);
    let alone: Vec<_> = rules.iter().map(|rule| written(&work, rule, &[])).collect();
    for (index, (rule, alone)) in rules.iter().zip(&alone).enumerate() {
        assert!(!alone.1.contains("decomposed before"), "{}", alone.1);
        let (bytes, said) = written(&work, rule, &store);
        assert!(bytes == alone.0, "{rule} writes other bytes with a store");
        assert_eq!(said.contains(&found(LAYERS)), index > 0, "{said}");
    }
    let cleaned = work.run(&["clean", "--work", "store"]);
    assert!(cleaned.stdout().starts_with("12 files removed"), "{}", cleaned.stdout());
    assert!(!work.path("store").exists());
    assert_eq!(work.run(&["clean", "--work", "store"]).code(), 2);
}

/// Kills a run after `delay`; whether it was still at work.
fn killed(work: &Workplace, rule: &str, args: &[&str], delay: Duration) -> bool {
    let mut run = Command::new(PROGRAM);
    run.args(["run", &format!("{rule}.toml"), "--force", "--threads", "1"]).args(args).current_dir(work.path(""));
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    let at_work = run.try_wait().unwrap().is_none();
    run.kill().unwrap();
    run.wait().unwrap();
    at_work
}

#[test]
fn a_killed_run_is_taken_up_and_writes_the_same_bytes() {
    let work = workplace();
    let started = Instant::now();
    let undisturbed = written(&work, "budget", &["--threads", "1"]).0;
    let whole = started.elapsed();
    for args in [&[][..], &["--work", "store"]] {
        let mut at_work = 0;
        for eighth in 1..8 {
            std::fs::remove_file(work.path("budget.safetensors")).unwrap();
            at_work += usize::from(killed(&work, "budget", args, whole * eighth / 8));
            let (bytes, said) = written(&work, "budget", args);
            assert!(bytes == undisturbed, "killed after {eighth} eighths: other bytes; {said}");
        }
        assert!(at_work > 0, "no run was killed at work");
    }
    assert!(work.names().iter().all(|name| !name.starts_with('.')), "{:?}", work.names());
}

#[test]
fn what_a_killed_run_had_decomposed_is_not_decomposed_again() {
    for rule in ["budget", "norm"] {
        let work = workplace();
        let undisturbed = written(&work, rule, &[]).0;
        let found = (1..60).map(|step| Duration::from_millis(20 * step)).any(|delay| {
            let _ = std::fs::remove_file(work.path(&format!("{rule}.safetensors")));
            let at_work = killed(&work, rule, &[], delay);
            let (bytes, said) = written(&work, rule, &[]);
            assert!(bytes == undisturbed, "{rule}: other bytes");
            at_work && said.contains("layers were decomposed before")
        });
        assert!(found, "{rule}: nothing was ever found of a killed run");
    }
}

#[test]
fn runs_share_a_store_at_the_same_time() {
    let work = workplace();
    let alone: Vec<_> = ["budget", "energy"].iter().map(|rule| written(&work, rule, &[]).0).collect();
    for _ in 0..3 {
        let runs: Vec<_> = ["budget", "energy", "fixed"]
            .iter()
            .map(|rule| {
                let mut run = Command::new(PROGRAM);
                run.args(["run", &format!("{rule}.toml"), "--force", "--work", "store"]).current_dir(work.path(""));
                run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for run in runs {
            let ended = run.wait_with_output().unwrap();
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        }
        for (rule, alone) in ["budget", "energy"].iter().zip(&alone) {
            assert!(std::fs::read(work.path(&format!("{rule}.safetensors"))).unwrap() == *alone);
        }
        std::fs::remove_dir_all(work.path("store")).unwrap();
    }
}

#[test]
fn a_damaged_entry_is_made_anew() {
    let work = workplace();
    let undisturbed = written(&work, "budget", &["--work", "store"]).0;
    for (index, entry) in std::fs::read_dir(work.path("store")).unwrap().enumerate() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        match index {
            0 => bytes[middle] ^= 1,
            1 => bytes.truncate(middle),
            2 => bytes.clear(),
            _ => continue,
        }
        std::fs::write(path, bytes).unwrap();
    }
    let (bytes, said) = written(&work, "budget", &["--work", "store"]);
    assert!(bytes == undisturbed);
    assert!(said.contains(&found(LAYERS - 3)), "{said}");
    assert!(written(&work, "budget", &["--work", "store"]).1.contains(&found(LAYERS)));
}

/// Another weight, another setting of the decomposer: other entries.
#[test]
fn what_is_not_the_same_is_not_found() {
    let work = workplace();
    written(&work, "budget", &["--work", "store"]);
    let full = ["--work", "store", "--set", "decomposer.kind=faer", "--set", "decomposer.accuracy=full"];
    assert!(!written(&work, "budget", &full).1.contains("decomposed before"));
    let mut bytes = std::fs::read(work.path("m.safetensors")).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(work.path("m.safetensors"), bytes).unwrap();
    assert!(written(&work, "budget", &["--work", "store"]).1.contains(&found(LAYERS - 1)));
}

/// Layers wait for memory, and one that is too large alone is refused before any work, with the way out.
#[test]
fn layers_wait_for_memory() {
    let work = workplace();
    let plan = work.run(&["plan", "budget.toml", "--format", "json", "--threads", "3"]).json();
    let needed = plan["memory"]["one_layer"].as_u64().unwrap();
    assert!(plan["memory"]["bytes"].as_u64().unwrap() > 2 * needed);
    let alone = written(&work, "budget", &[]).0;
    let enough = needed.to_string();
    assert!(written(&work, "budget", &["--memory", &enough, "--threads", "3"]).0 == alone);
    let refused = work.run(&["run", "budget.toml", "--force", "--memory", &(needed - 1).to_string()]);
    assert_eq!(refused.code(), 2, "{}", refused.stderr());
    assert!(refused.stderr().contains("layer 11 (200x288) takes"), "{}", refused.stderr());
    let way_out = refused.stderr().split("--memory ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    assert!(written(&work, "budget", &["--memory", &way_out]).0 == alone);
}

/// A small rank of a large weight: few values are found, and the same ones whether they are kept or not; a rule that may
/// ask for more finds all.
#[test]
fn few_values_of_many_are_kept_apart() {
    let work = Workplace::new(PROGRAM);
    let weight = decaying(520, 560, 0.99, 7);
    work.model("m.safetensors", Dtype::F32, &[("0.weight", weight)]);
    for (name, rule) in [("fixed", FIXED), ("budget", BUDGET)] {
        let model = format!("[model]\ninput = \"m.safetensors\"\noutput = \"{name}.safetensors\"\n");
        work.write(&format!("{name}.toml"), format!("{model}[report]\njson = \"{name}.json\"\n[rank]\n{rule}"));
    }
    let remark = |rule: &str| std::fs::read_to_string(work.path(&format!("{rule}.json"))).unwrap();
    let alone = written(&work, "fixed", &[]).0;
    assert!(remark("fixed").contains("of 520 dimensions: loss at most 0.4 % above the optimum"), "{}", remark("fixed"));
    let budget = written(&work, "budget", &[]).0;
    assert!(!remark("budget").contains("dimensions: loss"), "{}", remark("budget"));
    for _ in 0..2 {
        assert!(written(&work, "budget", &["--work", "store"]).0 == budget);
        assert!(written(&work, "fixed", &["--work", "store"]).0 == alone);
    }
    assert!(written(&work, "fixed", &["--work", "store"]).1.contains("1 of 1 layers were decomposed before"));
}
