//! One sweep through the blocks measures all layers: behind its own block, a cut model is a few more samples.
//!
//! So each block's weights are read once, and nothing before a cut runs twice.

use calabi_api::{RunError, Runner, StateSpace, States};

use super::divergence::Reference;
use super::{Measurement, Target};
use crate::calibrate::blocks;
use crate::substitute::factors_at;
use crate::tokens::Tokens;
use crate::{Error, Stage};

impl Measurement<'_, '_> {
    /// The divergence of every target that stands in a block.
    pub(super) fn sweep(&mut self, targets: &[Target<'_>], place: &[Option<usize>]) -> Result<Vec<Option<f64>>, Error> {
        let samples = self.calibrator.sensitivity_samples();
        let (space, fail) = (self.calibrator.space(), self.calibrator.failure());
        let mut models = Models::new(&mut *self.calibrator.runner, &samples, &space).map_err(&fail)?;
        let tokens = Tokens::of(&samples);
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
        for (number, divergence) in cut.into_iter().zip(models.divergences(tokens.as_ref()).map_err(&fail)?) {
            found[number] = Some(divergence);
        }
        Ok(found)
    }
}

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

    /// What each cut model's outputs are apart from the model's own, in the mean over samples.
    fn divergences(self, tokens: Option<&Tokens>) -> Result<Vec<f64>, RunError> {
        let samples = self.dense.count();
        let mut sums = vec![0.0; self.cut.count() / samples.max(1)];
        let blocks = blocks(self.runner)?;
        for sample in 0..samples {
            let dense = Reference::new(blocks.outputs(&self.dense, sample..sample + 1)?, tokens, sample);
            for (model, sum) in sums.iter_mut().enumerate() {
                let at = model * samples + sample;
                *sum += dense.divergence(&blocks.outputs(&self.cut, at..at + 1)?)?;
            }
        }
        Ok(sums.into_iter().map(|sum| sum / samples as f64).collect())
    }
}
