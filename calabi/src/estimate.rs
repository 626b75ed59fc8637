//! What a run will take, said beforehand: the time of its decompositions, and the disk of its output and of its work.

use std::thread::available_parallelism;

use calabi_api::{Rank, RankRule};
use calabi_svd::cost::Machine;

use crate::choose::options;
use crate::decompose::{Purpose, largest_that_pays, limit};
use crate::memory::has_metric;
use crate::{Decision, Pipeline, Plan, PlannedLayer, Rule, RunOptions};

/// What a run of a plan will take.
///
/// ```
/// use calabi::RunOptions;
///
/// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
/// # let fixed = calabi::rank::Fixed { rank: calabi::api::Rank::new(16).ok_or("no rank")? };
/// # let mut pipeline = calabi::Pipeline::new(input, "small.safetensors", fixed);
/// # pipeline.layers.min_features = 64_usize.try_into()?;
/// let estimate = calabi::plan(&pipeline)?.estimate(&pipeline, &RunOptions::default()); // of a fixed rank
/// assert!(estimate.seconds.is_some_and(|seconds| seconds > 0.0));
/// assert!(estimate.output < 4 * 167_178, "the bytes of the original's weights");
/// assert_eq!(estimate.output, estimate.least_output, "nothing is open");
/// assert!(estimate.work > 4 * 16 * (64 + 256), "sixteen vectors of the smaller side of each of two layers");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Seconds of decomposing layers and making their factors, on as many threads: within a quarter of what it takes,
    /// where single precision is enough and the machine has nothing else to do; at most that, where ranks are open. None
    /// where layers are measured on data, and where the decomposer gives no estimate.
    pub seconds: Option<f64>,
    /// Bytes of the output's weights: at most, where ranks are open.
    pub output: u64,
    /// The same at least.
    pub least_output: u64,
    /// Bytes of decomposed layers in the work store, or beside the output, and of factors that wait there: at most. What
    /// is measured on data is not in it.
    pub work: u64,
}

impl Plan {
    /// What a run with these options will take, if the work store holds nothing of it yet. Measures the machine, once.
    #[must_use]
    pub fn estimate(&self, pipeline: &Pipeline, options: &RunOptions) -> Estimate {
        let lasting = options.work.is_some();
        Estimate {
            seconds: self.seconds(pipeline, options.threads, lasting),
            output: output(self, |planned| most(pipeline, planned)),
            least_output: least_output(self),
            work: work((pipeline, self), Purpose::Factors, |planned| vectors(pipeline, planned, lasting).get())
                + aside(pipeline, self),
        }
    }

    /// The layers' times one after the other, on so many threads side by side: the longest is never shared.
    fn seconds(&self, pipeline: &Pipeline, threads: Option<usize>, lasting: bool) -> Option<f64> {
        if has_metric(pipeline) {
            return None;
        }
        let seconds: Vec<f64> = self
            .layers
            .iter()
            .filter(|planned| planned.may_be_factorized())
            .map(|planned| seconds(pipeline, planned, lasting))
            .collect::<Option<_>>()?;
        let processors = available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or(processors).clamp(1, processors);
        let longest = seconds.iter().copied().fold(0.0, f64::max);
        Some(longest.max(seconds.iter().sum::<f64>() / threads as f64))
    }
}

fn seconds(pipeline: &Pipeline, planned: &PlannedLayer, lasting: bool) -> Option<f64> {
    let shape = planned.layer.shape;
    let decomposed = pipeline.decomposer.seconds(shape, vectors(pipeline, planned, lasting))?;
    Some(decomposed + Machine::here().factors(shape, largest(pipeline, planned)))
}

/// The largest rank that may be chosen for a layer that may be factorized.
fn largest(pipeline: &Pipeline, planned: &PlannedLayer) -> Rank {
    let open = || limit(pipeline, planned).min(largest_that_pays(pipeline, &planned.layer));
    planned.rank().unwrap_or_else(open)
}

/// How many vectors are kept of a layer at most: those of its rank; what lasts serves every rule.
fn vectors(pipeline: &Pipeline, planned: &PlannedLayer, lasting: bool) -> Rank {
    let largest = largest(pipeline, planned);
    if lasting && serves_every_rule(pipeline, planned) {
        return largest.max(largest_that_pays(pipeline, &planned.layer));
    }
    largest
}

/// Whether what is decomposed of a layer does not depend on its rule.
fn serves_every_rule(pipeline: &Pipeline, planned: &PlannedLayer) -> bool {
    pipeline.decomposer.is_complete(planned.layer.shape, limit(pipeline, planned))
}

/// Bytes that a run for this purpose adds to the work store whatever the spectra are.
pub(crate) fn certain_work(pipeline: &Pipeline, plan: &Plan, purpose: Purpose, lasting: bool) -> u64 {
    work((pipeline, plan), purpose, |planned| certain_vectors(pipeline, planned, lasting))
}

fn certain_vectors(pipeline: &Pipeline, planned: &PlannedLayer, lasting: bool) -> usize {
    let layer = &planned.layer;
    if lasting && serves_every_rule(pipeline, planned) {
        return vectors(pipeline, planned, lasting).get();
    }
    if waits_for_allocator(pipeline, planned) {
        let options = options(layer, &pipeline.layers, limit(pipeline, planned).get());
        return options.last().map_or(0, |largest| largest.get());
    }
    planned.rank().map_or(0, Rank::get)
}

/// Bytes that a run for this purpose adds to the work store, where so many vectors are kept of each layer.
fn work((pipeline, plan): (&Pipeline, &Plan), purpose: Purpose, vectors: impl Fn(&PlannedLayer) -> usize) -> u64 {
    if purpose == Purpose::Merge {
        return 0;
    }
    let wanted = plan.layers.iter().zip(purpose.wanted(plan)).filter(|&(_, wanted)| wanted);
    wanted.map(|(planned, _)| entry(pipeline, planned, vectors(planned))).sum()
}

/// Of an entry: singular values and losses in `f64`, vectors in `f32`.
fn entry(pipeline: &Pipeline, planned: &PlannedLayer, vectors: usize) -> u64 {
    const FRAME: usize = 256;
    let shape = planned.layer.shape;
    let full = shape.full_rank().get();
    let length = if has_metric(pipeline) { shape.rows() } else { full };
    (FRAME + 16 * full + 4 * length * vectors) as u64
}

/// Bytes of factors that wait until the model is written, at most: of blocks for those behind them, of layers in a metric
/// whose ranks wait for no other.
fn aside(pipeline: &Pipeline, plan: &Plan) -> u64 {
    const FRAME: usize = 64;
    let whole = pipeline.is_sequential() || pipeline.refine.is_some();
    let waits = |planned: &&PlannedLayer| {
        let finished = has_metric(pipeline) && !waits_for_allocator(pipeline, planned);
        planned.may_be_factorized() && (whole || finished)
    };
    let of = |planned: &PlannedLayer| {
        let shape = planned.layer.shape;
        let (sides, bias) = (shape.rows() + shape.cols(), shape.rows());
        (FRAME + 4 * sides * largest(pipeline, planned).get() + 4 * bias) as u64
    };
    plan.layers.iter().filter(waits).map(of).sum()
}

/// Whether the rank of a layer depends on what the others lose.
fn waits_for_allocator(pipeline: &Pipeline, planned: &PlannedLayer) -> bool {
    let allocated = planned.rule == Rule::Main && matches!(pipeline.rank.value, RankRule::Allocator(_));
    allocated && planned.decision == Decision::Open
}

/// Bytes of the output's weights, where layers take so many.
fn output(plan: &Plan, bytes: impl Fn(&PlannedLayer) -> u64) -> u64 {
    let before: u64 = plan.layers.iter().map(|planned| planned.layer.cost.dense.bytes).sum();
    plan.totals.cost.bytes.saturating_sub(before) + plan.layers.iter().map(bytes).sum::<u64>()
}

/// Bytes of the output's weights whatever the spectra are.
pub(crate) fn least_output(plan: &Plan) -> u64 {
    output(plan, |planned| match planned.decision {
        Decision::Open => planned.layer.cost.at(Rank::ONE).bytes.min(planned.layer.cost.dense.bytes),
        _ => planned.cost().bytes,
    })
}

fn most(pipeline: &Pipeline, planned: &PlannedLayer) -> u64 {
    let cost = planned.layer.cost;
    match planned.decision {
        Decision::Open => cost.at(largest(pipeline, planned)).bytes.max(cost.dense.bytes),
        _ => planned.cost().bytes,
    }
}
