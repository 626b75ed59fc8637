//! Block by block: layers are decomposed on the inputs that the already compressed prefix produces, anchored to the
//! original's outputs.
//!
//! Two models run side by side, the original and the one that is being compressed, each with one block in memory.

mod key;
mod pass;
mod resume;
mod side;

use calabi_api::{Layer, Rank, Refined};
use ndarray::ArrayD;

use crate::calibrate::Calibrator;
use crate::decompose::Context;
use crate::report::BlockReport;
use crate::store::Store;
use crate::{Error, Plan, Stage};
use pass::Pass;

/// What the sequential pass leaves for the rest of the run; factors wait in the store.
#[derive(Debug, Default)]
pub(crate) struct Sequenced {
    /// Of every layer of the plan that got its factors here: their errors.
    pub(crate) layers: Vec<Option<Fitted>>,
    /// Tensors besides the layers' that were tuned.
    pub(crate) amended: Vec<(String, ArrayD<f32>)>,
    /// What tuning did, block by block.
    pub(crate) blocks: Vec<BlockReport>,
}

/// Errors of factors that were fitted on compressed inputs, relative to the original's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fitted {
    pub(crate) predicted_error: f64,
    pub(crate) measured_error: f64,
    /// Whether tuning went over the factors since.
    pub(crate) refined: bool,
    pub(crate) seconds: f64,
}

/// What tuning a block did besides its factors; nothing where it is not tuned.
#[derive(Debug, Default)]
struct Tuned {
    amended: Vec<(String, ArrayD<f32>)>,
    report: Option<BlockReport>,
}

/// A layer that gets factors of this rank.
#[derive(Debug, Clone, Copy)]
struct Planned<'p> {
    index: usize,
    layer: &'p Layer,
    rank: Rank,
}

/// Where the pipeline asks for it, fits the factors of all layers that stand in blocks, in the order in which data flows.
pub(crate) fn sequential(
    context: &Context<'_>,
    plan: &Plan,
    store: &Store,
    calibrator: Option<Calibrator<'_>>,
) -> Result<Option<Sequenced>, Error> {
    let Some(calibrator) = calibrator.filter(|_| context.pipeline.is_sequential()) else { return Ok(None) };
    let mut pass = Pass::begin(context, plan, store, calibrator)?;
    context.observer.begin(Stage::Sequential, pass.count());
    let finished = pass.resume()?;
    if finished > 0 {
        context.observer.note(Stage::Sequential, &format!("{finished} of {} blocks were done before", pass.count()));
    }
    for block in finished..pass.count() {
        context.go_on()?;
        let tuned = pass.block(block)?;
        pass.keep(block, tuned)?;
        context.observer.step(Stage::Sequential, &format!("block {block}"));
    }
    context.observer.end(Stage::Sequential);
    Ok(Some(pass.done()))
}

impl BlockReport {
    fn new(block: usize, refined: &Refined, seconds: f64) -> Self {
        Self {
            block,
            loss: crate::Change { before: refined.loss.0, after: refined.loss.1 },
            held_out: crate::Change { before: refined.held_out.0, after: refined.held_out.1 },
            kept: !refined.factors.is_empty(),
            seconds,
        }
    }
}
