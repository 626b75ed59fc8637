//! The contract of models that run block by block: one block's weights in memory, the hidden states of all samples kept.

use std::ops::Range;

use ndarray::{ArrayD, ArrayView2};

use crate::settings::Positive;
use crate::{Factors, Layer, Output, RunError, Samples, States};

/// Sees what flows into layers: the name of a distinct input (of [`Runner::sources`](crate::Runner::sources)), and rows
/// of it, tokens × features. Rows of padding are left out.
pub type Watch<'a> = dyn FnMut(&str, ArrayView2<'_, f32>) -> Result<(), RunError> + 'a;

/// A model that runs block by block, so that a large one can be calibrated on a small machine.
///
/// # Contract
/// - Samples are treated one by one: what a sample gives does not depend on the others, nor on the number of threads.
/// - Substituted layers take part in everything until they are put back.
/// - [`forward`](Self::forward) over all blocks, then [`outputs`](Self::outputs), gives what
///   [`Runner::outputs`](crate::Runner::outputs) gives.
pub trait BlockRunner {
    /// The number of blocks.
    fn count(&self) -> usize;

    /// The block in which a layer stands; none for what comes before the first or after the last.
    fn block_of(&self, layer: &Layer) -> Option<usize>;

    /// The hidden states that enter the first block; kept in a file of `folder` where they pass `bound` bytes.
    ///
    /// # Errors
    /// Where the samples do not fit the model, or the states cannot be kept.
    fn embed(&mut self, samples: &Samples, space: &crate::StateSpace) -> Result<States, RunError>;

    /// Runs these samples through a block, in place, and lets the caller watch what flows into `layers`: of every
    /// distinct input once per sample, samples in their order.
    ///
    /// # Errors
    /// Where the block cannot be read, an operator fails, or the watcher does.
    fn forward(
        &mut self,
        block: usize,
        states: &mut States,
        layers: &[&Layer],
        watch: &mut Watch<'_>,
    ) -> Result<(), RunError>;

    /// What flows into `layers` of a block for some samples, in the order in which the block needs it. Runs no further
    /// than these layers' inputs.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn observe(
        &mut self,
        block: usize,
        states: &States,
        samples: Range<usize>,
        layers: &[&Layer],
        watch: &mut Watch<'_>,
    ) -> Result<(), RunError>;

    /// What follows the last block: the model's outputs for some samples, from the states behind it.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn outputs(&mut self, states: &States, samples: Range<usize>) -> Result<Vec<Output>, RunError>;

    /// Tunes a block whose layers are substituted so that it gives back `targets`, the original's states behind the
    /// block, from `inputs`, the states that the compressed prefix gives. What is kept is in place afterwards.
    ///
    /// # Errors
    /// Where this model cannot be tuned, or a number overflows.
    fn refine(
        &mut self,
        block: usize,
        inputs: &States,
        targets: &States,
        settings: &RefineSettings,
    ) -> Result<Refined, RunError> {
        let _ = (block, inputs, targets, settings);
        Err(RunError::Failed("this runtime cannot tune blocks".to_owned()))
    }
}

/// How a block is tuned: by `AdamW`, with warm-up, cosine decay and clipped gradients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefineSettings {
    /// Passes over the samples.
    pub epochs: usize,
    /// The largest step.
    pub learning_rate: Positive,
    /// Samples a step.
    pub batch: usize,
    /// The last so many samples are kept out of the tuning and judge it.
    pub held_out: usize,
    /// Orders the samples.
    pub seed: u64,
}

/// What became of a block that was tuned.
#[derive(Debug, Clone, Default)]
pub struct Refined {
    /// The tuned factors of the block's substituted layers, by layer name, with their biases. None where nothing was
    /// gained.
    pub factors: Vec<(String, Factors)>,
    /// Other tensors that were tuned (norms), by their names in the file.
    pub amended: Vec<(String, ArrayD<f32>)>,
    /// The loss on the tuned samples, before and after.
    pub loss: (f64, f64),
    /// The loss on the samples that were kept out, before and after; what is kept is never worse than what was.
    pub held_out: (f64, f64),
}
