//! What is kept of every block, and where a pass goes on from.

use calabi_api::Factors;

use super::pass::Pass;
use super::{Fitted, Planned, Tuned};
use crate::Error;
use crate::store::FinishedBlock;

impl Pass<'_> {
    /// Takes over the blocks that are known, as far as the pass can go on behind them; returns their number.
    pub(super) fn resume(&mut self) -> Result<usize, Error> {
        let known = self.keys.iter().take_while(|key| self.store.knows_block(key)).count();
        let finished = (1..=known).rev().find(|&finished| self.stands_behind(finished)).unwrap_or(0);
        for block in 0..finished {
            self.take_over(block)?;
        }
        Ok(finished)
    }

    /// Puts both models behind so many blocks, where their states are kept; behind the last nothing runs any more.
    fn stands_behind(&mut self, finished: usize) -> bool {
        if finished == self.blocks.len() {
            return true;
        }
        let key = finished.checked_sub(1).and_then(|last| self.keys.get(last));
        let Some([original, compressed]) = key.and_then(|key| self.store.find_states(key, &self.space)) else {
            return false;
        };
        (self.original.states, self.compressed.states) = (original, compressed);
        true
    }

    /// Takes what is known of a block for this run's own. The models are behind it: they do without its factors.
    fn take_over(&mut self, block: usize) -> Result<(), Error> {
        let (Some(key), Some(layers)) = (self.keys.get(block), self.blocks.get(block)) else { return Ok(()) };
        let FinishedBlock { layers: fitted, amended, report } = self.store.take_block(key)?;
        for (Planned { index, .. }, (factors, fitted)) in layers.iter().zip(fitted) {
            self.store.put_factors(*index, &factors)?;
            if let Some(place) = self.done.layers.get_mut(*index) {
                *place = Some(fitted);
            }
        }
        self.done.amended.extend(amended);
        self.done.blocks.extend(report);
        Ok(())
    }

    /// Keeps a block that is finished, and the states behind it in place of those before it.
    pub(super) fn keep(&mut self, block: usize, tuned: Tuned) -> Result<(), Error> {
        let Some(key) = self.keys.get(block) else { return Ok(()) };
        if block + 1 < self.blocks.len() {
            self.store.put_states(key, [&self.original.states, &self.compressed.states])?;
        }
        let Tuned { amended, report } = tuned;
        let finished = FinishedBlock { layers: self.fitted(block)?, amended, report };
        self.store.put_block(key, &finished)?;
        if let Some(before) = block.checked_sub(1).and_then(|before| self.keys.get(before)) {
            self.store.remove_states(before);
        }
        self.done.amended.extend(finished.amended);
        self.done.blocks.extend(finished.report);
        Ok(())
    }

    /// The factors of a block's layers, as they are now.
    fn fitted(&self, block: usize) -> Result<Vec<(Factors, Fitted)>, Error> {
        let layers = self.blocks.get(block).into_iter().flatten();
        let one = |planned: &Planned<'_>| {
            let fitted = self.done.layers.get(planned.index).copied().flatten();
            Ok(self.store.take_factors(planned.index)?.zip(fitted))
        };
        layers.map(one).filter_map(Result::transpose).collect()
    }
}
