//! How a run tells what it does: the engine never prints.

/// A step of the straight line.
///
/// ```
/// use std::sync::Mutex;
/// use calabi::{Observer, Stage};
/// # use calabi::{Compression, api::settings::Fraction, compress_model};
///
/// #[derive(Default)]
/// struct Stages(Mutex<Vec<Stage>>);
///
/// impl Observer for Stages {
///     fn begin(&self, stage: Stage, _steps: usize) {
///         self.0.lock().unwrap().push(stage);
///     }
/// }
///
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let output = folder.path().join("small.safetensors");
/// # let input = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors"));
/// # let half = Compression::keep(Fraction::new(0.5).ok_or("not a share")?);
/// let stages = Stages::default();
/// compress_model((input, output.as_path()), half, &stages)?;
/// assert_eq!(stages.0.into_inner()?, [Stage::Decompose, Stage::Substitute]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// use calabi::{Error, Observer, Stage};
/// # use calabi::{Compression, api::settings::Fraction, compress_model};
///
/// /// Ends a run after its first layer.
/// #[derive(Default)]
/// struct First(AtomicUsize);
///
/// impl Observer for First {
///     fn begin(&self, stage: Stage, steps: usize) {
///         println!("{stage:?}: {steps} steps");
///     }
///
///     fn step(&self, _stage: Stage, name: &str) {
///         println!("{name} is done, the number {}", self.0.fetch_add(1, Relaxed));
///     }
///
///     fn note(&self, _stage: Stage, line: &str) {
///         println!("{line}");
///     }
///
///     fn end(&self, stage: Stage) {
///         println!("{stage:?}: done");
///     }
///
///     fn cancelled(&self) -> bool {
///         self.0.load(Relaxed) > 0
///     }
/// }
///
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let output = folder.path().join("small.safetensors");
/// # let input = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors"));
/// # let half = Compression::keep(Fraction::new(0.5).ok_or("not a share")?);
/// let ended = compress_model((input, output.as_path()), half, &First::default());
/// assert!(matches!(ended, Err(Error::Cancelled)) && !output.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi::{Observer, Silent};
///
/// assert!(!Silent.cancelled());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
