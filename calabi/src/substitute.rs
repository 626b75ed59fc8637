//! Factors stream into the new model, each measured as it will be read back.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use calabi_api::{DecomposeError, Factors, FormatError, Layer, LayerSink, Rank, Replacement, Written};
use calabi_svd::dense::multiply;
use ndarray::{Array1, ArrayView2, Axis};

use crate::decompose::{Context, Decomposed};
use crate::made::Made;
use crate::memory::working_set;
use crate::metric::{Metric, Room};
use crate::sequential::Sequenced;
use crate::store::Store;
use crate::turns::in_turns;
use crate::{Error, Plan, PlannedLayer, Stage};

/// The error of a layer's factors as they were written, relative to its output (without data: in the Frobenius norm), and
/// the time it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Substituted {
    pub(crate) measured_error: f64,
    pub(crate) seconds: f64,
}

/// What the steps before leave for the writing of a model.
#[derive(Clone, Copy)]
pub(crate) struct Ready<'a> {
    pub(crate) store: &'a Store,
    pub(crate) decomposed: &'a [Option<Decomposed>],
    pub(crate) sequenced: Option<&'a Sequenced>,
    /// Whether each layer's error is measured: a trial of a search is judged as a whole.
    pub(crate) measure: bool,
}

/// Writes to `model` a model with factors in place of the weights that the plan factorizes. What was measured stands in
/// the order of the plan's layers; none where a layer stays as it is, or nothing is to be measured.
pub(crate) fn substitute(
    context: &Context<'_>,
    plan: &Plan,
    ready: Ready<'_>,
    model: &Path,
) -> Result<(Written, Vec<Option<Substituted>>), Error> {
    let factorized: Vec<_> = plan.layers.iter().filter_map(|l| Some((l, l.rank()?))).collect();
    let replaced: Vec<_> =
        factorized.iter().map(|&(l, rank)| Replacement { layer: &l.layer, rank, bias: l.bias }).collect();
    let mut sink =
        context.source.create(model, &replaced, &context.pipeline.model.write_options()).map_err(output_error)?;
    for (tensor, values) in ready.sequenced.iter().flat_map(|sequenced| &sequenced.amended) {
        sink.amend(tensor, values).map_err(output_error)?;
    }
    let sink = Mutex::new(sink);
    context.observer.begin(Stage::Substitute, replaced.len());
    let groups = context.metrics.groups(plan);
    let measured = in_turns(context, plan, groups, |group| one_group(context, plan, &group, ready, &sink))?;
    let mut substituted: Vec<_> = plan.layers.iter().map(|_| None).collect();
    for (index, measured) in measured.into_iter().flatten() {
        substituted[index] = measured;
    }
    let sink = sink.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let written = sink.finish().map_err(output_error)?;
    context.observer.end(Stage::Substitute);
    Ok((written, substituted))
}

/// A failure while copying the rest may be the input's or the output's: the error names the file.
fn output_error(source: FormatError) -> Error {
    Error::Output { source }
}

/// Layers that share a metric, one after the other.
fn one_group(
    context: &Context<'_>,
    plan: &Plan,
    group: &[usize],
    ready: Ready<'_>,
    sink: &Mutex<Box<dyn LayerSink>>,
) -> Result<Vec<(usize, Option<Substituted>)>, Error> {
    let layers = group.iter().filter_map(|&index| plan.layers.get(index).map(|planned| (index, planned)));
    let layers: Vec<_> = layers.filter_map(|(index, planned)| Some((index, planned, planned.rank()?))).collect();
    let needs = layers.iter().map(|(_, planned, _)| working_set(context.pipeline, &planned.layer));
    let _admitted = context.memory.admit(needs.max().unwrap_or(0));
    let metric = OnceCell::new();
    let one = |(index, planned, rank)| Ok((index, one_layer(context, (index, planned, rank), ready, sink, &metric)?));
    layers.into_iter().map(one).collect()
}

fn one_layer(
    context: &Context<'_>,
    (index, planned, rank): (usize, &PlannedLayer, Rank),
    ready: Ready<'_>,
    sink: &Mutex<Box<dyn LayerSink>>,
    metric: &OnceCell<Option<Metric>>,
) -> Result<Option<Substituted>, Error> {
    context.go_on()?;
    let started = Instant::now();
    let layer = &planned.layer;
    let fitted = ready.sequenced.and_then(|sequenced| sequenced.layers.get(index).copied().flatten());
    let decomposed = ready.decomposed.get(index).and_then(Option::as_ref);
    let finished = decomposed.and_then(|decomposed| decomposed.finished_at(rank));
    let known = fitted.map(|fitted| fitted.measured_error).or(finished.map(|finished| finished.measured_error));
    let (factors, measured_error) = if let (Some(known), Some(factors)) = (known, ready.store.take_factors(index)?) {
        (factors, Some(known))
    } else {
        let weight = context.read(layer)?;
        let basis = ready.store.take(index, rank)?;
        let metric = if let Some(known) = metric.get() {
            known
        } else {
            let read = context.metrics.of(layer, context.source)?;
            metric.get_or_init(|| read)
        };
        let made = Made::of(context, layer, weight.view(), basis, metric.as_ref())?;
        let energy = decomposed.map_or(0.0, |decomposed| decomposed.spectrum.energy());
        let measured = ready.measure.then(|| made.measured_error(energy, &Room::new())).transpose();
        let measured = measured.map_err(|source| Error::decompose(layer, source))?;
        (made.factors, measured)
    };
    let factors = with_bias(factors, planned);
    sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write(layer, &factors).map_err(output_error)?;
    context.observer.step(Stage::Substitute, &layer.name);
    let seconds = started.elapsed().as_secs_f64();
    Ok(measured_error.map(|measured_error| Substituted { measured_error, seconds }))
}

/// The factors with the bias that was declared for them: zeros where nothing is to be made up for.
fn with_bias(factors: Factors, planned: &PlannedLayer) -> Factors {
    let zeros = || Array1::zeros(planned.layer.shape.rows());
    Factors { bias: planned.bias.then(|| factors.bias.unwrap_or_else(zeros)), ..factors }
}

/// The best factors of a layer at this rank, with the bias that makes up for what they cut.
pub(crate) fn factors_at(
    context: &Context<'_>,
    store: &Store,
    (index, layer): (usize, &Layer),
    rank: Rank,
) -> Result<Factors, Error> {
    let metric = context.metrics.of(layer, context.source)?;
    let weight = context.read(layer)?;
    Made::of(context, layer, weight.view(), store.take(index, rank)?, metric.as_ref()).map(|made| made.factors)
}

#[allow(clippy::cast_possible_truncation)] // files hold biases as f32 at most
pub(crate) fn to_f32(bias: Array1<f64>) -> Array1<f32> {
    bias.mapv(|v| v as f32)
}

/// `‖W − left · right‖ / ‖W‖`, a block of rows at a time; zero for a weight that is zero.
pub(crate) fn relative_error(weight: ArrayView2<'_, f32>, factors: &Factors) -> Result<f64, DecomposeError> {
    const ROWS: usize = 512;
    let mut lost = 0.0;
    let mut energy = 0.0;
    for (rows, left) in weight.axis_chunks_iter(Axis(0), ROWS).zip(factors.left.axis_chunks_iter(Axis(0), ROWS)) {
        let product = multiply(left, factors.right.view())?;
        for (&w, &p) in rows.iter().zip(&product) {
            lost += (f64::from(w) - f64::from(p)).powi(2);
            energy += f64::from(w).powi(2);
        }
    }
    Ok(relative(lost, energy))
}

/// The root of a loss as a share of an energy; the root itself where there is no energy.
pub(crate) fn relative(loss: f64, energy: f64) -> f64 {
    if energy > 0.0 { (loss / energy).sqrt() } else { loss.sqrt() }
}
