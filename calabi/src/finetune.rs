//! Fine-tuning: what a compressed model lost is won back by training its factors on text. The result goes beside it.

#[cfg(feature = "runtimes")]
mod told;
#[cfg(feature = "runtimes")]
mod work;

use std::path::PathBuf;

use calabi_api::ConfigError;
use serde::Serialize;

#[cfg(not(feature = "runtimes"))]
use crate::Sited;
use crate::pipeline::FinetuneObjective;
#[cfg(not(feature = "runtimes"))]
use crate::pipeline::FinetuneSettings;
use crate::run::on_threads;
use crate::runtime::runtime_for;
use crate::{Error, Observer, Pipeline};

/// What a fine-tuning is told besides its pipeline.
///
/// ```
/// use calabi::FinetuneOptions;
///
/// let options = FinetuneOptions { output: Some("tuned".into()), threads: Some(2), ..FinetuneOptions::default() };
/// assert!(!options.force, "an output that exists is not replaced");
/// ```
#[derive(Debug, Clone, Default)]
pub struct FinetuneOptions {
    /// Where the result goes; none takes what `[finetune] output` says.
    pub output: Option<PathBuf>,
    /// Threads to work on; none takes one per processor.
    pub threads: Option<usize>,
    /// Whether an output that exists is replaced.
    pub force: bool,
    /// Files that must not be written over besides those of the pipeline: the pipeline file.
    pub reads: Vec<PathBuf>,
}

/// What became of a fine-tuning. Its JSON is what `calabi-cli finetune --format json` prints.
///
/// ```
/// # use calabi::{FinetuneOptions, Pipeline, RunOptions, Silent, finetune, run};
/// # let folder = tempfile::tempdir()?;
/// # let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
/// # let small = format!("model.output='{}'", folder.path().join("small").display()).parse()?;
/// # let text = "
/// #     [model]
/// #     input = 'calabi-nn/tests/models/llama'
/// #     output = 'small'
/// #     [layers]
/// #     exclude = ['lm_head']
/// #     [rank]
/// #     kind = 'budget'
/// #     keep = 0.6
/// #     [finetune]
/// #     data = 'tests/models/tiny-lm/text.txt'
/// #     tokenizer = 'tests/models/tiny-lm/tokenizer.json'
/// #     sequence = 10
/// #     held_out = 4
/// #     steps = 4
/// # ";
/// # let pipeline = Pipeline::parse("example", text, root, &[small]).map_err(|refused| refused.error)?;
/// # run(&pipeline, &RunOptions::default(), &Silent)?;
/// let report = finetune(&pipeline, &FinetuneOptions::default(), &Silent)?;
/// assert_eq!(report.gained, report.loss_after < report.loss_before);
/// assert_eq!(report.perplexity_after, report.loss_after.exp());
/// assert_eq!((report.steps, report.resumed_at), (4, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FinetuneReport {
    /// The compressed model.
    pub model: PathBuf,
    /// The trained one. A copy of the compressed model where nothing was gained.
    pub output: PathBuf,
    /// What it was trained for.
    pub objective: FinetuneObjective,
    /// The loss of a held-out token by the tokens before it, in nats, of the compressed model.
    pub loss_before: f64,
    /// The same of the output, as it was written: never higher.
    pub loss_after: f64,
    /// `exp(loss_before)`.
    pub perplexity_before: f64,
    /// `exp(loss_after)`.
    pub perplexity_after: f64,
    /// Whether training gained anything.
    pub gained: bool,
    /// Steps of the optimizer.
    pub steps: usize,
    /// Tokens that were trained on, repetitions counted.
    pub tokens: u64,
    /// The step after which a former run was interrupted, where this one went on from there.
    pub resumed_at: Option<usize>,
    /// Wall-clock time of the training, of all its runs.
    pub seconds: f64,
}

/// Trains the compressed model of a pipeline, as its section `[finetune]` says.
///
/// The state of the training is kept beside the output, under its name with `.training` behind it, until the output is
/// there: where a run was interrupted, the next goes on from its state.
///
/// ```
/// use calabi::{FinetuneOptions, Pipeline, RunOptions, Silent, finetune, run};
///
/// # let folder = tempfile::tempdir()?;
/// # let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
/// # let small = format!("model.output='{}'", folder.path().join("small").display()).parse()?;
/// let text = "
///     [model]
///     input = 'calabi-nn/tests/models/llama'
///     output = 'small'
///     [layers]
///     exclude = ['lm_head']
///     [rank]
///     kind = 'budget'
///     keep = 0.6
///     [finetune]
///     data = 'tests/models/tiny-lm/text.txt'
///     tokenizer = 'tests/models/tiny-lm/tokenizer.json'
///     sequence = 10
///     held_out = 4
///     steps = 4
/// ";
/// let pipeline = Pipeline::parse("example", text, root, &[small]).map_err(|refused| refused.error)?;
/// run(&pipeline, &RunOptions::default(), &Silent)?;
/// let report = finetune(&pipeline, &FinetuneOptions::default(), &Silent)?;
/// assert!(report.loss_after <= report.loss_before && report.output.ends_with("small.tuned"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where the section is missing, the compressed model is not there or not a checkpoint folder that runs block by block,
/// the text is too short, numbers overflow, or a file cannot be written: then nothing is at the output's place.
pub fn finetune(
    pipeline: &Pipeline,
    options: &FinetuneOptions,
    observer: &dyn Observer,
) -> Result<FinetuneReport, Error> {
    let settings = pipeline.finetune.as_ref().ok_or_else(|| {
        ConfigError::new("the section [finetune] is missing: it says what the model is trained on")
            .with_help("write [finetune] with data = \"TEXT\"")
    })?;
    let model = &pipeline.model;
    for (what, place, help) in [
        ("compressed model", &model.output, "`calabi-cli run PIPELINE` makes it: fine-tuning comes after"),
        ("original", &model.input, "paths are relative to the pipeline file"),
        ("data", &settings.data, "paths are relative to the pipeline file"),
    ] {
        if !place.exists() {
            let error = ConfigError::new(format!("the {what} {} is not there", place.display()));
            return Err(error.with_help(help).at(place.span.clone()).into());
        }
    }
    runtime_for(&model.output, "[finetune]").map_err(|error| error.at(model.output.span.clone()))?;
    on_threads(options.threads, || trained(pipeline, settings, options, observer))
}

#[cfg(feature = "runtimes")]
use work::trained;

#[cfg(not(feature = "runtimes"))]
fn trained(
    _: &Pipeline,
    settings: &Sited<FinetuneSettings>,
    options: &FinetuneOptions,
    _: &dyn Observer,
) -> Result<FinetuneReport, Error> {
    let problem = "this program was built without the feature `runtimes`";
    let _ = (&options.output, options.force);
    Err(ConfigError::new(problem).at(settings.span.clone()).into())
}
