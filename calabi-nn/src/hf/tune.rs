//! Tunes a block whose layers are factorized, so that it gives back what the original block gave.
//!
//! Its factors, their biases and the block's norms are moved by `AdamW` against a loss on the block's outputs. Samples
//! that are kept out of the tuning judge every epoch, and the untuned block before the first: the best is kept.

mod loss;
mod parameters;
mod run;

use calabi_api::{RefineSettings, Refined, RunError, States};

use super::runner::HfRunner;
use super::store::tensor_of;
use loss::Measure;
use parameters::Parameters;
use run::{Losses, Run};

impl HfRunner {
    /// See [`BlockRunner::refine`](calabi_api::BlockRunner::refine).
    pub(super) fn tuned(
        &mut self,
        number: usize,
        inputs: &States,
        targets: &States,
        settings: &RefineSettings,
    ) -> Result<Refined, RunError> {
        let measure = Measure::of(&self.model, targets)?;
        let (block, model) = self.block(number)?;
        let run = Run::new(block, model, measure, (inputs, targets), settings)?;
        let before = run.losses(block)?;
        let tuned = run.tune(before).map_err(|error| RunError::Failed(format!("block {number}: {error}")))?;
        match tuned {
            None => Ok(report(None, before, before)?),
            Some((parameters, after)) => {
                let refined = report(Some(parameters), before, after)?;
                self.keep(&refined)?;
                Ok(refined)
            }
        }
    }

    /// Puts what was tuned in its place.
    fn keep(&mut self, refined: &Refined) -> Result<(), RunError> {
        for (name, factors) in &refined.factors {
            let shape = (factors.left.nrows(), factors.right.ncols());
            self.store.substitute(name, shape, Some(factors))?;
        }
        for (name, values) in &refined.amended {
            self.store.amend(name, tensor_of(values.iter().copied().collect(), values.len())?);
        }
        self.forget();
        Ok(())
    }
}

fn report(parameters: Option<Parameters>, before: Losses, after: Losses) -> Result<Refined, RunError> {
    let (factors, amended) = match parameters {
        Some(parameters) => parameters.into_results()?,
        None => (Vec::new(), Vec::new()),
    };
    let loss = (before.tuned, after.tuned);
    Ok(Refined { factors, amended, loss, held_out: (before.held_out, after.held_out) })
}
