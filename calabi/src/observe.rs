//! How a run tells what it does: the engine never prints.

/// A step of the straight line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// What flows into layers, block by block or a group of layers at a time.
    Calibrate,
    /// Singular values and vectors, layer by layer.
    Decompose,
    /// What cutting one layer does to the model, layer by layer.
    Sensitivity,
    /// Factors on compressed inputs, and their tuning, block by block.
    Sequential,
    /// Budgets, one after the other, until the smallest that passes its gate is known.
    Search,
    /// Factors, layer by layer, into the new model.
    Substitute,
    /// Original and compressed side by side.
    Verify,
    /// The windows of a text.
    Evaluate,
    /// Steps of a training.
    Finetune,
}

/// Watches a run, and may ask it to end. Called from several threads.
pub trait Observer: Sync {
    /// A stage of so many layers (or models) begins.
    fn begin(&self, _stage: Stage, _steps: usize) {}

    /// A layer of the stage is done.
    fn step(&self, _stage: Stage, _name: &str) {}

    /// A line about how a stage goes.
    fn note(&self, _stage: Stage, _line: &str) {}

    /// The stage is done.
    fn end(&self, _stage: Stage) {}

    /// Whether the run is to end as soon as it can, leaving nothing behind.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
