//! Shards: every machine decomposes its share into one store, and a merge writes what one machine would have written.

use std::process::Command;

use calabi_tests::{Workplace, decaying};
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");
const LAYERS: u64 = 9;

fn workplace() -> Workplace {
    let work = Workplace::new(PROGRAM);
    let name = |i: u64| format!("{i}.weight");
    let weights: Vec<_> =
        (0..LAYERS).zip(0..).map(|(seed, i)| (name(seed), decaying(90 + 10 * i, 140, 0.97, seed))).collect();
    let weights: Vec<_> = weights.iter().map(|(name, weight)| (name.as_str(), weight.clone())).collect();
    work.model("m.safetensors", Dtype::F32, &weights);
    let model = "[model]\ninput = \"m.safetensors\"\noutput = \"s.safetensors\"\n";
    work.write("p.toml", format!("{model}[rank]\nkind = \"budget\"\nkeep = 0.5\n"));
    work
}

fn done(work: &Workplace, args: &[&str]) -> String {
    let ran = work.run(args);
    assert_eq!(ran.code(), 0, "{args:?}: {}", ran.stderr());
    ran.stdout()
}

fn share(work: &Workplace, shard: &str) {
    done(work, &["run", "p.toml", "--plan", "plan.toml", "--work", "store", "--shard", shard]);
}

fn output(work: &Workplace) -> Vec<u8> {
    let bytes = std::fs::read(work.path("s.safetensors")).unwrap();
    std::fs::remove_file(work.path("s.safetensors")).unwrap();
    bytes
}

const MERGE: [&str; 5] = ["merge", "--plan", "plan.toml", "--work", "store"];

#[test]
fn any_number_of_shards_gives_the_bytes_of_one_machine() {
    let work = workplace();
    for rule in [&["rank.keep=0.5"][..], &["rank.kind=energy", "rank.threshold=0.9"]] {
        let set: Vec<&str> = rule.iter().flat_map(|rule| ["--set", rule]).collect();
        done(&work, &[&["run", "p.toml"], &*set].concat());
        let alone = output(&work);
        done(&work, &[&["plan", "p.toml", "-o", "plan.toml", "--force"], &*set].concat());
        for count in [1, 2, 3, 7, 12] {
            for index in (0..count).rev() {
                let shard = format!("{index}/{count}");
                let run = ["run", "p.toml", "--plan", "plan.toml", "--work", "store", "--shard", &shard];
                done(&work, &[&run, &*set].concat());
                assert!(!work.path("s.safetensors").exists(), "a shard writes no model");
            }
            done(&work, &MERGE);
            assert!(output(&work) == alone, "{count} shards, {rule:?}");
            std::fs::remove_dir_all(work.path("store")).unwrap();
        }
    }
}

#[test]
fn a_merge_names_what_is_missing_and_whose_it_was() {
    let work = workplace();
    done(&work, &["plan", "p.toml", "-o", "plan.toml"]);
    let nothing = work.run(&MERGE);
    assert_eq!(nothing.code(), 2, "{}", nothing.stderr());
    assert!(nothing.stderr().contains("9 layers are not in the work store"), "{}", nothing.stderr());
    share(&work, "0/3");
    share(&work, "2/3");
    let one = work.run(&MERGE).stderr();
    assert!(one.contains("3 layers") && one.contains("--shard 1/3, which has not finished"), "{one}");
    assert!(!one.contains("0/3") && !one.contains("2/3"), "{one}");
    share(&work, "1/3");
    let entry = std::fs::read_dir(work.path("store")).unwrap().map(|entry| entry.unwrap().path());
    let entry = entry.filter(|path| path.extension().is_some_and(|kind| kind == "layer")).min().unwrap();
    std::fs::remove_file(entry).unwrap();
    let gone = work.run(&MERGE).stderr();
    assert!(gone.contains("1 layers") && gone.contains("which had finished"), "{gone}");
    assert!(!work.path("s.safetensors").exists());
}

#[test]
fn spectra_first_then_ranks_then_factors() {
    let work = workplace();
    done(&work, &["run", "p.toml"]);
    let alone = output(&work);
    done(&work, &["plan", "p.toml", "-o", "plan.toml"]);
    let phase = |phase: &str, shard: &str| {
        work.run(&["run", "p.toml", "--plan", "plan.toml", "--work", "store", "--shard", shard, "--phase", phase])
    };
    let early = phase("factors", "0/2");
    assert_eq!(early.code(), 2);
    assert!(early.stderr().contains("plan --with-spectra"), "{}", early.stderr());
    for shard in ["0/2", "1/2"] {
        assert_eq!(phase("spectra", shard).code(), 0);
    }
    let filled = ["plan", "p.toml", "--with-spectra", "--work", "store", "-o", "plan.toml", "--force", "--verbose"];
    assert!(work.run(&filled).stderr().contains("9 of 9 layers were decomposed before"));
    for shard in ["0/2", "1/2"] {
        assert_eq!(phase("factors", shard).code(), 0);
    }
    done(&work, &MERGE);
    assert!(output(&work) == alone);
}

#[test]
fn an_array_job_says_which_shard_it_is() {
    let work = workplace();
    done(&work, &["plan", "p.toml", "-o", "plan.toml"]);
    let auto = |variables: &[(&str, &str)]| {
        let mut run = Command::new(PROGRAM);
        run.args(["run", "p.toml", "--plan", "plan.toml", "--work", "store", "--shard", "auto"]);
        let ran = run.envs(variables.iter().copied()).current_dir(work.path("")).output().unwrap();
        (ran.status.code().unwrap(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let slurm = |id| [("SLURM_ARRAY_TASK_ID", id), ("SLURM_ARRAY_TASK_MIN", "0"), ("SLURM_ARRAY_TASK_MAX", "1")];
    assert!(auto(&slurm("0")).1.contains("shard 0/2: 4 layers"), "{:?}", auto(&slurm("0")));
    let again = auto(&[("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_MIN", "1"), ("SLURM_ARRAY_TASK_MAX", "1")]);
    assert!(again.0 == 2 && again.1.contains("CALABI_SHARDS"), "{again:?}");
    assert_eq!(auto(&[("JOB_COMPLETION_INDEX", "1"), ("CALABI_SHARDS", "2")]).0, 0);
    assert_eq!(auto(&[]).0, 2);
    done(&work, &MERGE);
}

#[test]
fn job_scripts_name_the_plan_and_the_store() {
    let work = workplace();
    done(&work, &["plan", "p.toml", "-o", "plan.toml"]);
    let script = |cluster| done(&work, &["submit", cluster, "--shards", "4", "--print", "--work", "it's here"]);
    let slurm = script("--slurm");
    assert!(slurm.starts_with("#!/bin/sh\n") && slurm.contains("#SBATCH --array=0-3\n"), "{slurm}");
    let checked = work.write("job.sh", &slurm);
    assert!(Command::new("sh").arg("-n").arg(checked).status().unwrap().success(), "{slurm}");
    assert!(slurm.contains(r"--work 'it'\''s here' --shard auto"), "{slurm}");
    let kubernetes = script("--kubernetes");
    assert!(kubernetes.contains("completionMode: Indexed") && kubernetes.contains("completions: 4"), "{kubernetes}");
    assert_ne!(work.run(&["submit", "--slurm", "--shards", "4"]).code(), 0, "calabi submits nothing itself");
}

#[test]
fn what_cannot_be_shared_out_is_refused() {
    let work = workplace();
    done(&work, &["plan", "p.toml", "-o", "plan.toml"]);
    for shard in ["3/3", "x", "1/0", "-1/2"] {
        let shard = format!("--shard={shard}");
        assert_eq!(work.run(&["run", "p.toml", "--plan", "plan.toml", "--work", "store", &shard]).code(), 2, "{shard}");
    }
    assert_eq!(work.run(&["run", "p.toml", "--shard", "0/2"]).code(), 2, "without a store");
    work.model("m.safetensors", Dtype::F32, &[("0.weight", decaying(90, 140, 0.97, 1))]);
    let other = work.run(&MERGE);
    assert!(other.stderr().contains("another model"), "{}", other.stderr());
    let work = Workplace::new(PROGRAM);
    work.checkpoint("llama");
    work.token_ids(4, 8, (0..32).map(|i| i % 7));
    let calibration = "[calibration]\ndata = \"data.safetensors\"\nsequential = true\n";
    let model = "[model]\ninput = \"model\"\noutput = \"small\"\n[rank]\nkind = \"fixed\"\nrank = 4\n";
    work.write("p.toml", format!("{model}{calibration}"));
    let refused = work.run(&["run", "p.toml", "--work", "store", "--shard", "0/2"]);
    assert_eq!(refused.code(), 2);
    assert!(refused.stderr().contains("cannot be shared out"), "{}", refused.stderr());
}
