//! A pipeline: what is compressed, how, and how the result is judged. From TOML, or from typed values.

mod calibration;
mod finetune;
mod parse;
mod schema;
mod sections;
mod set;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use calabi_api::{ConfigError, Decomposer, RankAllocator, RankRule, RankSelector};

use crate::hub::{is_hosted, locate};
use crate::{Error, Pattern, Sited};

pub use calibration::{CalibrationSettings, RefineSection};
#[cfg(feature = "runtimes")]
pub(crate) use finetune::MINUTES as FINETUNE_MINUTES;
pub use finetune::{FinetuneObjective, FinetuneSettings};
pub use parse::{parse_decomposer, parse_rule};
pub use schema::pipeline_schema;
pub use sections::{LayerSettings, ModelSettings, OnError, ReportSettings, SearchSettings, VerifySettings};
pub use set::Assignment;

/// A pipeline, checked and built: nothing of it is wrong in itself, and nothing was touched yet.
///
/// ```
/// use calabi::Pipeline;
///
/// let text = "
///     [model]
///     input = 'model.onnx'
///     output = 'small.onnx'
///     [layers]
///     exclude = ['*head*']
///     [rank]
///     kind = 'budget'
///     keep = 0.6
/// ";
/// let pipeline = Pipeline::parse("p.toml", text, "models".as_ref(), &[]).map_err(|refused| refused.error)?;
/// assert!(pipeline.model.input.ends_with("models/model.onnx"));
/// assert!(pipeline.layers.exclude[0].matches("lm_head") && pipeline.verify.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pipeline {
    /// The model, and where the result goes.
    pub model: ModelSettings,
    /// Which layers, and what holds for all of them.
    pub layers: LayerSettings,
    /// Computes singular values and vectors.
    pub decomposer: Arc<dyn Decomposer>,
    /// Chooses the ranks.
    pub rank: Sited<RankRule>,
    /// Rules for some layers, the last that matches wins.
    pub overrides: Vec<Override>,
    /// What layers see, and what their errors are measured in.
    pub calibration: Option<Sited<CalibrationSettings>>,
    /// Whether and how blocks are tuned.
    pub refine: Option<Sited<RefineSection>>,
    /// How the result is trained, where that is asked for.
    pub finetune: Option<Sited<FinetuneSettings>>,
    /// Whether and how the result is compared with the original.
    pub verify: Option<Sited<VerifySettings>>,
    /// Whether the smallest budget that passes a gate is looked for.
    pub search: Option<Sited<SearchSettings>>,
    /// Where reports go.
    pub report: ReportSettings,
    /// The folder that paths of plugins are relative to: that of the pipeline file.
    pub base: PathBuf,
    /// The text it was read from.
    pub source: Option<Source>,
}

/// A rule for some layers.
///
/// ```
/// # use calabi::{Pattern, Pipeline, api::Rank, rank::Fixed};
/// let eight = Fixed { rank: Rank::new(8).ok_or("no rank")? };
/// let pipeline = Pipeline::new("m.onnx", "s.onnx", eight).with_override(vec![Pattern::new("*.0.*")?], eight);
/// assert!(pipeline.overrides[0].layers[0].matches("layers.0.up"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Override {
    /// The layers, by name.
    pub layers: Vec<Sited<Pattern>>,
    /// Chooses their ranks.
    pub rank: Sited<Box<dyn RankSelector>>,
}

/// The text of a pipeline file, for messages that show its lines.
///
/// ```
/// let text = "[model]\ninput = 'm.onnx'\noutput = 's.onnx'\n[rank]\nkind = 'fixed'\nrank = 0\n";
/// let refused = calabi::Pipeline::parse("p.toml", text, "".as_ref(), &[]).unwrap_err();
/// let source = refused.source.ok_or("no text")?;
/// let span = refused.error.span().ok_or("no place")?;
/// assert_eq!((source.name.as_str(), &source.text[span]), ("p.toml", "0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name to show.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Why a pipeline file cannot be used, with its text.
///
/// ```
/// let refused = calabi::Pipeline::parse("p.toml", "[model]\n", "".as_ref(), &[]).unwrap_err();
/// assert!(refused.error.refuses_settings());
/// assert_eq!(refused.source.map(|source| source.text), Some("[model]\n".to_owned()));
/// ```
#[derive(Debug)]
pub struct PipelineError {
    /// What is wrong.
    pub error: Box<Error>,
    /// The text of the file, where it could be read.
    pub source: Option<Source>,
}

impl From<Error> for PipelineError {
    fn from(error: Error) -> Self {
        Self { error: Box::new(error), source: None }
    }
}

impl Pipeline {
    /// A pipeline of typed values: every layer of `input`, decomposed by faer, at the ranks that `rank` chooses.
    ///
    /// ```
    /// use calabi::Pipeline;
    /// use calabi::api::settings::Fraction;
    /// use calabi::rank::Energy;
    ///
    /// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
    /// let most = Energy { threshold: Fraction::new(0.95).ok_or("not a share")? };
    /// let pipeline = Pipeline::new(input, "small.safetensors", most);
    /// assert!(calabi::plan(&pipeline)?.layers.iter().all(|layer| layer.is_selected()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(input: impl Into<PathBuf>, output: impl Into<PathBuf>, rank: impl RankSelector + 'static) -> Self {
        Self::of(input.into(), output.into(), RankRule::Selector(Box::new(rank)))
    }

    /// A pipeline of typed values: every layer of `input`, decomposed by faer, one budget shared among them.
    ///
    /// ```
    /// use calabi::Pipeline;
    /// use calabi::api::{RankRule, settings::Fraction};
    /// use calabi::rank::Budget;
    ///
    /// let budget = Budget::new(Fraction::new(0.6).ok_or("not a share")?);
    /// let pipeline = Pipeline::with_allocator("model.safetensors", "small.safetensors", budget);
    /// assert!(matches!(pipeline.rank.value, RankRule::Allocator(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_allocator(
        input: impl Into<PathBuf>,
        output: impl Into<PathBuf>,
        rank: impl RankAllocator + 'static,
    ) -> Self {
        Self::of(input.into(), output.into(), RankRule::Allocator(Box::new(rank)))
    }

    fn of(input: PathBuf, output: PathBuf, rank: RankRule) -> Self {
        Self {
            model: ModelSettings {
                input: input.into(),
                output: output.into(),
                format: None,
                shard_size: None,
                requantise: None,
            },
            layers: LayerSettings::default(),
            decomposer: Arc::new(calabi_svd::Faer::default()),
            rank: rank.into(),
            overrides: Vec::new(),
            calibration: None,
            refine: None,
            finetune: None,
            verify: None,
            search: None,
            report: ReportSettings::default(),
            base: PathBuf::new(),
            source: None,
        }
    }

    /// The same pipeline, with a rule of their own for the layers that match.
    ///
    /// ```
    /// use calabi::{Pattern, Pipeline, api::Rank, rank::Fixed};
    ///
    /// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
    /// let fixed = |rank| Rank::new(rank).map(|rank| Fixed { rank }).ok_or("no rank");
    /// let pipeline = Pipeline::new(input, "small.safetensors", fixed(8)?)
    ///     .with_override(vec![Pattern::new("hidden2")?], fixed(16)?);
    /// let ranks: Vec<_> = calabi::plan(&pipeline)?.layers.iter().map(|layer| layer.rank().map(Rank::get)).collect();
    /// assert_eq!(ranks[..2], [Some(8), Some(16)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_override(mut self, layers: Vec<Pattern>, rank: impl RankSelector + 'static) -> Self {
        let rank: Box<dyn RankSelector> = Box::new(rank);
        self.overrides.push(Override { layers: layers.into_iter().map(Sited::from).collect(), rank: rank.into() });
        self
    }

    /// Reads a pipeline file, with settings changed from outside. Relative paths are relative to the file.
    ///
    /// ```
    /// use calabi::Pipeline;
    ///
    /// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml").as_ref();
    /// let pipeline = Pipeline::load(file, &["layers.min_features=8".parse()?]).map_err(|refused| refused.error)?;
    /// assert!(pipeline.model.input.ends_with("../quickstart/digits.onnx"), "beside the folder of the file");
    /// assert_eq!(pipeline.layers.min_features.get(), 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Where the file cannot be read, or something in it is wrong: the error has its place in the text.
    pub fn load(path: &Path, changes: &[Assignment]) -> Result<Self, PipelineError> {
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
        let name = path.display().to_string();
        let base = path.parent().unwrap_or(Path::new(""));
        Self::parse(&name, &text, base, changes)
    }

    /// Reads a pipeline from text. Relative paths are relative to `base`.
    ///
    /// ```
    /// use calabi::Pipeline;
    ///
    /// let text = "[model]\ninput = 'm.onnx'\noutput = 's.onnx'\n[rank]\nkind = 'energy'\n";
    /// let set = ["rank.threshold=0.9".parse()?];
    /// let pipeline = Pipeline::parse("p.toml", text, "models".as_ref(), &set).map_err(|refused| refused.error)?;
    /// assert!(pipeline.model.output.ends_with("models/s.onnx"));
    /// assert!(Pipeline::parse("p.toml", text, "models".as_ref(), &[]).is_err(), "the file alone has no threshold");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Where something in it is wrong: the error has its place in the text.
    pub fn parse(name: &str, text: &str, base: &Path, changes: &[Assignment]) -> Result<Self, PipelineError> {
        let mut source = Source { name: name.to_owned(), text: text.to_owned() };
        let refuse = |error: ConfigError, source: &Source| PipelineError {
            error: Box::new(error.into()),
            source: Some(source.clone()),
        };
        if !changes.is_empty() {
            source.text = set::apply(text, changes).map_err(|error| refuse(error, &source))?;
            source.name = format!("{name}, with --set");
        }
        let mut pipeline = parse::pipeline(&source.text).map_err(|error| refuse(error, &source))?;
        pipeline.resolve(base).map_err(|error| refuse(error, &source))?;
        pipeline.source = Some(source);
        Ok(pipeline)
    }

    /// Whether each block is decomposed on what the compressed ones before it produce.
    pub(crate) fn is_sequential(&self) -> bool {
        self.calibration.as_ref().is_some_and(|settings| settings.sequential)
    }

    /// Makes every path that the file names relative to its folder, and finds a model on the hub in the local cache.
    fn resolve(&mut self, base: &Path) -> Result<(), ConfigError> {
        let mut paths: Vec<&mut PathBuf> = vec![&mut self.model.output.value];
        if is_hosted(&self.model.input) {
            let found = locate(&self.model.input).map_err(|error| error.at(self.model.input.span.clone()))?;
            self.model.input.value = found;
        } else {
            paths.push(&mut self.model.input.value);
        }
        if let Some(calibration) = &mut self.calibration {
            let CalibrationSettings { data, statistics, tokenizer, .. } = &mut calibration.value;
            paths.extend([data, statistics, tokenizer].into_iter().flatten().map(|path| &mut path.value));
        }
        if let Some(finetune) = &mut self.finetune {
            let FinetuneSettings { data, output, tokenizer, .. } = &mut finetune.value;
            paths.push(&mut data.value);
            paths.extend([output, tokenizer].into_iter().flatten().map(|path| &mut path.value));
        }
        if let Some(verify) = &mut self.verify {
            paths.extend(verify.value.data.as_mut().map(|data| &mut data.value));
            paths.extend(verify.value.tokenizer.as_mut());
        }
        paths.extend(self.report.json.as_mut());
        base.clone_into(&mut self.base);
        for path in paths {
            *path = base.join(&*path);
        }
        Ok(())
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> PipelineError {
    let error = ConfigError::new(format!("the pipeline file {} cannot be read: {error}", path.display()))
        .with_help("`calabi-cli init MODEL` writes one for a model");
    Error::from(error).into()
}
