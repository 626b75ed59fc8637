//! Plans: made in a moment, filled in with spectra, edited, and run.

use calabi_tests::{Workplace, decaying, matrices};
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

const PIPELINE: &str = "[model]\ninput = \"m.safetensors\"\noutput = \"s.safetensors\"\n\
                        [layers]\nexclude = [\"c\"]\n[rank]\nkind = \"energy\"\nthreshold = 0.9\n";

fn workplace() -> Workplace {
    let work = Workplace::new(PROGRAM);
    let weights = [("a.weight", 0.8), ("b.weight", 0.9), ("c.weight", 0.9)];
    let weights: Vec<_> = weights.iter().map(|&(name, decay)| (name, decaying(50, 70, decay, 11))).collect();
    work.model("m.safetensors", Dtype::F32, &weights);
    work.write("p.toml", PIPELINE);
    work
}

#[test]
fn a_plan_needs_no_weights_and_says_what_is_open() {
    let work = workplace();
    let plan = work.run(&["plan", "p.toml", "--format", "json"]).json();
    let outcomes: Vec<_> = plan["layers"].as_array().unwrap().iter().map(|l| l["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["open", "open", "skipped"]);
    assert!(plan["layers"][2]["because"].as_str().unwrap().contains("excluded by \"c\""));
    let text = work.run(&["plan", "p.toml"]);
    assert!(text.stdout().contains("--with-spectra"));
    assert!(!work.names().contains(&"s.safetensors".to_owned()));
}

#[test]
fn a_plan_with_spectra_is_what_the_run_does() {
    let work = workplace();
    let plan = work.run(&["plan", "p.toml", "--with-spectra", "--format", "json"]).json();
    let report = work.run(&["run", "p.toml", "--format", "json"]).json();
    for (planned, done) in plan["layers"].as_array().unwrap().iter().zip(report["layers"].as_array().unwrap()) {
        for key in ["name", "shape", "outcome", "rank", "because", "predicted_error"] {
            assert_eq!(planned[key], done[key], "{key}");
        }
    }
}

#[test]
fn an_edited_plan_is_followed() {
    let work = workplace();
    let planned = work.run(&["plan", "p.toml", "--with-spectra", "-o", "plan.toml"]);
    assert_eq!(planned.code(), 0, "{}", planned.stderr());
    let text = std::fs::read_to_string(work.path("plan.toml")).unwrap();
    let mut file: toml::Table = text.parse().unwrap();
    let layers = file["layer"].as_array_mut().unwrap();
    layers[0]["rank"] = 5.into();
    layers[1]["rank"] = "dense".into();
    layers[2]["rank"] = "open".into();
    work.write("plan.toml", toml::to_string(&file).unwrap());
    let report = work.run(&["run", "p.toml", "--plan", "plan.toml", "--format", "json"]).json();
    let layers = report["layers"].as_array().unwrap();
    assert_eq!((&layers[0]["rank"], &layers[0]["outcome"]), (&5.into(), &"factorized".into()));
    assert_eq!(layers[0]["because"], "the plan", "the former reason does not speak of another rank");
    assert_eq!(layers[1]["outcome"], "dense");
    assert_eq!(layers[2]["outcome"], "factorized", "an open layer is the pipeline's rule's");
    let written = matrices(&work.path("s.safetensors"));
    assert_eq!(written["a.left.weight"].dim(), (50, 5));
    assert!(written.contains_key("b.weight") && written.contains_key("c.left.weight"));
}

#[test]
fn a_rule_that_needs_no_spectrum_leaves_nothing_open() {
    let work = workplace();
    let fixed = ["plan", "p.toml", "--format", "json", "--set", "rank.kind=fixed", "--set", "rank.rank=4"];
    assert_eq!(work.run(&fixed).json()["layers"][0]["rank"], 4);
    let fraction = ["plan", "p.toml", "--format", "json", "--set", "rank.kind=fraction", "--set", "rank.keep=0.25"];
    assert_eq!(work.run(&fraction).json()["layers"][0]["rank"], 8);
}

#[test]
fn a_planned_rank_past_break_even_stays_dense_unless_the_rule_is_off() {
    let work = workplace();
    assert_eq!(work.run(&["plan", "p.toml", "--with-spectra", "-o", "plan.toml"]).code(), 0);
    let mut file: toml::Table = std::fs::read_to_string(work.path("plan.toml")).unwrap().parse().unwrap();
    file["layer"].as_array_mut().unwrap()[0]["rank"] = 45.into();
    work.write("plan.toml", toml::to_string(&file).unwrap());
    let run = ["run", "p.toml", "--plan", "plan.toml", "--format", "json", "--force"];
    let report = work.run(&run).json();
    assert_eq!(report["layers"][0]["outcome"], "dense");
    assert!(report["layers"][0]["because"].as_str().unwrap().contains("not below break-even"));
    let off: Vec<_> = run.into_iter().chain(["--set", "layers.break_even=false"]).collect();
    assert_eq!(work.run(&off).json()["layers"][0]["rank"], 45);
}

#[test]
fn a_plan_says_what_time_and_disk_a_run_takes() {
    let work = workplace();
    let fixed = ["--work", "work", "--format", "json", "--set", "rank.kind=fixed", "--set", "rank.rank=4"];
    let with = |command: &str| work.run(&[&[command, "p.toml"][..], &fixed].concat()).json();
    let plan = with("plan");
    assert!(plan["time"]["seconds"].as_f64().unwrap() > 0.0, "{plan}");
    with("run");
    let length = |path| std::fs::metadata(path).unwrap().len();
    let entries = std::fs::read_dir(work.path("work")).unwrap().map(|entry| length(entry.unwrap().path())).sum::<u64>();
    let (output, kept) = (plan["disk"]["output"].as_u64().unwrap(), plan["disk"]["work"].as_u64().unwrap());
    assert!((entries..entries + 1000).contains(&kept), "{kept} for {entries}");
    let header = length(work.path("s.safetensors")) - output;
    assert!(header < 1000, "{header}");
    let open = work.run(&["plan", "p.toml"]);
    assert!(open.stdout().contains("decomposing takes at most some"), "{}", open.stdout());
    let plugin = ["plan", "p.toml", "--format", "json", "--set", "decomposer.kind=randomized"];
    assert!(work.run(&plugin).json()["time"]["seconds"].is_null(), "a number that nobody knows is none");
    assert!(work.run(&[&plugin[..2], &plugin[4..]].concat()).stdout().contains("no estimate of time"));
}

#[test]
fn a_plan_of_another_model_is_refused_at_its_line() {
    let work = workplace();
    assert_eq!(work.run(&["plan", "p.toml", "-o", "plan.toml"]).code(), 0);
    let text = std::fs::read_to_string(work.path("plan.toml")).unwrap();
    work.write("plan.toml", text.replace("name = \"b\"", "name = \"z\""));
    let ran = work.run(&["run", "p.toml", "--plan", "plan.toml"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr().contains("no layer z") && ran.stderr().contains("plan.toml:"), "{}", ran.stderr());
}

#[test]
fn spectra_are_exported_in_full() {
    let work = workplace();
    assert_eq!(work.run(&["plan", "p.toml", "--spectra", "spectra.json"]).code(), 0);
    let text = std::fs::read(work.path("spectra.json")).unwrap();
    let spectra: std::collections::BTreeMap<String, Vec<f64>> = serde_json::from_slice(&text).unwrap();
    assert_eq!(spectra.keys().collect::<Vec<_>>(), ["a", "b"]);
    let weight = &matrices(&work.path("m.safetensors"))["a.weight"];
    let energy: f64 = weight.iter().map(|v| v * v).sum();
    let sum: f64 = spectra["a"].iter().map(|v| v * v).sum();
    assert_eq!(spectra["a"].len(), 50);
    let partial = ["--set", "decomposer.kind=randomized", "--set", "rank.kind=fixed", "--set", "rank.rank=4"];
    let mut args = vec!["plan", "p.toml", "--spectra", "partial.json"];
    args.extend(partial);
    assert_eq!(work.run(&args).code(), 0);
    let text = std::fs::read(work.path("partial.json")).unwrap();
    let whole: std::collections::BTreeMap<String, Vec<f64>> = serde_json::from_slice(&text).unwrap();
    assert_eq!(whole["a"].len(), 50, "all of them, also by a partial decomposer");
    assert!((sum / energy - 1.0).abs() < 1e-9);
}

#[test]
fn settings_are_changed_from_outside() {
    let work = workplace();
    let set = ["--set", "rank.kind=fixed", "--set", "rank.rank=7", "--set", "layers.exclude=[]"];
    let mut args = vec!["run", "p.toml", "--format", "json"];
    args.extend(set);
    let report = work.run(&args).json();
    assert!(report["layers"].as_array().unwrap().iter().all(|layer| layer["rank"] == 7), "{report}");
    let wrong = work.run(&["run", "p.toml", "--set", "rank.threshold=7"]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.stderr().contains("with --set") && wrong.stderr().contains("threshold = 7"), "{}", wrong.stderr());
}

#[test]
fn inspect_and_init_need_no_pipeline() {
    let work = workplace();
    let inspected = work.run(&["inspect", "m.safetensors", "--spectra"]);
    assert_eq!(inspected.code(), 0, "{}", inspected.stderr());
    assert!(inspected.stdout().contains("50x70") && inspected.stdout().contains("% of the energy at rank"));
    let made = work.run(&["init", "m.safetensors", "-o", "made.toml"]);
    assert_eq!(made.code(), 0, "{}", made.stderr());
    let report = work.run(&["run", "made.toml", "--format", "json"]).json();
    let (before, after) = (report["parameters"]["before"].as_f64(), report["parameters"]["after"].as_f64());
    assert!(after.unwrap() < 0.9 * before.unwrap(), "{report}");
    assert_eq!(work.run(&["init", "m.safetensors", "-o", "made.toml"]).code(), 2, "a pipeline is not overwritten");
}

#[test]
fn flat_spectra_get_a_budget_and_a_run_that_does_little_says_so_first() {
    let work = Workplace::new(PROGRAM);
    work.model("m.safetensors", Dtype::F32, &[("a.weight", ndarray::Array2::eye(64))]);
    let made = work.run(&["init", "m.safetensors"]);
    assert!(made.stdout().contains("kind = \"budget\""), "{}", made.stdout());
    work.write("made.toml", made.stdout());
    let report = work.run(&["run", "made.toml", "--format", "json"]).json();
    assert_eq!(report["warnings"], serde_json::json!([]));
    let little = PIPELINE.replace("exclude = [\"c\"]", "").replace("0.9", "0.999");
    work.write("p.toml", little);
    let ran = work.run(&["run", "p.toml"]);
    assert!(ran.stdout().starts_with("note: only 0.0 % of the parameters were removed"), "{}", ran.stdout());
    assert!(ran.stdout().contains("rank.kind=budget"));
}
