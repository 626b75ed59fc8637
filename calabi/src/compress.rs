//! Whole models in one call, without a pipeline file.

#[cfg(feature = "runtimes")]
mod vars;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use calabi_api::settings::Fraction;
use calabi_api::{ConfigError, Decomposer, Layer, RankAllocator, RankSelector};

use crate::{CalibrationSettings, Error, Observer, Pattern, Pipeline, Report, RunOptions, locate, open_model, run};

/// What is compressed, and how: a [`Pipeline`] without a model.
///
/// ```
/// use calabi::api::settings::Fraction;
/// use calabi::{Compression, Pattern};
///
/// let half = Fraction::new(0.5).ok_or("not a share")?;
/// let compression = Compression::keep(half).with_exclude(vec![Pattern::new("*.v_proj")?]).with_min_features(128);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Compression {
    pipeline: Pipeline,
    options: RunOptions,
}

impl Compression {
    /// All layers share this budget: the share of their parameters that is kept
    /// ([`Budget`](crate::rank::Budget)). Layers stay dense where the budget is better spent elsewhere.
    #[must_use]
    pub fn keep(share: Fraction) -> Self {
        Self::allocator(crate::rank::Budget::new(share))
    }

    /// Every layer keeps this share of `min(m, n)` as its rank ([`Fraction`](crate::rank::Fraction)), also where its factors
    /// are then larger than the dense weight: what the original project called `compression_ratio`.
    #[must_use]
    pub fn fraction(share: Fraction) -> Self {
        Self::selector(crate::rank::Fraction { keep: share }).past_break_even()
    }

    /// The rank of each layer is chosen from its own spectrum.
    #[must_use]
    pub fn selector(selector: impl RankSelector + 'static) -> Self {
        Self { pipeline: Pipeline::new("", "", selector), options: RunOptions::default() }
    }

    /// One budget is shared among all layers.
    #[must_use]
    pub fn allocator(allocator: impl RankAllocator + 'static) -> Self {
        Self { pipeline: Pipeline::with_allocator("", "", allocator), options: RunOptions::default() }
    }

    /// Only layers whose whole name matches one of these.
    #[must_use]
    pub fn with_include(mut self, patterns: Vec<Pattern>) -> Self {
        self.pipeline.layers.include = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// No layer whose whole name matches one of these.
    #[must_use]
    pub fn with_exclude(mut self, patterns: Vec<Pattern>) -> Self {
        self.pipeline.layers.exclude.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// Only layers with at least so many inputs and outputs; 0 is 1.
    #[must_use]
    pub fn with_min_features(mut self, features: usize) -> Self {
        self.pipeline.layers.min_features = NonZeroUsize::new(features).unwrap_or(NonZeroUsize::MIN);
        self
    }

    /// Layers are factorized also where their factors are larger than the dense weight.
    #[must_use]
    pub fn past_break_even(mut self) -> Self {
        self.pipeline.layers.break_even = false;
        self
    }

    /// Decomposed by this instead of `faer`.
    #[must_use]
    pub fn with_decomposer(mut self, decomposer: Arc<dyn Decomposer>) -> Self {
        self.pipeline.decomposer = decomposer;
        self
    }

    /// Errors are measured in the metric of what flows into the layers: of data that the model runs on, or of statistics,
    /// for architectures that no runtime of this program runs.
    #[must_use]
    pub fn with_calibration(mut self, calibration: CalibrationSettings) -> Self {
        self.pipeline.calibration = Some(calibration.into());
        self
    }

    /// How the work is done: threads, whether an output that exists is replaced.
    #[must_use]
    pub fn with_options(mut self, options: RunOptions) -> Self {
        self.options = options;
        self
    }

    /// Compresses `input` to `output`.
    fn run(mut self, input: &Path, output: &Path, observer: &dyn Observer) -> Result<Report, Error> {
        self.pipeline.model.input = locate(input)?.into();
        self.pipeline.model.output = output.to_owned().into();
        run(&self.pipeline, &self.options, observer)
    }
}

/// What [`compress_model`] works on.
#[non_exhaustive]
pub enum Weights<'a> {
    /// The weights of a model in memory, by the names of its `VarMap`. Factors take the place of a weight `x.weight` as
    /// `x.right.weight` (`r × n`) and `x.left.weight` (`m × r`), a bias `x.bias` becomes `x.left.bias`.
    #[cfg(feature = "runtimes")]
    Vars(&'a candle_nn::VarMap),
    /// A model file or folder of any known format, and where the result goes.
    Files {
        /// The model, or `hf:org/name[@revision]`.
        input: &'a Path,
        /// Where the compressed model goes.
        output: &'a Path,
    },
}

impl<'a> From<(&'a Path, &'a Path)> for Weights<'a> {
    fn from((input, output): (&'a Path, &'a Path)) -> Self {
        Self::Files { input, output }
    }
}

#[cfg(feature = "runtimes")]
impl<'a> From<&'a candle_nn::VarMap> for Weights<'a> {
    fn from(vars: &'a candle_nn::VarMap) -> Self {
        Self::Vars(vars)
    }
}

/// Compresses a model: a candle `VarMap` in its place, or files to other files. The report says what became of every layer;
/// its `layers` whose outcome is [`Factorized`](crate::Outcome::Factorized) are those that were replaced.
///
/// A `VarMap` goes through a temporary file and changes only once all has succeeded. Layers of a candle model that hold
/// its variables keep the old ones: build the model anew from the map, with
#[cfg_attr(feature = "runtimes", doc = "[`calabi_nn`]'s `LowRankLinear` where its layers are factorized.")]
#[cfg_attr(not(feature = "runtimes"), doc = "layers that hold factors where its layers are factorized.")]
///
/// # Errors
/// As [`run`](crate::run).
pub fn compress_model<'a>(
    weights: impl Into<Weights<'a>>,
    compression: Compression,
    observer: &dyn Observer,
) -> Result<Report, Error> {
    match weights.into() {
        #[cfg(feature = "runtimes")]
        Weights::Vars(vars) => vars::compress(vars, compression, observer),
        Weights::Files { input, output } => compression.run(input, output, observer),
    }
}

/// Compresses a checkpoint folder of the Hugging Face kind (or `hf:org/name[@revision]`) to another folder.
///
/// The head that maps hidden states to the vocabulary is kept as it is, and stays tied to the embedding table where it
/// was; `Conv1D` of GPT-2 is taken for what it is. Architectures that no runtime runs are compressed by their weights
/// alone, or by given statistics.
///
/// # Errors
/// As [`run`](crate::run), and where `model` is no folder with a `config.json`.
pub fn compress_hf_model(
    model: impl AsRef<Path>,
    output: impl AsRef<Path>,
    compression: Compression,
    observer: &dyn Observer,
) -> Result<Report, Error> {
    let folder = locate(model.as_ref())?;
    if !folder.join("config.json").is_file() {
        let problem = format!("{} is no checkpoint folder: it has no config.json", folder.display());
        return Err(ConfigError::new(problem).with_help("compress_model takes models of other kinds").into());
    }
    let heads = heads(open_model(&folder, None)?.layers())?;
    compression.with_exclude(heads).run(&folder, output.as_ref(), observer)
}

/// Patterns of the heads among these layers.
fn heads(layers: &[Layer]) -> Result<Vec<Pattern>, ConfigError> {
    let exactly = |layer: &Layer| Pattern::new(&format!("re:{}", regex::escape(&layer.name))).map_err(ConfigError::new);
    layers.iter().filter(|layer| calabi_io::is_head(&layer.name)).map(exactly).collect()
}
