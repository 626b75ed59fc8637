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
///
/// ```
/// use std::sync::Arc;
/// use calabi::api::Rank;
/// use calabi::rank::Fixed;
/// use calabi::svd::{Accuracy, Faer};
/// use calabi::{Compression, Pattern, RunOptions, Silent, compress_model};
///
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let output = folder.path().join("small.safetensors");
/// # let input = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors"));
/// let compression = Compression::selector(Fixed { rank: Rank::new(16).ok_or("no rank")? })
///     .with_include(vec![Pattern::new("hidden*")?])
///     .with_decomposer(Arc::new(Faer { accuracy: Accuracy::Full }))
///     .with_options(RunOptions { threads: Some(1), ..RunOptions::default() });
/// let report = compress_model((input, output.as_path()), compression, &Silent)?;
/// let ranks: Vec<_> = report.layers.iter().map(|layer| (layer.name.as_str(), layer.rank)).collect();
/// assert_eq!(ranks, [("hidden1", Some(16)), ("hidden2", Some(16)), ("output", None)]);
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
    ///
    /// ```
    /// # use calabi::{Compression, Silent, api::settings::Fraction, compress_model};
    /// # use std::path::Path;
    /// # let folder = tempfile::tempdir()?;
    /// # let output = folder.path().join("small.safetensors");
    /// # let input = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors"));
    /// let compression = Compression::keep(Fraction::new(0.5).ok_or("not a share")?);
    /// let report = compress_model((input, output.as_path()), compression, &Silent)?;
    /// let kept: u64 = report.layers.iter().map(|layer| layer.parameters.after).sum();
    /// let all: u64 = report.layers.iter().map(|layer| layer.parameters.before).sum();
    /// assert!(2 * kept <= all);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn keep(share: Fraction) -> Self {
        Self::allocator(crate::rank::Budget::new(share))
    }

    /// Every layer keeps this share of `min(m, n)` as its rank ([`Fraction`](crate::rank::Fraction)), also where its factors
    /// are then larger than the dense weight: what the original project called `compression_ratio`.
    ///
    /// ```
    /// # use calabi::{Compression, Silent, api::settings::Fraction, compress_model};
    /// # use std::path::Path;
    /// # let folder = tempfile::tempdir()?;
    /// # let output = folder.path().join("small.safetensors");
    /// # let input = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors"));
    /// let compression = Compression::fraction(Fraction::new(0.5).ok_or("not a share")?);
    /// let report = compress_model((input, output.as_path()), compression, &Silent)?;
    /// assert_eq!((report.layers[0].shape, report.layers[0].rank), ([512, 64], Some(32)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn fraction(share: Fraction) -> Self {
        Self::selector(crate::rank::Fraction { keep: share }).past_break_even()
    }

    /// The rank of each layer is chosen from its own spectrum.
    ///
    /// ```
    /// # use calabi::{Compression, Silent, compress_model};
    /// use calabi::rank::{MaxError, RelativeError};
    ///
    /// # use std::path::Path;
    /// # let folder = tempfile::tempdir()?;
    /// # let output = folder.path().join("small.safetensors");
    /// # let input = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors"));
    /// let rule = MaxError { epsilon: RelativeError::new(0.5).ok_or("not an error")? };
    /// let report = compress_model((input, output.as_path()), Compression::selector(rule), &Silent)?;
    /// assert!(report.layers.iter().all(|layer| layer.measured_error.is_none_or(|error| error <= 0.5)));
    /// assert!(report.layers.iter().any(|layer| layer.rank.is_some()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn selector(selector: impl RankSelector + 'static) -> Self {
        Self { pipeline: Pipeline::new("", "", selector), options: RunOptions::default() }
    }

    /// One budget is shared among all layers.
    ///
    /// ```
    /// # use calabi::{Compression, Silent, compress_model};
    /// use calabi::api::settings::Fraction;
    /// use calabi::rank::{Budget, Of};
    ///
    /// # use std::path::Path;
    /// # let folder = tempfile::tempdir()?;
    /// # let output = folder.path().join("small.safetensors");
    /// # let input = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors"));
    /// let half = Budget::new(Fraction::new(0.5).ok_or("not a share")?);
    /// let half = Budget { of: Of::Model, ..half }; // of all that the model holds
    /// let report = compress_model((input, output.as_path()), Compression::allocator(half), &Silent)?;
    /// assert!(report.removed() >= 0.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// ```
    /// # use calabi::{Compression, Silent, api::Rank, compress_model};
    /// # use std::path::Path;
    /// # let folder = tempfile::tempdir()?;
    /// # let output = folder.path().join("small.safetensors");
    /// # let input = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors"));
    /// let fixed = calabi::rank::Fixed { rank: Rank::new(64).ok_or("no rank")? };
    /// let compression = Compression::selector(fixed).past_break_even();
    /// let report = compress_model((input, output.as_path()), compression, &Silent)?;
    /// let first = &report.layers[0]; // 512 × 64
    /// assert!(first.rank == Some(64) && first.parameters.after > first.parameters.before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// ```
    /// use calabi::{CalibrationSettings, Compression, Objective, Silent, compress_hf_model};
    /// # use calabi::api::settings::Fraction;
    ///
    /// # use std::path::Path;
    /// # let folder = tempfile::tempdir()?;
    /// # let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    /// # let model = root.join("calabi-nn/tests/models/llama");
    /// # let data = root.join("tests/models/tiny-lm/held-out.safetensors");
    /// # let small = folder.path().join("small");
    /// let compression = Compression::keep(Fraction::new(0.8).ok_or("not a share")?)
    ///     .with_calibration(CalibrationSettings::of_data(data));
    /// let report = compress_hf_model(model, small, compression, &Silent)?;
    /// assert!(report.calibration.is_some_and(|calibration| calibration.objective == Objective::Gram));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
///
/// ```
/// use std::path::Path;
/// use calabi::Weights;
///
/// let files = Weights::from((Path::new("model.onnx"), Path::new("small.onnx")));
/// assert!(matches!(files, Weights::Files { output, .. } if output == Path::new("small.onnx")));
/// ```
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
/// ```
/// use calabi::api::settings::Fraction;
/// use calabi::nn::candle_core::{DType, Device};
/// use calabi::nn::candle_nn::{VarBuilder, VarMap, linear};
/// use calabi::{Compression, Silent, compress_model};
///
/// let vars = VarMap::new();
/// linear(64, 96, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu).pp("up"))?;
/// let compression = Compression::fraction(Fraction::new(0.25).ok_or("not a share")?);
/// let report = compress_model(&vars, compression, &Silent)?;
/// assert_eq!(report.layers[0].rank, Some(16));
/// let names = vars.data().lock().map_err(|error| error.to_string())?;
/// assert!(names.contains_key("up.left.weight") && !names.contains_key("up.weight"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
/// ```
/// use calabi::api::settings::Fraction;
/// use calabi::{Compression, Outcome, Silent, compress_hf_model};
///
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
/// # let model = root.join("calabi-nn/tests/models/llama");
/// # let data = root.join("tests/models/tiny-lm/held-out.safetensors");
/// # let small = folder.path().join("small");
/// let compression = Compression::keep(Fraction::new(0.8).ok_or("not a share")?);
/// let report = compress_hf_model(model, &small, compression, &Silent)?;
/// assert!(small.join("config.json").is_file());
/// let head = report.layers.iter().find(|layer| layer.name == "lm_head");
/// assert_eq!(head.map(|head| head.outcome), Some(Outcome::Skipped));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    let heads = heads(&folder)?;
    compression.with_exclude(heads).run(&folder, output.as_ref(), observer)
}

/// Patterns of the layers of a model that map hidden states to the vocabulary.
///
/// ```
/// # use std::path::Path;
/// # let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("calabi-nn/tests/models/llama");
/// let heads = calabi::heads(&model)?;
/// assert!(heads.len() == 1 && heads[0].matches("lm_head"));
/// # Ok::<(), calabi::Error>(())
/// ```
///
/// # Errors
/// Where the model cannot be opened.
pub fn heads(model: &Path) -> Result<Vec<Pattern>, Error> {
    let source = open_model(model, None)?;
    let exactly = |layer: &Layer| Pattern::new(&format!("re:{}", regex::escape(&layer.name))).map_err(ConfigError::new);
    let heads = source.layers().iter().filter(|layer| calabi_io::is_head(&layer.name));
    Ok(heads.map(exactly).collect::<Result<_, _>>()?)
}
