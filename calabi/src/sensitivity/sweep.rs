//! One sweep through the blocks measures all layers: behind its own block, a cut model is a few more samples.
//!
//! So each block's weights are read once, and nothing before a cut runs twice.

use calabi_api::{RunError, Runner, StateSpace, States};
use ndarray::Axis;

use super::divergence::Reference;
use super::{Measurement, Target};
use crate::calibrate::blocks;
use crate::substitute::factors_at;
use crate::{Error, Stage};

impl Measurement<'_, '_> {
    /// The divergence of every target that stands in a block.
    pub(super) fn sweep(&mut self, targets: &[Target<'_>], place: &[Option<usize>]) -> Result<Vec<Option<f64>>, Error> {
        let samples = self.calibrator.sensitivity_samples();
        let (space, fail) = (self.calibrator.space(), self.calibrator.failure());
        let mut models = Models::new(&mut *self.calibrator.runner, &samples, &space).map_err(&fail)?;
        let mut cut = Vec::new();
        for block in 0..models.count().map_err(&fail)? {
            models.forward_cut(block).map_err(&fail)?;
            let here = targets.iter().enumerate().filter(|&(number, _)| place[number] == Some(block));
            for (number, target) in here {
                self.context.go_on()?;
                let factors = factors_at(self.context, self.store, (target.index, target.layer), target.rank)?;
                models.runner.substitute(target.layer, Some(&factors)).map_err(&fail)?;
                models.branch(block).map_err(&fail)?;
                models.runner.substitute(target.layer, None).map_err(&fail)?;
                cut.push(number);
                self.context.observer.step(Stage::Sensitivity, &target.layer.name);
            }
            models.forward_dense(block).map_err(&fail)?;
        }
        let mut found = vec![None; targets.len()];
        for (number, divergence) in cut.into_iter().zip(models.divergences().map_err(&fail)?) {
            found[number] = Some(divergence);
        }
        Ok(found)
    }
}

/// Of so many tokens one is compared: the head of a language model costs as much as many blocks.
const STRIDE: usize = 4;

/// The model as it is, and all models with one layer cut, on their way through the blocks.
struct Models<'r> {
    runner: &'r mut dyn Runner,
    dense: States,
    /// The samples of the first cut model, those of the second, and so on.
    cut: States,
}

impl<'r> Models<'r> {
    fn new(runner: &'r mut dyn Runner, samples: &calabi_api::Samples, space: &StateSpace) -> Result<Self, RunError> {
        let dense = blocks(runner)?.embed(samples, space)?;
        Ok(Self { runner, dense, cut: States::new(space.clone()) })
    }

    fn count(&mut self) -> Result<usize, RunError> {
        Ok(blocks(self.runner)?.count())
    }

    fn forward_cut(&mut self, block: usize) -> Result<(), RunError> {
        blocks(self.runner)?.forward(block, &mut self.cut, &[], &mut |_, _| Ok(()))
    }

    fn forward_dense(&mut self, block: usize) -> Result<(), RunError> {
        blocks(self.runner)?.forward(block, &mut self.dense, &[], &mut |_, _| Ok(()))
    }

    /// Adds the model that leaves the others at this block.
    fn branch(&mut self, block: usize) -> Result<(), RunError> {
        let mut states = self.dense.duplicate()?;
        blocks(self.runner)?.forward(block, &mut states, &[], &mut |_, _| Ok(()))?;
        self.cut.append(&states)
    }

    /// How far each cut model's outputs are from the model's own, in the mean over samples.
    fn divergences(self) -> Result<Vec<f64>, RunError> {
        let samples = self.dense.count();
        let mut sums = vec![0.0; self.cut.count() / samples.max(1)];
        let blocks = blocks(self.runner)?;
        for sample in 0..samples {
            let dense = Reference::new(blocks.outputs(&thinned(&self.dense, sample)?, 0..1)?, None, 0);
            for (model, sum) in sums.iter_mut().enumerate() {
                let cut = thinned(&self.cut, model * samples + sample)?;
                *sum += dense.divergence(&blocks.outputs(&cut, 0..1)?)?;
            }
        }
        Ok(sums.into_iter().map(|sum| sum / samples as f64).collect())
    }
}

/// Every [`STRIDE`]th token of a sample, padding left out: what follows the last block treats tokens one by one.
fn thinned(states: &States, sample: usize) -> Result<States, RunError> {
    let values = states.get(sample)?;
    let real = |&row: &usize| states.tokens(sample).is_none_or(|tokens| tokens.get(row) == Some(&true));
    let rows: Vec<usize> = (0..values.nrows()).filter(real).step_by(STRIDE).collect();
    let mut thin = States::new(StateSpace::default());
    thin.push(values.select(Axis(0), &rows), None)?;
    Ok(thin)
}
