//! `[verify]`, `[search]` and `eval` on a language model whose figures onnxruntime gave
//! (`tests/python/make_tiny_language_model.py`), and on models that none of calabi's runtimes runs.

use std::fs;
use std::path::Path;

use calabi::api::{Runtime, Samples, Settings, Tensor, registry};
use calabi_tests::{Workplace, decaying, root};
use ndarray::{Array2, ArrayD, Axis};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

/// A workplace with the language model, its tokenizer, a text and held-out samples.
fn language_model() -> (Workplace, Value) {
    let work = Workplace::new(PROGRAM);
    let folder = root().join("tests/models/tiny-lm");
    for name in ["model.onnx", "tokenizer.json", "text.txt", "held-out.safetensors"] {
        work.write(name, fs::read(folder.join(name)).unwrap());
    }
    (work, serde_json::from_str(&fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap())
}

fn pipeline(work: &Workplace, rest: &str) {
    let start = "[model]\ninput = \"model.onnx\"\noutput = \"small.onnx\"\n[layers]\nmultiple = 1\n";
    work.write("p.toml", format!("{start}{rest}"));
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number {pointer} in {value}"))
}

fn near(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * b.abs()
}

/// The logits of a model on held-out samples, and their mask.
fn logits(work: &Workplace, model: &Path) -> (ArrayD<f32>, Array2<i64>) {
    let bytes = fs::read(work.path("held-out.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [ids, mask] = ["input_ids", "attention_mask"].map(|name| integers(&file.tensor(name).unwrap()));
    let inputs = [("input_ids", ids), ("attention_mask", mask.clone())];
    let inputs = inputs.map(|(name, a)| (name.to_owned(), Tensor::I64(a.into_dyn()))).into();
    let runtime = registry::find::<dyn Runtime>("onnx").unwrap().build(Settings::empty()).unwrap();
    let outputs = runtime.load(model).unwrap().outputs(&Samples { inputs }).unwrap();
    (outputs.into_iter().next().unwrap().values, mask)
}

fn integers(view: &TensorView<'_>) -> Array2<i64> {
    let values = view.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
    Array2::from_shape_vec((view.shape()[0], view.shape()[1]), values).unwrap()
}

/// `Σ p ln(p / q)`, written out.
fn divergence(y: &[f64], z: &[f64]) -> f64 {
    let softmax = |row: &[f64]| {
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        row.iter().map(|v| v.exp() / sum).collect::<Vec<_>>()
    };
    softmax(y).iter().zip(softmax(z)).map(|(p, q)| p * (p / q).ln()).sum()
}

#[test]
fn figures_of_a_language_model_are_those_of_other_programs() {
    let (work, expected) = language_model();
    pipeline(&work, "[rank]\nkind = \"budget\"\nkeep = 0.5\n[verify]\ndata = \"held-out.safetensors\"\nmax_kl = 10\n");
    let report = work.run(&["run", "p.toml", "--format", "json"]).json();
    let perplexity = number(&report, "/verify/perplexity/before");
    assert!(near(perplexity, number(&expected, "/held_out/perplexity"), 1e-5), "{perplexity}");
    assert_eq!(report.pointer("/verify/tokens"), expected.pointer("/held_out/tokens"));
    let ((y, mask), (z, _)) = (logits(&work, &work.path("model.onnx")), logits(&work, &work.path("small.onnx")));
    let (mut kl, mut same) = (0.0, 0.0);
    for ((y, z), _) in y.lanes(Axis(2)).into_iter().zip(z.lanes(Axis(2))).zip(&mask).filter(|(_, real)| **real == 1) {
        let (y, z): (Vec<f64>, Vec<f64>) =
            (y.iter().map(|&v| v.into()).collect(), z.iter().map(|&v| v.into()).collect());
        let top = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        kl += divergence(&y, &z);
        same += f64::from(u8::from(top(&y) == top(&z)));
    }
    let real = number(&expected, "/held_out/real");
    assert!(kl > 0.0 && near(number(&report, "/verify/outputs/0/kl"), kl / real, 1e-6), "{report} {}", kl / real);
    assert!(near(number(&report, "/verify/outputs/0/agreement"), same / real, 1e-12));
}

#[test]
fn eval_is_the_perplexity_that_onnxruntime_gives() {
    let (work, expected) = language_model();
    let eval = |more: &[&str]| {
        let mut args = vec!["eval", "model.onnx", "--text", "text.txt", "--window", "20", "--format", "json"];
        args.extend(more);
        work.run(&args).json()
    };
    let all = eval(&[]);
    assert!(near(number(&all, "/perplexity"), number(&expected, "/text/perplexity"), 1e-5), "{all}");
    assert_eq!(all["tokens"], expected["text"]["tokens"]);
    assert_eq!((&all["window"], &all["stride"], &all["windows"]), (&20.into(), &20.into(), &expected["windows"]));
    assert_eq!(eval(&["--windows", "3"])["tokens"], 3 * 19);
    let one = eval(&["--threads", "1"]);
    assert_eq!(one["perplexity"], eval(&["--threads", "2"])["perplexity"], "the same bits for any number of threads");
    fs::create_dir(work.path("elsewhere")).unwrap();
    fs::rename(work.path("tokenizer.json"), work.path("elsewhere/t.json")).unwrap();
    assert_eq!(work.run(&["eval", "model.onnx", "--text", "text.txt"]).code(), 2, "no tokenizer is there");
    assert_eq!(eval(&["--tokenizer", "elsewhere/t.json"])["perplexity"], one["perplexity"]);
}

#[test]
fn verify_on_text_and_eval_agree() {
    let (work, expected) = language_model();
    let verify = "[verify]\ndata = \"text.txt\"\nsequence = 20\nsamples = 10\nmax_perplexity_increase = 0.5\n";
    pipeline(&work, &format!("[rank]\nkind = \"budget\"\nkeep = 0.6\n{verify}"));
    let report = work.run(&["run", "p.toml", "--format", "json"]).json();
    assert!(near(number(&report, "/verify/perplexity/before"), number(&expected, "/text/perplexity"), 1e-5));
    let eval = work.run(&["eval", "small.onnx", "--text", "text.txt", "--window", "20", "--format", "json"]).json();
    assert!(near(number(&eval, "/perplexity"), number(&report, "/verify/perplexity/after"), 1e-9), "{eval}");
    let [before, after] = ["before", "after"].map(|k| number(&report, &format!("/verify/perplexity/{k}")));
    assert!(near(number(&report, "/verify/gates/0/measured"), after / before - 1.0, 1e-9));
    let table = work.run(&["run", "p.toml", "--force"]).stdout();
    for word in ["perplexity", "on 190 tokens", "KL 0.", "same class", "max_perplexity_increase = 0.5"] {
        assert!(table.contains(word), "{word} is missing:\n{table}");
    }
}

#[test]
fn a_search_finds_the_smallest_budget_that_passes() {
    let (work, _) = language_model();
    let rest = |keep: f64, search: &str| {
        format!("[rank]\nkind = \"budget\"\nkeep = {keep}\n[verify]\ndata = \"held-out.safetensors\"\n{search}")
    };
    pipeline(&work, &rest(0.9, "[search]\nmax_kl = 0.01\ntolerance = 0.05\n"));
    let report = work.run(&["run", "p.toml", "--format", "json"]).json();
    let (keep, figure) = (number(&report, "/search/keep"), number(&report, "/search/figure"));
    assert!(keep > 0.1 && keep < 0.95 && figure <= 0.01, "{report}");
    assert_eq!(report.pointer("/verify/outputs/0/kl"), report.pointer("/search/figure"), "what was found is written");
    let steps = report["search"]["steps"].as_array().unwrap();
    assert!(steps.len() <= 7, "{steps:?}");
    let kl = |keep: f64| {
        pipeline(&work, &rest(keep, ""));
        number(&work.run(&["run", "p.toml", "--force", "--format", "json"]).json(), "/verify/outputs/0/kl")
    };
    assert!(near(kl(keep), figure, 1e-12));
    assert!(kl(((keep - 0.05) * 1e6).round() / 1e6) > 0.01);
    pipeline(&work, &rest(0.9, "[search]\nmax_kl = 0.01\ntolerance = 0.05\n"));
    let table = work.run(&["run", "p.toml", "--force"]).stdout();
    assert!(table.contains("The smallest keep with max_kl = 0.01"), "{table}");
    let names = work.names();
    assert!(names.iter().all(|name| !name.starts_with('.')), "nothing is left of the steps: {names:?}");
}

#[test]
fn a_search_out_of_reach_says_what_was_measured() {
    let (work, _) = language_model();
    let rank = "[rank]\nkind = \"budget\"\nkeep = 0.9\n";
    pipeline(
        &work,
        &format!("{rank}[verify]\ndata = \"held-out.safetensors\"\n[search]\nmax_kl = 1e-9\nmax_keep = 0.4\n"),
    );
    let ran = work.run(&["run", "p.toml"]);
    assert_eq!(ran.code(), 2, "{}", ran.stderr());
    for word in ["max_kl = 0.000000001 is not met at the largest keep, 0.4", "raise max_keep", "[search]"] {
        assert!(ran.stderr().contains(word), "`{word}` is missing:\n{}", ran.stderr());
    }
    assert!(!work.path("small.onnx").exists() && work.names().iter().all(|name| !name.starts_with('.')));
    for (search, word) in [
        ("[search]\nmax_kl = 1\n", "needs [verify]"),
        ("[verify]\ndata = \"held-out.safetensors\"\n[search]\n", "one gate"),
        ("[verify]\ndata = \"held-out.safetensors\"\n[search]\nmax_kl = 1\nmin_cosine = 0.5\n", "one gate"),
    ] {
        pipeline(&work, &format!("{rank}{search}"));
        let ran = work.run(&["run", "p.toml"]);
        assert!(ran.code() == 2 && ran.stderr().contains(word), "{}", ran.stderr());
    }
    pipeline(
        &work,
        "[rank]\nkind = \"fixed\"\nrank = 3\n[verify]\ndata = \"held-out.safetensors\"\n[search]\nmax_kl = 1\n",
    );
    let ran = work.run(&["run", "p.toml"]);
    assert!(ran.code() == 2 && ran.stderr().contains("kind = \"budget\""), "{}", ran.stderr());
}

#[test]
fn a_gate_that_does_not_apply_is_refused_before_any_work() {
    let work = Workplace::new(PROGRAM);
    let digits = root().join("examples/quickstart");
    let data = digits.join("held-out.npz").display().to_string();
    let start = format!(
        "[model]\ninput = \"{}\"\noutput = \"small.onnx\"\n[rank]\nkind = \"fixed\"\nrank = 1\n[verify]\n",
        digits.join("digits.onnx").display()
    );
    for (rest, word) in [
        (format!("data = \"{data}\"\nlabels = \"labels\"\nmax_perplexity_increase = 0.1\n"), "about language models"),
        ("max_kl = 0.1\ncommand = [\"true\", \"{model}\"]\n".to_owned(), "`max_kl` needs `data`"),
        (format!("data = \"{data}\"\nmax_drop = 0.1\n"), "needs `command`"),
        ("command = [\"true\"]\n".to_owned(), "{model}"),
        ("command = [\"no-such-program\", \"{model}\"]\n".to_owned(), "`no-such-program` cannot be run"),
        (String::new(), "nothing to measure"),
    ] {
        work.write("p.toml", format!("{start}{rest}"));
        let ran = work.run(&["run", "p.toml"]);
        assert!(ran.code() == 2 && ran.stderr().contains(word), "{word}:\n{}", ran.stderr());
        assert_eq!(work.names(), ["p.toml"]);
    }
    let ran = work.run(&["eval", &digits.join("digits.onnx").display().to_string(), "--text", "p.toml"]);
    assert_ne!(ran.code(), 0);
}

#[test]
fn a_command_scores_models_that_no_runtime_runs() {
    let work = Workplace::new(PROGRAM);
    work.model("model.safetensors", Dtype::F32, &[("a.weight", decaying(40, 60, 0.8, 3))]);
    work.write("score.sh", "echo scoring >&2\nwc -c < \"$1\"\n");
    let pipeline = |gate: &str| {
        let start = "[model]\ninput = \"model.safetensors\"\noutput = \"small.safetensors\"\n";
        let rest = "[rank]\nkind = \"fixed\"\nrank = 8\n[verify]\ncommand = [\"sh\", \"score.sh\", \"{model}\"]\n";
        work.write("p.toml", format!("{start}{rest}{gate}"));
    };
    pipeline("max_drop = 1e6\n");
    let ran = work.run(&["run", "p.toml", "--format", "json"]);
    let report = ran.json();
    assert!(ran.stderr().contains("scoring"), "stderr passes through");
    for (which, file) in [("before", "model.safetensors"), ("after", "small.safetensors")] {
        let size = fs::metadata(work.path(file)).unwrap().len();
        assert!(near(number(&report, &format!("/verify/command/score/{which}")), size as f64, 1e-12));
    }
    fs::remove_file(work.path("small.safetensors")).unwrap();
    pipeline("max_drop = 1\n");
    let ran = work.run(&["run", "p.toml"]);
    assert_eq!(ran.code(), 3, "{}", ran.stderr());
    assert!(ran.stdout().contains("gate max_drop = 1") && ran.stdout().contains("NOT MET"), "{}", ran.stdout());
    assert!(work.path("small.safetensors.failed").exists() && !work.path("small.safetensors").exists());
    work.write("score.sh", "echo no number\n");
    let ran = work.run(&["run", "p.toml", "--force"]);
    assert!(ran.code() == 1 && ran.stderr().contains("must be the score"), "{}", ran.stderr());
}
