//! One tuning: epochs over shuffled samples, each judged by the samples that are kept out.

use std::ops::Range;

use calabi_api::{RefineSettings, RunError, States};
use candle_core::{Tensor, Var};

use super::loss::Measure;
use super::parameters::Parameters;
use crate::hf::adam::{Adam, Rates};
use crate::hf::architecture::Architecture;
use crate::hf::block::Block;
use crate::hf::blocks::gathered;
use crate::hf::failed;
use crate::hf::pass::{Batch, unwatched};
use crate::hf::shuffle::Shuffle;

/// Tokens of one pass through the block; more only where one sample has more. A step of more sums its gradients.
const TOGETHER: usize = 4096;

/// What a tuning works on.
pub(super) struct Run<'a> {
    block: &'a Block,
    model: &'a Architecture,
    measure: Measure,
    inputs: &'a States,
    targets: &'a States,
    /// The samples before this one are tuned on, the others judge.
    tuned: usize,
    settings: &'a RefineSettings,
}

/// The loss of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Losses {
    /// On the samples that are tuned on.
    pub(super) tuned: f64,
    /// On those that are kept out; where none are, on those that are tuned on.
    pub(super) held_out: f64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        block: &'a Block,
        model: &'a Architecture,
        measure: Measure,
        (inputs, targets): (&'a States, &'a States),
        settings: &'a RefineSettings,
    ) -> Result<Self, RunError> {
        let count = inputs.count();
        for sample in 0..count.max(targets.count()) {
            if inputs.dim(sample)? != targets.dim(sample)? {
                return Err(RunError::Failed(format!(
                    "sample {sample} has other states to give back than to start from"
                )));
            }
        }
        if settings.held_out >= count {
            let held_out = settings.held_out;
            let problem = format!("{held_out} of {count} samples are kept out of the tuning: keep out fewer");
            return Err(RunError::Failed(problem));
        }
        Ok(Self { block, model, measure, inputs, targets, tuned: count - settings.held_out, settings })
    }

    /// The losses of a block in this one's place.
    pub(super) fn losses(&self, block: &Block) -> Result<Losses, RunError> {
        let tuned = self.loss(block, 0..self.tuned)?;
        let held_out = if self.settings.held_out == 0 { tuned } else { self.loss(block, self.judges())? };
        Ok(Losses { tuned, held_out })
    }

    fn judges(&self) -> Range<usize> {
        if self.settings.held_out == 0 { 0..self.tuned } else { self.tuned..self.inputs.count() }
    }

    /// The best parameters and their losses; none where no epoch was better than what was before.
    pub(super) fn tune(&self, before: Losses) -> Result<Option<(Parameters, Losses)>, RunError> {
        if !(before.tuned.is_finite() && before.held_out.is_finite()) {
            return Err(RunError::Failed("its outputs overflow before any tuning".to_owned()));
        }
        let mut parameters = Parameters::of(self.block)?;
        if parameters.is_empty() {
            return Ok(None);
        }
        let mut best: Option<(Parameters, f64)> = None;
        let mut order: Vec<usize> = (0..self.tuned).collect();
        let (mut shuffle, batch) = (Shuffle::new(self.settings.seed), self.settings.batch.max(1));
        let steps = self.tuned.div_ceil(batch) * self.settings.epochs;
        let (mut adam, mut step) = (Adam::default(), 0);
        let rates = Rates { largest: self.settings.learning_rate.get(), steps };
        for _ in 0..self.settings.epochs {
            shuffle.mix(&mut order);
            for batch in order.chunks(batch) {
                let stepped = self.gradients(&parameters, batch)?;
                let rate = rates.at(step);
                if !stepped.is_some_and(|gradients| adam.step(rate, parameters.values_mut(), &gradients)) {
                    return self.kept(best, true);
                }
                step += 1;
            }
            let judged = self.loss(&parameters.placed(self.block)?.0, self.judges())?;
            if judged < best.as_ref().map_or(before.held_out, |(_, judged)| *judged) {
                best = Some((parameters.clone(), judged));
            }
        }
        self.kept(best, false)
    }

    fn kept(&self, best: Option<(Parameters, f64)>, overflown: bool) -> Result<Option<(Parameters, Losses)>, RunError> {
        let Some((parameters, held_out)) = best else {
            return if overflown {
                Err(RunError::Failed("tuning overflows at once: take a lower learning rate".to_owned()))
            } else {
                Ok(None)
            };
        };
        let tuned = if self.settings.held_out == 0 {
            held_out
        } else {
            self.loss(&parameters.placed(self.block)?.0, 0..self.tuned)?
        };
        Ok(Some((parameters, Losses { tuned, held_out })))
    }

    /// The gradients of the loss on these samples; none where it overflows.
    fn gradients(&self, parameters: &Parameters, samples: &[usize]) -> Result<Option<Vec<Vec<f32>>>, RunError> {
        let (block, vars) = parameters.placed(self.block)?;
        let mut sums: Option<Vec<Vec<f32>>> = None;
        let tokens = self.tokens(samples.iter().copied())?;
        for group in self.groups(samples.iter().copied())? {
            let loss = self.loss_of(&block, &group, tokens)?;
            if !loss.to_scalar::<f32>().map_err(failed)?.is_finite() {
                return Ok(None);
            }
            let gradients = of_vars(&loss, &vars).map_err(failed)?;
            match &mut sums {
                None => sums = Some(gradients),
                Some(sums) => sums.iter_mut().flatten().zip(gradients.iter().flatten()).for_each(|(sum, g)| *sum += g),
            }
        }
        Ok(sums)
    }

    /// The mean loss of a token of these samples.
    fn loss(&self, block: &Block, samples: Range<usize>) -> Result<f64, RunError> {
        let tokens = self.tokens(samples.clone())?;
        let mut sum = 0.0;
        for group in self.groups(samples)? {
            sum += f64::from(self.loss_of(block, &group, tokens)?.to_scalar::<f32>().map_err(failed)?);
        }
        Ok(sum)
    }

    /// What samples of one length add to the mean loss of so many tokens.
    fn loss_of(&self, block: &Block, samples: &[usize], tokens: usize) -> Result<Tensor, RunError> {
        let (x, batch) = self.gathered(self.inputs, samples)?;
        let (target, _) = self.gathered(self.targets, samples)?;
        let y = block.forward(&x, &batch, &mut unwatched)?;
        let y = y.ok_or_else(|| RunError::Failed("a block stopped before its end".to_owned()))?;
        self.measure.loss(&y, &target, &batch, tokens).map_err(failed)
    }

    fn gathered(&self, states: &States, samples: &[usize]) -> Result<(Tensor, Batch), RunError> {
        gathered(self.model, states, samples.iter().copied())
    }

    fn tokens(&self, samples: impl Iterator<Item = usize>) -> Result<usize, RunError> {
        let count = |sample| match self.inputs.tokens(sample) {
            Some(tokens) => Ok(tokens.iter().filter(|token| **token).count()),
            None => Ok(self.inputs.dim(sample)?.0),
        };
        samples.map(count).sum()
    }

    /// The samples that pass together: of one length, in their order.
    fn groups(&self, samples: impl Iterator<Item = usize>) -> Result<Vec<Vec<usize>>, RunError> {
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        for sample in samples {
            let (length, _) = self.inputs.dim(sample)?;
            match groups.iter_mut().find(|(other, group)| *other == length && (group.len() + 1) * length <= TOGETHER) {
                Some((_, group)) => group.push(sample),
                None => groups.push((length, vec![sample])),
            }
        }
        Ok(groups.into_iter().map(|(_, group)| group).collect())
    }
}

fn of_vars(loss: &Tensor, vars: &[Var]) -> candle_core::Result<Vec<Vec<f32>>> {
    let gradients = loss.backward()?;
    let gradient = |var: &Var| match gradients.get(var) {
        Some(gradient) => gradient.flatten_all()?.to_vec1(),
        None => Ok(vec![0.0; var.elem_count()]),
    };
    vars.iter().map(gradient).collect()
}
