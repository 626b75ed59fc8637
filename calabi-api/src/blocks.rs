//! The contract of models that run block by block: one block's weights in memory, the hidden states of all samples kept.

use std::ops::Range;

use ndarray::{ArrayD, ArrayView2};

use crate::settings::Positive;
use crate::{Factors, Layer, Output, RunError, Samples, States};

/// Sees what flows into layers: the name of a distinct input (of [`Runner::sources`](crate::Runner::sources)), and rows
/// of it, tokens × features. Rows of padding are left out.
///
/// ```
/// use calabi_api::Watch;
/// use calabi_api::ndarray::{Array2, ArrayView2, array};
///
/// let mut gram = Array2::<f32>::zeros((2, 2));
/// let watch: &mut Watch<'_> = &mut |_: &str, rows: ArrayView2<'_, f32>| {
///     gram += &rows.t().dot(&rows);
///     Ok(())
/// };
/// watch("norm", array![[1.0, 2.0], [3.0, 4.0]].view())?; // a runner calls it: two tokens of two features
/// assert_eq!(gram, array![[10.0, 14.0], [14.0, 20.0]]);
/// # Ok::<(), calabi_api::RunError>(())
/// ```
pub type Watch<'a> = dyn FnMut(&str, ArrayView2<'_, f32>) -> Result<(), RunError> + 'a;

/// A model that runs block by block, so that a large one can be calibrated on a small machine.
///
/// # Contract
/// - Samples are treated one by one: what a sample gives does not depend on the others, nor on the number of threads.
/// - Substituted layers take part in everything until they are put back.
/// - [`forward`](Self::forward) over all blocks, then [`outputs`](Self::outputs), gives what
///   [`Runner::outputs`](crate::Runner::outputs) gives.
///
/// ```
/// # use std::ops::Range;
/// # use calabi_api::ndarray::{Axis, Ix2, array, concatenate};
/// # use calabi_api::settings::Positive;
/// # use calabi_api::{DType, LayerCost, RefineSettings, Role, Shape, Tensor, Wiring};
/// use calabi_api::{BlockRunner, Layer, Output, RunError, Samples, StateSpace, States, Watch};
///
/// /// Two blocks, each of one layer that doubles its input.
/// struct Doubling;
///
/// impl BlockRunner for Doubling {
///     fn count(&self) -> usize {
///         2
///     }
///
///     fn block_of(&self, layer: &Layer) -> Option<usize> {
///         layer.name.strip_prefix("block.")?.parse().ok().filter(|&block| block < self.count())
///     }
///
///     fn embed(&mut self, samples: &Samples, space: &StateSpace) -> Result<States, RunError> {
///         let mut states = States::new(space.clone());
///         # let Some((_, Tensor::F32(x))) = samples.inputs.first() else { return Err(RunError::Failed("x".into())) };
///         for sample in x.outer_iter() {
///             # let sample = sample.into_dimensionality::<Ix2>().map_err(|e| RunError::Failed(e.to_string()))?;
///             states.push(sample.to_owned(), None)?;
///         }
///         Ok(states)
///     }
///
///     fn forward(
///         &mut self,
///         block: usize,
///         states: &mut States,
///         layers: &[&Layer],
///         watch: &mut Watch<'_>,
///     ) -> Result<(), RunError> {
///         self.observe(block, states, 0..states.count(), layers, watch)?;
///         (0..states.count()).try_for_each(|sample| states.set(sample, 2.0 * &*states.get(sample)?))
///     }
///
///     fn observe(
///         &mut self,
///         block: usize,
///         states: &States,
///         mut samples: Range<usize>,
///         layers: &[&Layer],
///         watch: &mut Watch<'_>,
///     ) -> Result<(), RunError> {
///         if !layers.iter().any(|layer| self.block_of(layer) == Some(block)) {
///             return Ok(());
///         }
///         samples.try_for_each(|sample| watch(&format!("input of block {block}"), states.get(sample)?.view()))
///     }
///
///     fn outputs(&mut self, states: &States, samples: Range<usize>) -> Result<Vec<Output>, RunError> {
///         # let all = samples.map(|i| Ok(states.get(i)?.into_owned().insert_axis(Axis(0))));
///         # let all = all.collect::<Result<Vec<_>, RunError>>()?;
///         # let all: Vec<_> = all.iter().map(|x| x.view()).collect();
///         # let values = concatenate(Axis(0), &all).map_err(|e| RunError::Failed(e.to_string()))?.into_dyn();
///         Ok(vec![Output { name: "y".to_owned(), values }])
///     }
/// }
///
/// # let shape = Shape::new(2, 2).ok_or("empty")?;
/// # let (name, cost) = ("block.1".to_owned(), LayerCost::new(shape, DType::F32, DType::F32));
/// # let wiring = Wiring::default();
/// # let layer = Layer { name, shape, dtype: DType::F32, role: Role::Linear, cost, wiring, bias: false, key: 1 };
/// let x = array![[[1.0, 2.0]], [[3.0, 4.0]]].into_dyn(); // two samples of one token
/// let samples = Samples { inputs: vec![("x".to_owned(), Tensor::F32(x.clone()))] };
/// let mut states = Doubling.embed(&samples, &StateSpace::default())?;
/// let mut seen = Vec::new(); // what flows into the layer of the second block
/// for block in 0..Doubling.count() {
///     Doubling.forward(block, &mut states, &[&layer], &mut |_, rows| Ok(seen.extend(rows.iter().copied())))?;
/// }
/// assert_eq!(seen, [2.0, 4.0, 6.0, 8.0]);
/// assert_eq!(Doubling.outputs(&states, 0..2)?[0].values, 4.0 * x);
/// # let learning_rate = Positive::new(1e-4).ok_or("no step")?;
/// # let settings = RefineSettings { epochs: 1, learning_rate, batch: 1, held_out: 1, seed: 0 };
/// assert!(Doubling.refine(0, &states, &states, &settings).is_err()); // it has nothing to tune
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi_api::{RefineSettings, settings::Positive};
///
/// let learning_rate = Positive::new(1e-4).ok_or("not positive")?;
/// let settings = RefineSettings { epochs: 4, learning_rate, batch: 8, held_out: 16, seed: 0 };
/// // Of 128 samples 112 are tuned on, 8 a step.
/// let steps = settings.epochs * (128 - settings.held_out).div_ceil(settings.batch);
/// assert_eq!(steps, 56);
/// # Ok::<(), &str>(())
/// ```
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
///
/// ```
/// use calabi_api::Refined;
///
/// /// How much of the loss on unseen samples is gone.
/// fn gain(block: &Refined) -> f64 {
///     let (before, after) = block.held_out;
///     if before > 0.0 { 1.0 - after / before } else { 0.0 }
/// }
///
/// assert_eq!(gain(&Refined { loss: (0.5, 0.0625), held_out: (0.5, 0.125), ..Refined::default() }), 0.75);
/// assert_eq!(gain(&Refined::default()), 0.0); // nothing was gained, and nothing is kept
/// ```
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
