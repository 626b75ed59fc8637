//! Same input, same program: same bytes, whatever the number of threads, and twice in a row.

use calabi_tests::{Workplace, decaying, root};
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

fn bytes_with(work: &Workplace, pipeline: &str, output: &str, threads: &str, rule: &[&str]) -> Vec<u8> {
    let set = format!("model.output={}", work.path(output).display());
    let mut args = vec!["run", pipeline, "--force", "--threads", threads, "--set", &set];
    args.extend(rule);
    let ran = work.run(&args);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    std::fs::read(work.path(output)).unwrap()
}

fn same_bytes(work: &Workplace, pipeline: &str, output: &str, rule: &[&str]) {
    let one = bytes_with(work, pipeline, output, "1", rule);
    for threads in ["1", "2", "3"] {
        assert!(bytes_with(work, pipeline, output, threads, rule) == one, "{threads} threads write other bytes");
    }
}

#[test]
fn safetensors_come_out_the_same() {
    let work = Workplace::new(PROGRAM);
    let weights: Vec<_> = (0..6).map(|i| (format!("{i}.weight"), decaying(90 + 7 * i, 130, 0.95, 5))).collect();
    let weights: Vec<_> = weights.iter().map(|(name, weight)| (name.as_str(), weight.clone())).collect();
    work.model("m.safetensors", Dtype::F32, &weights);
    let pipeline = "[model]\ninput = \"m.safetensors\"\noutput = \"x\"\n[rank]\nkind = \"budget\"\nkeep = 0.5\n";
    work.write("p.toml", pipeline);
    same_bytes(&work, "p.toml", "out.safetensors", &[]);
    let energy = ["--set", "rank.kind=energy", "--set", "rank.threshold=0.9"];
    same_bytes(&work, "p.toml", "out.safetensors", &energy);
    let randomized = ["--set", "rank.kind=fixed", "--set", "rank.rank=10", "--set", "decomposer.kind=randomized"];
    same_bytes(&work, "p.toml", "out.safetensors", &randomized);
}

#[test]
fn onnx_comes_out_the_same() {
    let work = Workplace::new(PROGRAM);
    let pipeline = root().join("examples/pipelines/quickstart.toml");
    same_bytes(&work, pipeline.to_str().unwrap(), "digits.onnx", &[]);
}
