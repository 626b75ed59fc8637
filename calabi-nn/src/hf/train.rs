//! Trains the factors of a compressed language model, its biases and its norms, on text: by the next token, or to give
//! the probabilities that the original gives.
//!
//! Windows that are kept out of the training judge it, first of all the model as it was: the best is kept.

mod clock;
mod network;
mod order;
mod parameters;
mod run;
mod state;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::Path;

use calabi_api::{RunError, Samples};
use ndarray::ArrayD;

pub use clock::TrainLimit;

/// What is trained for.
///
/// ```
/// use calabi_nn::{TrainLimit, TrainObjective, TrainSettings};
///
/// let settings = |objective| TrainSettings {
///     objective,
///     limit: TrainLimit { seconds: None, steps: Some(100) },
///     learning_rate: 1e-4,
///     batch: 1,
///     held_out: 8,
///     seed: 0,
///     save_every: 60.0,
/// };
/// assert_ne!(settings(TrainObjective::NextToken), settings(TrainObjective::Distill));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainObjective {
    /// The probability of the token that follows.
    NextToken,
    /// The probabilities that the original gives, all of them.
    Distill,
}

/// How a model is trained: by `AdamW`, with warm-up, cosine decay and clipped gradients.
///
/// ```
/// use calabi_nn::{TrainLimit, TrainObjective, TrainSettings};
///
/// let settings = TrainSettings {
///     objective: TrainObjective::NextToken,
///     limit: TrainLimit { seconds: Some(1200.0), steps: None },
///     learning_rate: 1e-4,
///     batch: 1,
///     held_out: 8,
///     seed: 0,
///     save_every: 120.0,
/// };
/// assert!(settings.limit.steps.is_none(), "time alone ends the training");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainSettings {
    /// What for.
    pub objective: TrainObjective,
    /// When it ends.
    pub limit: TrainLimit,
    /// The largest step.
    pub learning_rate: f64,
    /// Windows a step.
    pub batch: usize,
    /// So many windows, spread over all, are kept out of the training and judge it.
    pub held_out: usize,
    /// Orders the windows.
    pub seed: u64,
    /// Seconds from one saving of the state to the next.
    pub save_every: f64,
}

/// Something that happened in a training.
///
/// ```
/// use std::ops::ControlFlow;
/// use calabi_nn::TrainEvent;
///
/// let first_judgement = |event| match event {
///     TrainEvent::Judged { step, .. } if step > 0 => ControlFlow::Break(()),
///     _ => ControlFlow::Continue(()),
/// };
/// assert!(first_judgement(TrainEvent::Judged { step: 0, loss: 4.2 }).is_continue());
/// assert!(first_judgement(TrainEvent::Judged { step: 20, loss: 3.9 }).is_break());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainEvent {
    /// A former run was interrupted after so many steps and seconds: this one goes on from there.
    Resumed {
        /// Steps that were taken.
        step: usize,
        /// Seconds that were spent.
        seconds: f64,
    },
    /// A step was taken.
    Stepped {
        /// Steps that were taken.
        step: usize,
        /// The share of the training that is done.
        along: f64,
        /// The mean loss of the step's tokens before it, in nats.
        loss: f64,
        /// Seconds that were spent, in all runs.
        seconds: f64,
    },
    /// The held-out windows have judged.
    Judged {
        /// Steps that were taken.
        step: usize,
        /// The mean loss of a held-out token by the tokens before it, in nats.
        loss: f64,
    },
}

/// What became of a training.
///
/// ```
/// # use calabi_nn::{TrainLimit, TrainObjective, TrainSettings, train};
/// # use std::{fs, path::Path};
/// # use calabi_api::{Rank, Runtime};
/// # use calabi_nn::candle_core::{Device, safetensors};
/// # use calabi_nn::candle_nn::Linear;
/// # use calabi_nn::{HfRuntime, LowRankLinear, text_windows};
/// # let root = Path::new(env!("CARGO_MANIFEST_DIR"));
/// # let original = root.join("tests/models/llama");
/// # let folder = tempfile::tempdir()?;
/// # let (student, state) = (folder.path().join("small"), folder.path().join("state"));
/// # fs::create_dir(&student)?;
/// # fs::copy(original.join("config.json"), student.join("config.json"))?;
/// # let mut tensors = safetensors::load(original.join("model.safetensors"), &Device::Cpu)?;
/// # let name = "model.layers.0.mlp.up_proj";
/// # let weight = tensors.remove(&format!("{name}.weight")).ok_or("no weight")?;
/// # let dense = Linear::new(weight, tensors.remove(&format!("{name}.bias")));
/// # let fixed = calabi_rank::Fixed { rank: Rank::new(8).ok_or("no rank")? };
/// # let factorized = LowRankLinear::compress(&dense, &calabi_svd::Faer::default(), &fixed)?.layer;
/// # tensors.extend(factorized.tensors(name));
/// # safetensors::save(&tensors, student.join("model.safetensors"))?;
/// # let inputs = HfRuntime::default().load(&original)?.inputs();
/// # let words = root.join("../tests/models/tiny-lm");
/// # let samples =
/// #     text_windows(&words.join("text.txt"), Some(&words.join("tokenizer.json")), &original, 10, None, &inputs)?;
/// # let settings = TrainSettings {
/// #     objective: TrainObjective::Distill,
/// #     limit: TrainLimit { seconds: None, steps: Some(4) },
/// #     learning_rate: 1e-3,
/// #     batch: 2,
/// #     held_out: 4,
/// #     seed: 0,
/// #     save_every: 60.0,
/// # };
/// # let watch = &mut |_| std::ops::ControlFlow::Continue(());
/// // `student` is a compressed copy of the folder `original`; `settings` ask for 4 steps of 2 windows of 10 tokens.
/// let trained = train(&student, Some(&original), &samples, &settings, &state, watch)?.ok_or("ended early")?;
/// assert_eq!((trained.steps, trained.resumed_at), (4, None));
/// assert_eq!(trained.tensors.is_empty(), trained.held_out.1 == trained.held_out.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Trained {
    /// The tensors that were trained, by their names in the file. None where nothing was gained.
    pub tensors: Vec<(String, ArrayD<f32>)>,
    /// The loss of a held-out token, in nats, before and after: what is kept is never worse than what was.
    pub held_out: (f64, f64),
    /// Steps of the optimizer, in all runs.
    pub steps: usize,
    /// Tokens that were trained on, repetitions counted.
    pub tokens: u64,
    /// Seconds, in all runs.
    pub seconds: f64,
    /// The step after which a former run was interrupted, where this one went on from there.
    pub resumed_at: Option<usize>,
}

/// Trains the model in the folder `student` on windows of text. `teacher` is the original: it is needed to distill.
///
/// The state of the training is kept in the file `state`; where that is there, the training goes on from it. It is left
/// there, also where the training is done. The watcher may end the training: then there is no result, and the state is
/// kept.
///
/// ```
/// use std::ops::ControlFlow;
/// use calabi_nn::{TrainEvent, TrainLimit, TrainObjective, TrainSettings, train};
///
/// # use std::{fs, path::Path};
/// # use calabi_api::{Rank, Runtime};
/// # use calabi_nn::candle_core::{Device, safetensors};
/// # use calabi_nn::candle_nn::Linear;
/// # use calabi_nn::{HfRuntime, LowRankLinear, text_windows};
/// # let root = Path::new(env!("CARGO_MANIFEST_DIR"));
/// # let original = root.join("tests/models/llama");
/// # let folder = tempfile::tempdir()?;
/// # let (student, state) = (folder.path().join("small"), folder.path().join("state"));
/// # fs::create_dir(&student)?;
/// # fs::copy(original.join("config.json"), student.join("config.json"))?;
/// # let mut tensors = safetensors::load(original.join("model.safetensors"), &Device::Cpu)?;
/// # let name = "model.layers.0.mlp.up_proj";
/// # let weight = tensors.remove(&format!("{name}.weight")).ok_or("no weight")?;
/// # let dense = Linear::new(weight, tensors.remove(&format!("{name}.bias")));
/// # let fixed = calabi_rank::Fixed { rank: Rank::new(8).ok_or("no rank")? };
/// # let factorized = LowRankLinear::compress(&dense, &calabi_svd::Faer::default(), &fixed)?.layer;
/// # tensors.extend(factorized.tensors(name));
/// # safetensors::save(&tensors, student.join("model.safetensors"))?;
/// # let inputs = HfRuntime::default().load(&original)?.inputs();
/// # let words = root.join("../tests/models/tiny-lm");
/// # let samples =
/// #     text_windows(&words.join("text.txt"), Some(&words.join("tokenizer.json")), &original, 10, None, &inputs)?;
/// let settings = TrainSettings {
///     objective: TrainObjective::Distill,
///     limit: TrainLimit { seconds: None, steps: Some(4) },
///     learning_rate: 1e-3,
///     batch: 2,
///     held_out: 4,
///     seed: 0,
///     save_every: 60.0,
/// };
/// let mut watch = |event| {
///     if let TrainEvent::Stepped { step, loss, .. } = event {
///         println!("step {step}: {loss:.3}");
///     }
///     ControlFlow::Continue(())
/// };
/// // `student` is a compressed copy of the folder `original`.
/// let trained = train(&student, Some(&original), &samples, &settings, &state, &mut watch)?.ok_or("ended early")?;
/// let (before, after) = trained.held_out;
/// assert!(after <= before && state.is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory
/// All weights of both models, of what is trained also the gradients, two moments and the best so far, and what blocks
/// compute for 1024 tokens, or one window: at most 2 GiB and one block's.
///
/// # Errors
/// Where a model cannot be read, predicts no tokens or is not factorized, the windows are too few, the state is of another
/// training, or numbers overflow.
pub fn train(
    student: &Path,
    teacher: Option<&Path>,
    samples: &Samples,
    settings: &TrainSettings,
    state: &Path,
    watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<Option<Trained>, RunError> {
    run::Training::begin(student, teacher, samples, settings, state)?.run(watch)
}

/// The loss of a token by the tokens before it, in nats, of the windows that a training keeps out.
///
/// ```
/// use calabi_api::{Runtime, Samples, Tensor};
/// use calabi_nn::{held_out_loss, ndarray::Array2};
///
/// # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/llama").as_ref();
/// // Eight windows of ten tokens each, of which two are kept out.
/// let tokens = Array2::from_shape_fn((8, 10), |(window, place)| (7 * window + place) as i64);
/// let samples = Samples { inputs: vec![("input_ids".to_owned(), Tensor::I64(tokens.into_dyn()))] };
/// let loss = held_out_loss(model, &samples, 2)?;
/// assert!(loss > 0.0 && loss.is_finite());
/// # Ok::<(), calabi_api::RunError>(())
/// ```
///
/// # Errors
/// Where the model cannot be read, predicts no tokens, or a number overflows.
pub fn held_out_loss(model: &Path, samples: &Samples, held_out: usize) -> Result<f64, RunError> {
    run::loss_of(model, samples, held_out)
}
