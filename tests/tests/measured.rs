//! What the report says of each layer, recomputed from the files that were written.

use std::fs;

use calabi_tests::{Workplace, decaying, matrices, relative_error};
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

/// DESIGN section 3: equal up to the rounding of the stored factors.
fn equal(measured: f64, predicted: f64, dtype: Dtype) -> bool {
    let delta: f64 = match dtype {
        Dtype::F16 => 5e-4,
        Dtype::BF16 => 4e-3,
        _ => 1e-6,
    };
    (measured.powi(2) - predicted.powi(2)).abs() <= 2e-3 * predicted.powi(2) + delta.powi(2)
}

fn check(dtype: Dtype, rule: &str) {
    let work = Workplace::new(PROGRAM);
    let layers = [("wide", 48, 96), ("tall", 96, 40), ("square", 64, 64), ("row", 1, 30)];
    let weights: Vec<_> =
        layers.iter().zip(1..).map(|(&(name, m, n), seed)| (name, decaying(m, n, 0.9, seed))).collect();
    let named: Vec<_> = weights.iter().map(|(name, weight)| (format!("{name}.weight"), weight.clone())).collect();
    let named: Vec<_> = named.iter().map(|(name, weight)| (name.as_str(), weight.clone())).collect();
    let input = work.model("model.safetensors", dtype, &named);
    work.write(
        "p.toml",
        format!(
            "[model]\ninput = \"model.safetensors\"\noutput = \"small.safetensors\"\n[layers]\nmultiple = 4\n\
             break_even = false\n[rank]\n{rule}\n"
        ),
    );
    let report = work.run(&["run", "p.toml", "--format", "json"]).json();
    let (original, compressed) = (matrices(&input), matrices(&work.path("small.safetensors")));
    for layer in report["layers"].as_array().unwrap() {
        let name = layer["name"].as_str().unwrap();
        assert_eq!(layer["outcome"], "factorized", "{layer}");
        let rank = usize::try_from(layer["rank"].as_u64().unwrap()).unwrap();
        assert_eq!(compressed[&format!("{name}.left.weight")].ncols(), rank);
        assert_eq!(compressed[&format!("{name}.right.weight")].nrows(), rank);
        let [predicted, reported] = ["predicted_error", "measured_error"].map(|key| layer[key].as_f64().unwrap());
        let measured = relative_error(&original, &compressed, name);
        assert!(equal(measured, predicted, dtype), "{dtype:?} {name}: measured {measured}, predicted {predicted}");
        assert!(
            (measured - reported).abs() < 1e-5 * measured + 1e-6,
            "{name}: measured {measured}, reported {reported}"
        );
    }
    let size = fs::metadata(work.path("small.safetensors")).unwrap().len();
    assert_eq!(report["bytes"]["after"], size);
}

#[test]
fn predicted_and_measured_errors_agree_in_every_type() {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        check(dtype, "kind = \"energy\"\nthreshold = 0.9");
    }
}

#[test]
fn predicted_and_measured_errors_agree_under_every_rule() {
    let rules = [
        "kind = \"max-error\"\nepsilon = 0.2",
        "kind = \"fraction\"\nkeep = 0.25",
        "kind = \"fixed\"\nrank = 3",
        "kind = \"effective-rank\"",
        "kind = \"combined\"\nenergy = 0.8",
    ];
    for rule in rules {
        check(Dtype::F32, rule);
    }
}

#[test]
fn full_rank_is_exact() {
    check(Dtype::F32, "kind = \"fraction\"\nkeep = 1.0");
}

#[test]
fn the_promised_error_holds_for_what_was_written() {
    let work = Workplace::new(PROGRAM);
    let input = work.model("m.safetensors", Dtype::F32, &[("a.weight", decaying(80, 120, 0.92, 7))]);
    let pipeline =
        "[model]\ninput = \"m.safetensors\"\noutput = \"s.safetensors\"\n[rank]\nkind = \"max-error\"\nepsilon = 0.1\n";
    work.write("p.toml", pipeline);
    let report = work.run(&["run", "p.toml", "--format", "json"]).json();
    assert_eq!(report["layers"][0]["outcome"], "factorized");
    let compressed = matrices(&work.path("s.safetensors"));
    assert!(relative_error(&matrices(&input), &compressed, "a") <= 0.1);
}
