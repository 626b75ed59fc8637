//! One of the two models and its hidden states in front of the present block.

use std::ops::Range;

use calabi_api::{Layer, Name, RunError, Runner, Samples, StateSpace, States};
use ndarray::{Array2, ArrayView2};

use crate::calibrate::blocks;

/// One of the two models and its hidden states in front of the present block.
pub(super) struct Side {
    pub(super) runner: Box<dyn Runner>,
    pub(super) states: States,
}

impl Side {
    pub(super) fn begin(mut runner: Box<dyn Runner>, samples: &Samples, space: &StateSpace) -> Result<Self, RunError> {
        let states = blocks(&mut *runner)?.embed(samples, space)?;
        Ok(Self { runner, states })
    }

    /// Moves the states behind a block.
    pub(super) fn forward(&mut self, block: usize) -> Result<(), RunError> {
        blocks(&mut *self.runner)?.forward(block, &mut self.states, &[], &mut |_, _| Ok(()))
    }

    /// What flows into a layer of a block, for some samples.
    pub(super) fn input(
        &mut self,
        block: usize,
        samples: Range<usize>,
        layer: &Layer,
    ) -> Result<Array2<f32>, RunError> {
        let mut seen: Vec<Array2<f32>> = Vec::new();
        let watch = &mut |_: &str, rows: ArrayView2<'_, f32>| {
            seen.push(rows.to_owned());
            Ok(())
        };
        blocks(&mut *self.runner)?.observe(block, &self.states, samples, &[layer], watch)?;
        let views: Vec<_> = seen.iter().map(|rows| rows.view()).collect();
        ndarray::concatenate(ndarray::Axis(0), &views)
            .map_err(|_| RunError::Failed(format!("nothing flows into layer {}", Name::new(&layer.name))))
    }

    /// The layers in groups that share an input, in the order in which the block needs them.
    pub(super) fn flow(&mut self, block: usize, layers: &[&Layer]) -> Result<Vec<Vec<usize>>, RunError> {
        let sources = self.runner.sources(layers)?;
        let mut order: Vec<String> = Vec::new();
        let watch = &mut |name: &str, _: ArrayView2<'_, f32>| {
            if order.iter().all(|known| known != name) {
                order.push(name.to_owned());
            }
            Ok(())
        };
        blocks(&mut *self.runner)?.observe(block, &self.states, 0..1, layers, watch)?;
        let readers = |name: &String| (0..layers.len()).filter(|&i| sources[i] == *name).collect();
        Ok(order.iter().map(readers).collect())
    }
}
