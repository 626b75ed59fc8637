//! The pass over the blocks: every group of layers is fitted on what its compressed predecessors produce.

use std::time::Instant;

use calabi_api::{Factors, Layer, RefineSettings, RunError, StateSpace};
use rayon::prelude::*;

use super::key::{base, keys};
use super::side::Side;
use super::{Fitted, Planned, Sequenced, Tuned};
use crate::calibrate::{Calibrator, at, blocks};
use crate::decompose::Context;
use crate::metric::{Anchored, factors_from_basis};
use crate::report::BlockReport;
use crate::statistics::CrossMoments;
use crate::store::{BlockKey, Store};
use crate::substitute::{relative, to_f32};
use crate::{Error, Plan};

/// Samples whose inputs are in memory at once.
const TOGETHER: usize = 4;

pub(super) struct Pass<'p> {
    context: &'p Context<'p>,
    pub(super) store: &'p Store,
    /// Of each block, the layers that get factors.
    pub(super) blocks: Vec<Vec<Planned<'p>>>,
    /// Of each block, what it is kept by.
    pub(super) keys: Vec<BlockKey>,
    samples: usize,
    /// Where hidden states are.
    pub(super) space: StateSpace,
    pub(super) original: Side,
    pub(super) compressed: Side,
    refine: Option<RefineSettings>,
    fail: Box<dyn Fn(RunError) -> Error + 'p>,
    pub(super) done: Sequenced,
}

/// The layers that get factors, block by block.
fn by_block<'p>(plan: &'p Plan, model: &mut Side) -> Result<Vec<Vec<Planned<'p>>>, RunError> {
    let blocks = blocks(&mut *model.runner)?;
    let mut layers = vec![Vec::new(); blocks.count()];
    for (index, planned) in plan.layers.iter().enumerate() {
        let Some(rank) = planned.rank() else { continue };
        if let Some(place) = blocks.block_of(&planned.layer).and_then(|block| layers.get_mut(block)) {
            place.push(Planned { index, layer: &planned.layer, rank });
        }
    }
    Ok(layers)
}

/// The factors of a layer on compressed inputs.
fn fit(context: &Context<'_>, planned: &Planned<'_>, anchored: &Anchored) -> Result<(Factors, Fitted), Error> {
    let started = Instant::now();
    let Planned { layer, rank, .. } = *planned;
    let weight = context.read(layer)?;
    let failed = |source| Error::decompose(layer, source);
    let refitted = anchored.refit(weight.view()).map_err(failed)?;
    let decomposer = &*context.pipeline.decomposer;
    let fit = anchored.factorize(weight.view(), refitted.view(), decomposer, rank).map_err(failed)?;
    let mut factors = factors_from_basis(refitted.view(), fit.basis(rank).map_err(failed)?);
    factors.bias = anchored.compensation(weight.view(), &factors).map(to_f32);
    let factors = context.source.rounded(layer, factors, &context.pipeline.model.write_options());
    let added = factors.bias.as_ref().map(|bias| bias.mapv(f64::from));
    let loss = anchored.measured_loss(weight.view(), &factors, added.as_ref());
    let energy = fit.spectrum().energy();
    let measured_error = relative(loss, energy);
    let predicted_error = fit.spectrum().relative_error(rank.get());
    let seconds = started.elapsed().as_secs_f64();
    Ok((factors, Fitted { predicted_error, measured_error, refined: false, seconds }))
}

impl<'p> Pass<'p> {
    pub(super) fn begin(
        context: &'p Context<'p>,
        plan: &'p Plan,
        store: &'p Store,
        calibrator: Calibrator<'p>,
    ) -> Result<Self, Error> {
        let fail: Box<dyn Fn(RunError) -> Error + 'p> = Box::new(calibrator.failure());
        let (space, refine) = (calibrator.space(), calibrator.refine());
        let second = calibrator.load_again()?;
        let (samples, first) = calibrator.into_parts();
        let mut compressed = Side::begin(second, &samples, &space).map_err(&fail)?;
        let original = Side::begin(first, &samples, &space).map_err(&fail)?;
        let layers = by_block(plan, &mut compressed).map_err(&fail)?;
        let done = Sequenced { layers: vec![None; plan.layers.len()], ..Sequenced::default() };
        let base = base(context, refine.as_ref(), &original.states)?;
        let keys = keys(base, &layers);
        let samples = samples.count();
        Ok(Self { context, store, blocks: layers, keys, samples, space, original, compressed, refine, fail, done })
    }

    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn done(self) -> Sequenced {
        self.done
    }

    /// Fits the layers of a block, tunes it where that is asked for, and moves both models behind it.
    pub(super) fn block(&mut self, block: usize) -> Result<Tuned, Error> {
        let layers = self.blocks.get(block).cloned().unwrap_or_default();
        if !layers.is_empty() {
            let readers: Vec<&Layer> = layers.iter().map(|planned| planned.layer).collect();
            let groups = self.original.flow(block, &readers).map_err(&self.fail)?;
            for group in groups {
                let group: Vec<_> = group.into_iter().filter_map(|i| layers.get(i).copied()).collect();
                self.group(block, &group)?;
            }
        }
        self.original.forward(block).map_err(&self.fail)?;
        let tuned = match self.refine {
            Some(settings) if !layers.is_empty() => self.tune(block, &layers, &settings)?,
            _ => Tuned::default(),
        };
        self.compressed.forward(block).map_err(&self.fail)?;
        Ok(tuned)
    }

    /// Fits layers that share an input.
    fn group(&mut self, block: usize, group: &[Planned<'p>]) -> Result<(), Error> {
        let Some(first) = group.first() else { return Ok(()) };
        let started = Instant::now();
        let moments = self.moments(block, first.layer).map_err(&self.fail)?;
        let moments = moments.finish().map_err(|error| (self.fail)(at(first.layer, &error)))?;
        let anchored = Anchored::new(moments, self.context.metrics.bias(), self.context.metrics.shrinkage());
        let shared = started.elapsed().as_secs_f64() / group.len() as f64;
        let context = self.context;
        let fitted: Vec<_> =
            group.par_iter().map(|planned| fit(context, planned, &anchored)).collect::<Result<_, Error>>()?;
        for (planned, (factors, mut fitted)) in group.iter().zip(fitted) {
            fitted.seconds += shared;
            self.place(planned, &factors)?;
            if let Some(place) = self.done.layers.get_mut(planned.index) {
                *place = Some(fitted);
            }
        }
        Ok(())
    }

    /// Second moments of what flows into a layer of the original and of the compressed model, pair by pair.
    fn moments(&mut self, block: usize, layer: &Layer) -> Result<CrossMoments, RunError> {
        let mut moments = CrossMoments::new(layer.shape.cols());
        for start in (0..self.samples).step_by(TOGETHER) {
            let some = start..self.samples.min(start + TOGETHER);
            let x = self.original.input(block, some.clone(), layer)?;
            let compressed = self.compressed.input(block, some, layer)?;
            moments.add(x.view(), compressed.view()).map_err(|error| at(layer, &error))?;
        }
        Ok(moments)
    }

    /// Puts factors into the compressed model and into the store.
    fn place(&mut self, planned: &Planned<'_>, factors: &Factors) -> Result<(), Error> {
        self.compressed.runner.substitute(planned.layer, Some(factors)).map_err(&self.fail)?;
        self.store.put_factors(planned.index, factors)
    }

    fn tune(&mut self, block: usize, layers: &[Planned<'p>], settings: &RefineSettings) -> Result<Tuned, Error> {
        let started = Instant::now();
        let Side { runner, states } = &mut self.compressed;
        let refined = blocks(&mut **runner)
            .and_then(|blocks| blocks.refine(block, states, &self.original.states, settings))
            .map_err(&self.fail)?;
        for (name, factors) in &refined.factors {
            let Some(planned) = layers.iter().find(|planned| planned.layer.name == *name) else { continue };
            let options = self.context.pipeline.model.write_options();
            let rounded = self.context.source.rounded(planned.layer, factors.clone(), &options);
            self.place(planned, &rounded)?;
            if let Some(Some(fitted)) = self.done.layers.get_mut(planned.index) {
                fitted.refined = true;
            }
        }
        let report = BlockReport::new(block, &refined, started.elapsed().as_secs_f64());
        Ok(Tuned { amended: refined.amended, report: Some(report) })
    }
}
