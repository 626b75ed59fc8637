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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainObjective {
    /// The probability of the token that follows.
    NextToken,
    /// The probabilities that the original gives, all of them.
    Distill,
}

/// How a model is trained: by `AdamW`, with warm-up, cosine decay and clipped gradients.
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
/// # Errors
/// Where the model cannot be read, predicts no tokens, or a number overflows.
pub fn held_out_loss(model: &Path, samples: &Samples, held_out: usize) -> Result<f64, RunError> {
    run::loss_of(model, samples, held_out)
}
