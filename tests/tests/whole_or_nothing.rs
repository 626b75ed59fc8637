//! Outputs appear whole or not at all: killed runs, full disks, failures half-way.

use std::process::{Command, Stdio};
use std::time::Duration;

use calabi_tests::{Workplace, decaying};
use safetensors::tensor::{Dtype, SafeTensors};

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

fn workplace() -> Workplace {
    let work = Workplace::new(PROGRAM);
    let weights: Vec<_> = (0..12).map(|i| (format!("{i}.weight"), decaying(160, 200, 0.97, i))).collect();
    let weights: Vec<_> = weights.iter().map(|(name, weight)| (name.as_str(), weight.clone())).collect();
    work.model("m.safetensors", Dtype::F32, &weights);
    let pipeline =
        "[model]\ninput = \"m.safetensors\"\noutput = \"s.safetensors\"\n[rank]\nkind = \"budget\"\nkeep = 0.5\n";
    work.write("p.toml", pipeline);
    work
}

#[test]
fn a_killed_run_leaves_no_torn_model_and_the_next_one_clears_up() {
    let work = workplace();
    for delay in [1, 20, 60, 120, 200] {
        let mut run = Command::new(PROGRAM)
            .args(["run", "p.toml", "--force"])
            .current_dir(work.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        run.kill().unwrap();
        run.wait().unwrap();
        if let Ok(bytes) = std::fs::read(work.path("s.safetensors")) {
            let names = SafeTensors::deserialize(&bytes).unwrap().len();
            assert!(names >= 12, "a torn model");
        }
    }
    let ran = work.run(&["run", "p.toml", "--force"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!(work.names(), ["m.safetensors", "p.toml", "s.safetensors"]);
}

#[test]
fn two_runs_side_by_side_do_not_clear_each_other() {
    let work = workplace();
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let mut run = Command::new(PROGRAM);
            run.args(["run", "p.toml", "--force"]).current_dir(work.path(""));
            run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for run in runs {
        let ended = run.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(work.names(), ["m.safetensors", "p.toml", "s.safetensors"]);
}

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let work = workplace();
    work.write("s.safetensors", b"the old one");
    for blocks in ["1", "100", "400"] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" run p.toml --force");
        let mut limited = Command::new("bash");
        let ran = limited.args(["-c", &script, PROGRAM]).current_dir(work.path("")).output().unwrap();
        let message = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{message}");
        assert!(message.contains("cannot write"), "{message}");
        assert_eq!(work.names(), ["m.safetensors", "p.toml", "s.safetensors"]);
        assert_eq!(std::fs::read(work.path("s.safetensors")).unwrap(), b"the old one");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let work = workplace();
    let script = "\"$0\" inspect m.safetensors | true; exit \"${PIPESTATUS[0]}\"";
    let ran = Command::new("bash").args(["-c", script, PROGRAM]).current_dir(work.path("")).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
