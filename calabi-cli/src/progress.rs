//! Progress on stderr: a bar on a terminal, else a line a layer; and Ctrl-C, which ends a run without leaving anything.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use calabi::{Observer, Stage};
use indicatif::{ProgressBar, ProgressStyle};

use crate::print;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Shows a run as it goes.
#[derive(Debug)]
pub(crate) struct Progress {
    lines: bool,
    bar: Mutex<Option<ProgressBar>>,
    done: AtomicUsize,
    steps: AtomicUsize,
}

impl Progress {
    /// A bar on a terminal, unless lines are asked for.
    pub(crate) fn new(verbose: bool) -> Self {
        // Where no handler can be set Ctrl-C ends the program at once, and the next run clears what it left.
        let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
        Self {
            lines: verbose || !std::io::stderr().is_terminal(),
            bar: Mutex::new(None),
            done: AtomicUsize::new(0),
            steps: AtomicUsize::new(0),
        }
    }

    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        let bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bar) = &*bar {
            act(bar);
        }
    }

    fn set_bar(&self, bar: Option<ProgressBar>) {
        *self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = bar;
    }
}

fn verb(stage: Stage) -> &'static str {
    match stage {
        Stage::Calibrate => "calibrate",
        Stage::Sensitivity => "measure",
        Stage::Sequential => "compress",
        Stage::Decompose => "decompose",
        Stage::Substitute => "factorize",
        Stage::Search => "search",
        Stage::Verify => "verify",
        Stage::Evaluate => "evaluate",
        Stage::Finetune => "train",
        _ => "work",
    }
}

impl Observer for Progress {
    fn begin(&self, stage: Stage, steps: usize) {
        self.done.store(0, Ordering::Relaxed);
        self.steps.store(steps, Ordering::Relaxed);
        if !self.lines && steps > 0 {
            let bar = ProgressBar::new(steps as u64).with_message(verb(stage));
            let style = ProgressStyle::with_template("{msg:>10} [{bar:30}] {pos}/{len} {eta}");
            self.set_bar(Some(style.map(|style| bar.clone().with_style(style.progress_chars("=> "))).unwrap_or(bar)));
        }
    }

    fn step(&self, stage: Stage, name: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.lines && !name.is_empty() {
            let steps = self.steps.load(Ordering::Relaxed);
            print::note(format_args!("{} {done}/{steps} {}", verb(stage), name.escape_debug()));
        }
        self.with_bar(|bar| bar.inc(1));
    }

    fn note(&self, stage: Stage, line: &str) {
        print::note(format_args!("{} {}", verb(stage), line.escape_debug()));
    }

    fn end(&self, _: Stage) {
        self.with_bar(ProgressBar::finish_and_clear);
        self.set_bar(None);
    }

    fn cancelled(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }
}
