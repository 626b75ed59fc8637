//! A shard's run: its share of the layers goes to the work store, and nothing is written. What is missing of it later.

use std::time::Instant;

use calabi_api::{ConfigError, Name};

use crate::calibrate::{Calibrator, calibrate};
use crate::decompose::{Context, Purpose, decompose};
use crate::memory::Budget;
use crate::run::{on_threads, open, planned};
use crate::store::Store;
use crate::{Error, Observer, Pipeline, Plan, RunOptions, Shard, room};

/// Names that a message lists; the others are counted.
const NAMED: usize = 5;

/// What a shard did.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    /// The layers of its share.
    pub layers: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Decomposes one share of a plan's layers into the work store of `options`; a [`run`](crate::run) with
/// [`merge`](RunOptions::merge) makes the model, once all shards are done.
///
/// ```
/// use calabi::{Pipeline, RunOptions, Shard, Silent, run, run_share};
///
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let options = RunOptions { work: Some(folder.path().join("work")), ..RunOptions::default() };
/// let merge = RunOptions { merge: true, ..options.clone() };
/// run_share(&pipeline, &options, "0/2".parse()?, &Silent)?;
/// assert!(run(&pipeline, &merge, &Silent).is_err(), "half of it is missing");
/// run_share(&pipeline, &options, "1/2".parse()?, &Silent)?;
/// assert!(run(&pipeline, &merge, &Silent)?.passed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`run`](crate::run); where the options name no store; and where layers depend on each other's factors
/// (`sequential`, `[refine]`).
pub fn run_share(
    pipeline: &Pipeline,
    options: &RunOptions,
    shard: Shard,
    observer: &dyn Observer,
) -> Result<Shared, Error> {
    on_threads(options.threads, || {
        let started = Instant::now();
        check_alone(pipeline)?;
        let Some(work) = &options.work else {
            let error = ConfigError::new("a shard needs a work store that all of them share");
            return Err(error.with_help("name its folder: --work DIR").into());
        };
        let source = open(pipeline)?;
        let mut plan = planned(pipeline, options, &*source)?;
        let memory = Budget::of(&plan, pipeline, options.memory, room::free_memory())?;
        let purpose = Purpose::Share(shard);
        room::check((pipeline, &plan), options, purpose, None)?;
        let known_by = plan.clone();
        let folder = tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
        let store = Store::of(Some(work), folder.path())?;
        let mut calibrator = Calibrator::new(pipeline)?.map(|calibrator| calibrator.working_in(folder.path()));
        let metrics = calibrate((pipeline, &*source), &plan, calibrator.as_mut(), &store, observer)?;
        let context = Context { pipeline, source: &*source, observer, metrics: &metrics, memory: &memory };
        let decomposed = decompose(&context, &mut plan, &store, purpose)?;
        store.finished(&known_by, shard)?;
        let done = plan.layers.iter().zip(&decomposed).filter(|(_, decomposed)| decomposed.is_some());
        let layers = done.map(|(planned, _)| planned.layer.name.clone()).collect();
        Ok(Shared { layers, seconds: started.elapsed().as_secs_f64() })
    })
}

/// Layers whose factors depend on those of others are for one machine.
fn check_alone(pipeline: &Pipeline) -> Result<(), ConfigError> {
    let Some(settings) = &pipeline.calibration else { return Ok(()) };
    if !pipeline.is_sequential() && pipeline.refine.is_none() {
        return Ok(());
    }
    let error = ConfigError::new("`sequential` and [refine] take one block after the other: they cannot be shared out");
    Err(error.with_help("run it on one machine, or leave them out").at(settings.span.clone()))
}

/// An error that names layers which the store does not hold, and whose they were.
pub(crate) fn missing(plan: &Plan, store: &Store, mut missing: Vec<usize>) -> ConfigError {
    missing.sort_unstable();
    let (known_by, help) = (store.shards(plan), "run every shard of this plan with the same --work first");
    let names =
        missing.iter().filter_map(|&index| plan.layers.get(index)).map(|planned| Name::new(&planned.layer.name));
    let mut shown: Vec<String> = names.take(NAMED).map(|name| name.to_string()).collect();
    if missing.len() > NAMED {
        shown.push(format!("and {} more", missing.len() - NAMED));
    }
    let error = ConfigError::new(format!("{} layers are not in the work store: {}", missing.len(), shown.join(", ")));
    let Some(count) = known_by else { return error.with_help(help) };
    let owners = Shard::owners(count, plan);
    let mut whose: Vec<usize> = missing.iter().filter_map(|&index| owners.get(index).copied().flatten()).collect();
    whose.sort_unstable();
    whose.dedup();
    let whose = whose.into_iter().filter_map(|index| Shard::new(index, count)).map(|shard| {
        let state = if store.is_finished(plan, shard) { "which had finished" } else { "which has not finished" };
        format!("--shard {shard}, {state}")
    });
    error.with_help(format!("run again: {}", whose.collect::<Vec<_>>().join("; ")))
}
