//! What a run will take, as `plan` says it: memory, time and disk.

use std::fmt::Write as _;
use std::path::PathBuf;

use calabi::{Estimate, Pipeline, Plan, RunOptions};
use serde_json::{Value, json};

use crate::units::{bytes, seconds};

/// What a run of a plan will take.
#[derive(Debug)]
pub(crate) struct Estimates {
    threads: usize,
    /// What layers in work take at most, on so many threads.
    memory: u64,
    /// The same, one at a time.
    one: u64,
    /// Whether ranks are open, and figures the most there may be.
    open: bool,
    work: Option<PathBuf>,
    all: Estimate,
}

impl Estimates {
    /// For a run on these threads, with this work store.
    pub(crate) fn of(plan: &Plan, pipeline: &Pipeline, options: &RunOptions) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(processors);
        Self {
            threads,
            memory: plan.working_set(pipeline, threads),
            one: plan.working_set(pipeline, 1),
            open: plan.is_open(),
            work: options.work.clone(),
            all: plan.estimate(pipeline, options),
        }
    }

    /// A line for each of memory, time and disk.
    pub(crate) fn text(&self) -> String {
        let Self { threads, memory, one, all, .. } = self;
        let most = if self.open { "at most " } else { "" };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "layers in work take at most {} on {threads} threads, {} one at a time (run --memory)",
            bytes(*memory),
            bytes(*one)
        );
        let _ = match all.seconds {
            Some(time) => {
                writeln!(text, "decomposing takes {most}some {} on {threads} threads of this machine", seconds(time))
            }
            None => writeln!(text, "no estimate of time: layers are measured on data, or the decomposer gives none"),
        };
        let place = self.work.as_ref().map_or("beside it".to_owned(), |work| format!("in {}", work.display()));
        let _ = writeln!(
            text,
            "the output takes {most}{} of disk; {place} decomposed layers take {most}{}",
            bytes(all.output),
            bytes(all.work)
        );
        text
    }

    /// The parts of the plan's JSON object: memory, time and disk.
    pub(crate) fn json(&self) -> [(&'static str, Value); 3] {
        let Self { threads, all, .. } = self;
        [
            ("memory", json!({ "threads": threads, "bytes": self.memory, "one_layer": self.one })),
            ("time", json!({ "threads": threads, "seconds": all.seconds, "at_most": self.open })),
            ("disk", json!({ "output": all.output, "work": all.work, "at_most": self.open })),
        ]
    }
}
