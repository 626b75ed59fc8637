//! Runs the model on the calibration data: gathers second moments of what flows into its layers.

mod gather;

pub(crate) use gather::at;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use calabi_api::{
    BlockRunner, ConfigError, FormatError, LayerSource, RefineSettings, RunError, Runner, Runtime, Samples,
    SensitivitySource, StateSpace,
};

use crate::data::{DataRequest, holds_tensors, load};
use crate::metric::Objective;
use crate::metrics::Metrics;
use crate::run::{on_threads, open};
use crate::runtime::runtime_for;
use crate::staging::files_read;
use crate::statistics::StatisticsFile;
use crate::store::Store;
use crate::survey::survey;
use crate::{CalibrationSettings, Error, Observer, Pipeline, Plan, RunOptions, Sited, Stage, Target, sensitivity};

/// The model and the calibration samples, ready before any work is done: what is missing is told at once.
pub(crate) struct Calibrator<'a> {
    pipeline: &'a Pipeline,
    settings: &'a Sited<CalibrationSettings>,
    runtime: Box<dyn Runtime>,
    pub(crate) runner: Box<dyn Runner>,
    samples: Samples,
    /// Where hidden states wait that are too large for memory.
    folder: PathBuf,
}

/// Samples of text where the pipeline does not say how many.
const SAMPLES: usize = 64;
/// Sequences that order the samples of a tuning always alike.
const SEED: u64 = 0;

impl<'a> Calibrator<'a> {
    /// Loads the model and the samples, where something in the pipeline needs the model to run.
    pub(crate) fn new(pipeline: &'a Pipeline) -> Result<Option<Self>, Error> {
        let Some(why) = reason(pipeline) else { return Ok(None) };
        let Some(settings) = &pipeline.calibration else {
            let error = ConfigError::new(format!("{why} needs calibration data"));
            return Err(error.with_help("add [calibration] data = \"...\"").at(pipeline.rank.span.clone()).into());
        };
        Self::load(pipeline, settings, why).map(Some)
    }

    /// Loads the model and the samples of `[calibration]`; none where there is no such section.
    fn for_statistics(pipeline: &'a Pipeline) -> Result<Option<Self>, Error> {
        let load = |settings| Self::load(pipeline, settings, "`calibrate`");
        pipeline.calibration.as_ref().map(load).transpose()
    }

    fn load(pipeline: &'a Pipeline, settings: &'a Sited<CalibrationSettings>, why: &str) -> Result<Self, Error> {
        let Some(data) = &settings.data else {
            let error = ConfigError::new(format!("{why} needs calibration data"));
            return Err(error.with_help("name a text or tensors: data = \"...\"").at(settings.span.clone()).into());
        };
        let input = &pipeline.model.input.value;
        let runtime = runtime_for(input, "[calibration]").map_err(|error| error.at(settings.span.clone()))?;
        let failed = failure(settings);
        let mut runner = runtime.load(input).map_err(&failed)?;
        if settings.sequential && runner.blocks().is_none() {
            let error = ConfigError::new(format!("{} does not run block by block", input.display()));
            return Err(error.with_help("leave `sequential` out").at(settings.span.clone()).into());
        }
        let request = DataRequest {
            tokenizer: settings.tokenizer.as_ref().map(|tokenizer| tokenizer.value.as_path()),
            model: input,
            sequence: settings.sequence.get(),
            samples: settings.samples.map(std::num::NonZeroUsize::get).or((!holds_tensors(data)).then_some(SAMPLES)),
            seed: settings.seed,
            labels: None,
        };
        let read = |source| Error::Calibrate { source: Box::new(source), span: data.span.clone() };
        let samples = load(data, &request, &runner.inputs()).map_err(read)?.samples;
        Ok(Self { pipeline, settings, runtime, runner, samples, folder: std::env::temp_dir() })
    }

    /// The same, with the folder of a run for what does not fit memory.
    pub(crate) fn working_in(self, folder: &Path) -> Self {
        Self { folder: folder.to_owned(), ..self }
    }

    /// The samples that measure what cutting a layer does.
    pub(crate) fn sensitivity_samples(&self) -> Samples {
        self.samples.some(0, self.samples.count().min(self.settings.sensitivity_samples.get()))
    }

    /// Where hidden states are kept.
    pub(crate) fn space(&self) -> StateSpace {
        StateSpace { bound: self.settings.states.bytes(), folder: self.folder.clone() }
    }

    /// Makes a failure of the model an error of this section.
    pub(crate) fn failure(&self) -> impl Fn(RunError) -> Error + use<'a> {
        failure(self.settings)
    }

    /// Makes a failure of the file of statistics an error of this section.
    fn unwritten(&self, source: FormatError) -> Error {
        Error::Statistics { source, span: self.settings.span.clone() }
    }

    /// Where statistics come from, for those who find the file.
    fn provenance(&self) -> BTreeMap<String, String> {
        let data = self.settings.data.as_ref().map(|data| data.display().to_string()).unwrap_or_default();
        let keys = [
            ("model", self.pipeline.model.input.display().to_string()),
            ("data", data),
            ("samples", self.samples.count().to_string()),
            ("sequence", self.settings.sequence.to_string()),
            ("seed", self.settings.seed.to_string()),
        ];
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// How blocks are tuned, where the pipeline asks for it.
    pub(crate) fn refine(&self) -> Option<RefineSettings> {
        let refine = self.pipeline.refine.as_ref()?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a number of samples
        let held_out = (refine.held_out.get() * self.samples.count() as f64).ceil() as usize;
        Some(RefineSettings {
            epochs: refine.epochs.get(),
            learning_rate: refine.learning_rate,
            batch: refine.batch.get(),
            held_out,
            seed: SEED,
        })
    }

    /// The model once more, to be compressed beside the original.
    pub(crate) fn load_again(&self) -> Result<Box<dyn Runner>, Error> {
        self.runtime.load(&self.pipeline.model.input.value).map_err(self.failure())
    }

    /// The samples and the model.
    pub(crate) fn into_parts(self) -> (Samples, Box<dyn Runner>) {
        (self.samples, self.runner)
    }
}

fn failure(settings: &Sited<CalibrationSettings>) -> impl Fn(RunError) -> Error + use<'_> {
    |source| Error::Calibrate { source: Box::new(source), span: settings.span.clone() }
}

/// Statistics that were gathered.
///
/// ```
/// use calabi::{CalibrationSettings, Pipeline, RunOptions, Silent};
///
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
/// # let model = root.join("calabi-nn/tests/models/llama");
/// # let data = root.join("tests/models/tiny-lm/held-out.safetensors");
/// # let mut pipeline = Pipeline::new(model, "unused", calabi::rank::Fixed { rank: calabi::api::Rank::ONE });
/// # pipeline.calibration = Some(CalibrationSettings::of_data(data).into());
/// # let file = folder.path().join("statistics.safetensors");
/// let gathered = calabi::calibrate(&pipeline, &file, &RunOptions::default(), &Silent)?;
/// assert_eq!(gathered.bytes, std::fs::metadata(&gathered.file)?.len());
/// assert!(gathered.inputs < gathered.layers, "queries, keys and values read the same input");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    /// Where they are.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The number of distinct inputs.
    pub inputs: usize,
    /// The number of layers that read them.
    pub layers: usize,
    /// The number of samples that were run.
    pub samples: usize,
}

/// Runs a pipeline's model on its calibration data, and writes what flows into the layers that take part to a file.
///
/// ```
/// use calabi::{CalibrationSettings, Compression, Pipeline, RunOptions, Silent, compress_hf_model};
/// # use calabi::api::{Rank, settings::Fraction};
///
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
/// # let model = root.join("calabi-nn/tests/models/llama");
/// # let data = root.join("tests/models/tiny-lm/held-out.safetensors");
/// # let [statistics, small] = ["statistics.safetensors", "small"].map(|name| folder.path().join(name));
/// // The rule does not matter here, and no output is written.
/// let mut pipeline = Pipeline::new(&model, "unused", calabi::rank::Fixed { rank: Rank::ONE });
/// pipeline.calibration = Some(CalibrationSettings::of_data(data).into());
/// let gathered = calabi::calibrate(&pipeline, &statistics, &RunOptions::default(), &Silent)?;
/// assert_eq!(gathered.samples, 6);
///
/// // What was gathered once serves any rule, without data.
/// let compression = Compression::keep(Fraction::new(0.8).ok_or("not a share")?)
///     .with_calibration(CalibrationSettings::of_statistics(&gathered.file));
/// assert!(compress_hf_model(&model, &small, compression, &Silent)?.calibration.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where the model, the data or the settings cannot be used, or the file exists and `options` do not say to replace it.
pub fn gather(
    pipeline: &Pipeline,
    file: &Path,
    options: &RunOptions,
    observer: &dyn Observer,
) -> Result<Gathered, Error> {
    on_threads(options.threads, || {
        let source = open(pipeline)?;
        let mut taken = files_read(pipeline, &*source);
        taken.extend(options.reads.clone());
        let file = Target { path: file, span: None, taken: &taken, force: options.force }.check_file()?;
        let plan = survey(pipeline, &*source)?;
        let folder = tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
        let Some(calibrator) = Calibrator::for_statistics(pipeline)? else {
            let error = ConfigError::new("there is nothing to gather: the pipeline has no [calibration]");
            return Err(error.with_help("add [calibration] data = \"...\"").into());
        };
        let mut calibrator = calibrator.working_in(folder.path());
        let written = calibrator.gather(&plan, &file, observer)?;
        let bytes = std::fs::metadata(&file).map_err(|e| Error::io("read", &file, e))?.len();
        let (layers, inputs) = written.header().counts();
        Ok(Gathered { file, bytes, inputs, layers, samples: calibrator.samples.count() })
    })
}

/// The metrics that a pipeline asks for: gathers statistics where they are not given.
pub(crate) fn calibrate<'a>(
    (pipeline, source): (&'a Pipeline, &dyn LayerSource),
    plan: &Plan,
    calibrator: Option<&mut Calibrator<'_>>,
    store: &Store,
    observer: &dyn Observer,
) -> Result<Metrics<'a>, Error> {
    let Some(settings) = &pipeline.calibration else { return Ok(Metrics::default()) };
    let statistics = match (&settings.statistics, calibrator) {
        (Some(file), _) => {
            let failed = |source| Error::Statistics { source, span: file.span.clone() };
            Some(StatisticsFile::open(file).map_err(failed)?)
        }
        (None, Some(calibrator)) if gathers(settings) => {
            let kept = store.statistics(pipeline, source, plan)?;
            match kept.as_deref().map(StatisticsFile::open) {
                Some(Ok(file)) => {
                    observer.begin(Stage::Calibrate, 0);
                    observer.note(Stage::Calibrate, "these statistics were gathered before");
                    observer.end(Stage::Calibrate);
                    Some(file)
                }
                _ => kept.map(|path| calibrator.gather(plan, &path, observer)).transpose()?,
            }
        }
        (None, _) => None,
    };
    Ok(Metrics::new(Some(settings), statistics))
}

/// Whether the pipeline wants statistics that it does not bring.
fn gathers(settings: &CalibrationSettings) -> bool {
    settings.statistics.is_none() && matches!(settings.objective, Objective::Gram | Objective::Diagonal)
}

/// What in the pipeline needs the model to run, in words; none where nothing does.
fn reason(pipeline: &Pipeline) -> Option<&'static str> {
    let sensitivity = sensitivity::wanted(pipeline) == SensitivitySource::Measured;
    let settings = pipeline.calibration.as_ref();
    if pipeline.is_sequential() {
        Some("`sequential`")
    } else if sensitivity {
        Some("sensitivity = \"measured\"")
    } else {
        settings.filter(|settings| gathers(settings)).map(|_| "this objective")
    }
}

/// The model block by block.
pub(crate) fn blocks(runner: &mut dyn Runner) -> Result<&mut dyn BlockRunner, RunError> {
    runner.blocks().ok_or_else(|| RunError::Failed("the model does not run block by block".to_owned()))
}
