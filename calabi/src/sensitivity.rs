//! What cutting one layer alone does to the model's output: measured for every layer, or read from an earlier report.

mod divergence;
mod file;
mod sweep;

use calabi_api::{ConfigError, Layer, Rank, RankRule, Sensitivity, SensitivitySource};

use crate::calibrate::Calibrator;
use crate::choose::options;
use crate::decompose::{Context, Decomposed};
use crate::store::{Store, read_divergences, write_divergences};
use crate::substitute::factors_at;
use crate::tokens::Tokens;
use crate::{Decision, Error, Pipeline, Plan, Stage};
use divergence::Reference;

/// The share of a layer's parameters that is kept while its sensitivity is measured.
const REFERENCE: f64 = 0.6;

/// Where the rule of `[rank]` wants sensitivities from.
pub(crate) fn wanted(pipeline: &Pipeline) -> SensitivitySource {
    match &pipeline.rank.value {
        RankRule::Selector(selector) => selector.needs().sensitivity,
        RankRule::Allocator(allocator) => allocator.needs().sensitivity,
    }
}

/// What the rank rule asks for: a sensitivity for every layer that it decides about.
pub(crate) fn sensitivities(
    context: &Context<'_>,
    plan: &Plan,
    decomposed: &[Option<Decomposed>],
    store: &Store,
    calibrator: Option<&mut Calibrator<'_>>,
) -> Result<Vec<Option<Sensitivity>>, Error> {
    let span = &context.pipeline.rank.span;
    match (wanted(context.pipeline), calibrator) {
        (SensitivitySource::Off, _) => Ok(vec![None; plan.layers.len()]),
        (SensitivitySource::File(path), _) => {
            let path = context.pipeline.base.join(path);
            let settings = context.pipeline.calibration.as_ref().map(|settings| &settings.value);
            file::read(&path, plan, settings).map_err(|error| error.at(span.clone()).into())
        }
        (SensitivitySource::Measured, Some(calibrator)) => {
            let targets = targets(context, plan, decomposed);
            context.observer.begin(Stage::Sensitivity, targets.len());
            let cut = targets.iter().map(|target| (target.index, target.rank.get()));
            let kept = store.sensitivities(context.pipeline, context.source, cut)?;
            let known = kept.as_deref().and_then(|path| read_divergences(path, targets.len()));
            let divergences = match known {
                Some(divergences) => {
                    context.observer.note(Stage::Sensitivity, "these sensitivities were measured before");
                    divergences
                }
                None => Measurement { context, store, calibrator }.of(&targets)?,
            };
            kept.map(|path| write_divergences(&path, &divergences)).transpose()?;
            context.observer.end(Stage::Sensitivity);
            let mut found = vec![None; plan.layers.len()];
            for (target, divergence) in targets.iter().zip(divergences) {
                found[target.index] = Some(Sensitivity { loss: target.loss, divergence });
            }
            Ok(found)
        }
        (SensitivitySource::Measured, None) => Err(no_data().at(span.clone()).into()),
    }
}

fn no_data() -> ConfigError {
    ConfigError::new("sensitivities are measured on data, and the pipeline has none")
        .with_help("add [calibration] data = \"...\", or take sensitivity = \"off\"")
}

/// A layer that is cut for once.
struct Target<'a> {
    index: usize,
    layer: &'a Layer,
    rank: Rank,
    loss: f64,
}

/// The layers that the rule decides about, each with the rank at which it is cut.
fn targets<'a>(context: &Context<'_>, plan: &'a Plan, decomposed: &[Option<Decomposed>]) -> Vec<Target<'a>> {
    let target = |(index, (planned, decomposed)): (usize, (&'a crate::PlannedLayer, &Option<Decomposed>))| {
        let spectrum = &decomposed.as_ref()?.spectrum;
        let rank = reference(context, &planned.layer, spectrum.known())?;
        let open = planned.decision == Decision::Open;
        open.then(|| Target { index, layer: &planned.layer, rank, loss: spectrum.loss(rank.get()) })
    };
    plan.layers.iter().zip(decomposed).enumerate().filter_map(target).collect()
}

/// The largest option that keeps no more than [`REFERENCE`] of a layer's parameters, else the smallest.
fn reference(context: &Context<'_>, layer: &Layer, known: usize) -> Option<Rank> {
    let options = options(layer, &context.pipeline.layers, known);
    let most = REFERENCE * layer.cost.dense.parameters as f64;
    let within = options.iter().rev().find(|&&rank| layer.cost.at(rank).parameters as f64 <= most);
    within.or(options.first()).copied()
}

/// What it takes to measure.
struct Measurement<'m, 'c> {
    context: &'m Context<'m>,
    store: &'m Store,
    calibrator: &'m mut Calibrator<'c>,
}

impl Measurement<'_, '_> {
    /// The divergence of each target, in their order.
    fn of(&mut self, targets: &[Target<'_>]) -> Result<Vec<f64>, Error> {
        let Some(blocks) = self.calibrator.runner.blocks() else { return self.one_by_one(targets) };
        let place: Vec<_> = targets.iter().map(|target| blocks.block_of(target.layer)).collect();
        let mut found = self.sweep(targets, &place)?;
        for (target, found) in targets.iter().zip(&mut found) {
            if found.is_none() {
                *found = self.one_by_one(std::slice::from_ref(target))?.pop();
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// A run of the whole model for every layer.
    fn one_by_one(&mut self, targets: &[Target<'_>]) -> Result<Vec<f64>, Error> {
        let samples = self.calibrator.sensitivity_samples();
        let fail = self.calibrator.failure();
        let tokens = Tokens::of(&samples);
        let dense = self.calibrator.runner.outputs(&samples).map_err(&fail)?;
        let dense = Reference::new(dense, tokens.as_ref(), 0);
        let mut found = Vec::with_capacity(targets.len());
        for target in targets {
            self.context.go_on()?;
            let factors = factors_at(self.context, self.store, (target.index, target.layer), target.rank)?;
            let runner = &mut *self.calibrator.runner;
            runner.substitute(target.layer, Some(&factors)).map_err(&fail)?;
            let outputs = runner.outputs(&samples).map_err(&fail)?;
            runner.substitute(target.layer, None).map_err(&fail)?;
            found.push(dense.divergence(&outputs).map_err(&fail)?);
            self.context.observer.step(Stage::Sensitivity, &target.layer.name);
        }
        Ok(found)
    }
}
