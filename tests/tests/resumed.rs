//! A sequential pass that was ended goes on behind the last block that it had finished, to the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use calabi::{Error, Observer, Pipeline, RunOptions, Stage, run};
use calabi_tests::Workplace;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");
const REFINE: &str = "[refine]\nepochs = 2\nbatch = 2\n";
const BLOCKS: usize = 2;

/// A workplace with a checkpoint of two blocks, and a pipeline that goes over them one by one.
fn workplace(refine: &str) -> Workplace {
    let work = Workplace::new(PROGRAM);
    work.checkpoint("llama");
    work.token_ids(24, 16, (0..24 * 16).map(|i| (i * i + 3 * i) % 31));
    let text = format!(
        "[model]\ninput = \"model\"\noutput = \"small\"\n[layers]\nmultiple = 1\nexclude = [\"lm_head\"]\n\
         [calibration]\ndata = \"data.safetensors\"\nsequential = true\nbias = \"residual\"\n\
         [rank]\nkind = \"fraction\"\nkeep = 0.3\n{refine}"
    );
    work.write("p.toml", text);
    work
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// What a run writes, and what it says.
fn written(work: &Workplace, more: &[&str]) -> (Vec<(PathBuf, Vec<u8>)>, String) {
    let ran = work.run(&[&["run", "p.toml", "--force", "--verbose"], more].concat());
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    (files(&work.path("small")), ran.stderr())
}

fn kept(work: &Workplace, kind: &str) -> Vec<PathBuf> {
    let all = files(&work.path("store")).into_iter().map(|(path, _)| path);
    all.filter(|path| path.extension().is_some_and(|extension| extension == kind)).collect()
}

/// Ends a run after so many blocks; notes which it worked on, and what was said.
#[derive(Default)]
struct After {
    blocks: usize,
    done: AtomicUsize,
    said: Mutex<Vec<String>>,
}

impl Observer for After {
    fn step(&self, stage: Stage, _name: &str) {
        self.done.fetch_add(usize::from(stage == Stage::Sequential), Ordering::Relaxed);
    }

    fn note(&self, stage: Stage, line: &str) {
        if stage == Stage::Sequential {
            self.said.lock().unwrap().push(line.to_owned());
        }
    }

    fn cancelled(&self) -> bool {
        self.blocks > 0 && self.done.load(Ordering::Relaxed) >= self.blocks
    }
}

/// Runs the pipeline in this process; how it ended, the blocks that it worked on, and what it said of them.
fn observed(work: &Workplace, blocks: usize) -> (Result<(), Error>, usize, Vec<String>) {
    let pipeline = Pipeline::load(&work.path("p.toml"), &[]).map_err(|refused| refused.error).unwrap();
    let options = RunOptions { force: true, work: Some(work.path("store")), ..RunOptions::default() };
    let after = After { blocks, ..After::default() };
    let ended = run(&pipeline, &options, &after).map(drop);
    (ended, after.done.into_inner(), after.said.into_inner().unwrap())
}

#[test]
fn a_run_that_was_ended_goes_on_behind_its_last_block() {
    for refine in ["", REFINE] {
        let work = workplace(refine);
        let (alone, said) = written(&work, &[]);
        assert!(!said.contains("blocks were done before"), "{said}");
        let (ended, done, _) = observed(&work, 1);
        assert!(matches!(ended, Err(Error::Cancelled)) && done == 1, "{ended:?} after {done} blocks");
        assert_eq!((kept(&work, "block").len(), kept(&work, "states").len()), (1, 1));
        let (ended, done, said) = observed(&work, 0);
        ended.unwrap();
        assert_eq!((done, said), (BLOCKS - 1, vec!["1 of 2 blocks were done before".to_owned()]));
        assert!(files(&work.path("small")) == alone, "{refine:?}: other bytes");
        assert_eq!((kept(&work, "block").len(), kept(&work, "states").len()), (BLOCKS, 0));
        let (ended, done, said) = observed(&work, 0);
        ended.unwrap();
        assert_eq!((done, said), (0, vec!["2 of 2 blocks were done before".to_owned()]));
        assert!(files(&work.path("small")) == alone, "{refine:?}: other bytes, with every block known");
    }
}

#[test]
fn what_is_damaged_is_done_again() {
    for kind in ["block", "states"] {
        let work = workplace(REFINE);
        let (alone, _) = written(&work, &[]);
        assert!(matches!(observed(&work, 1).0, Err(Error::Cancelled)));
        let path = kept(&work, kind).pop().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (ended, done, said) = observed(&work, 0);
        ended.unwrap();
        assert_eq!((done, said.len()), (BLOCKS, 0), "{kind}: {said:?}");
        assert!(files(&work.path("small")) == alone, "{kind}: other bytes");
        assert_eq!(observed(&work, 0).1, 0, "{kind}: it is mended");
    }
}

/// Another rank in the first block, other data, another tuning, another epsilon of the norms: other blocks.
#[test]
fn what_is_not_the_same_is_not_taken_over() {
    let work = workplace(REFINE);
    written(&work, &["--work", "store"]);
    let again = |work: &Workplace, set: &str| written(work, &["--work", "store", "--set", set]).1;
    assert!(again(&work, "refine.batch=2").contains("2 of 2 blocks were done before"));
    for other in ["refine.epochs=1", "calibration.samples=20", "calibration.bias=\"joint\"", "rank.keep=0.4"] {
        let said = again(&work, other);
        assert!(!said.contains("blocks were done before"), "{other}: {said}");
    }
    let first = "[[override]]\nlayers = [\"*layers.0.mlp.down_proj*\"]\nrank = { kind = \"fixed\", rank = 3 }\n";
    let pipeline = fs::read_to_string(work.path("p.toml")).unwrap();
    work.write("p.toml", format!("{pipeline}{first}"));
    let said = written(&work, &["--work", "store"]).1;
    assert!(!said.contains("blocks were done before"), "another rank in block 0: {said}");
    work.write("p.toml", pipeline);
    let config = fs::read_to_string(work.path("model/config.json")).unwrap();
    let epsilon = config.lines().find(|line| line.contains("rms_norm_eps")).unwrap();
    work.write("model/config.json", config.replace(epsilon, "  \"rms_norm_eps\": 1e-03,"));
    let said = written(&work, &["--work", "store"]).1;
    assert!(!said.contains("blocks were done before"), "another epsilon: {said}");
}

#[test]
fn a_killed_run_is_taken_up_beside_the_output() {
    let work = workplace("[refine]\nepochs = 40\nbatch = 2\n");
    let (alone, _) = written(&work, &[]);
    let mut taken_up = 0;
    for step in 1..40 {
        fs::remove_dir_all(work.path("small")).unwrap();
        let mut killed = Command::new(PROGRAM);
        killed.args(["run", "p.toml", "--force"]).current_dir(work.path(""));
        let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100 * step));
        let at_work = killed.try_wait().unwrap().is_none();
        killed.kill().unwrap();
        killed.wait().unwrap();
        let (bytes, said) = written(&work, &[]);
        assert!(bytes == alone, "killed after {step}00 ms: other bytes; {said}");
        taken_up += usize::from(said.contains("1 of 2 blocks were done before"));
        if taken_up > 1 || !at_work {
            break;
        }
    }
    assert!(taken_up > 0, "no block of a killed run was ever taken over");
    assert!(work.names().iter().all(|name| !name.starts_with('.')), "{:?}", work.names());
}
