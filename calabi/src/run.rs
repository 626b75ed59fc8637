//! The straight line: open, plan, decompose, choose, substitute, finish, verify, report.

use std::path::{Path, PathBuf};
use std::time::Instant;

use calabi_api::{ConfigError, LayerFormat, LayerSource, LayerSpectrum, Settings, Spectrum, registry};

use crate::calibrate::{Calibrator, calibrate};
use crate::choose::{Known, allocate, select};
use crate::decompose::{Context, Decomposed, Purpose, decompose, input_error, read_again};
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::report::Allocated;
use crate::search::search;
use crate::sensitivity::sensitivities;
use crate::sequential::sequential;
use crate::staging::{Places, Staging, files_read};
use crate::store::Store;
use crate::substitute::{Ready, substitute};
use crate::survey::survey;
use crate::uniform::uniform;
use crate::verify::Verifier;
use crate::{ByteSize, Decision, Error, Observer, Pipeline, Plan, Report, room};

/// What a run is told besides its pipeline.
///
/// ```
/// use calabi::{Pipeline, RunOptions, Silent, run};
///
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let options = RunOptions { plan: Some(calabi::plan(&pipeline)?), threads: Some(1), ..RunOptions::default() };
/// run(&pipeline, &options, &Silent)?;
/// assert!(run(&pipeline, &options, &Silent).is_err(), "the output exists");
/// run(&pipeline, &RunOptions { force: true, ..options }, &Silent)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Threads to work on; none takes one per processor.
    pub threads: Option<usize>,
    /// Whether an output that exists is replaced.
    pub force: bool,
    /// A folder where what is decomposed and measured is kept, for runs after this one; none keeps it beside the output
    /// while the run lives, and for the next run with that output where this one is killed.
    pub work: Option<PathBuf>,
    /// What the layers in work may take together; none takes what is free when the run begins.
    pub memory: Option<ByteSize>,
    /// Whether all layers must be in the work store: what is missing is an error, and nothing is decomposed.
    pub merge: bool,
    /// A plan to follow instead of the pipeline's rules: its open layers are still theirs.
    pub plan: Option<Plan>,
    /// Files besides those of the pipeline that must not be written over: the pipeline file, the plan.
    pub reads: Vec<PathBuf>,
}

/// Compresses a model, as the pipeline says.
///
/// ```
/// use calabi::{Pipeline, RunOptions, Silent, run};
///
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// assert!(report.passed() && report.output.is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where the input cannot be used, the settings cannot be met, a layer cannot be decomposed or a file cannot be written:
/// then nothing is left at the output's place. A gate that is not met is no error: see [`Report::passed`].
pub fn run(pipeline: &Pipeline, options: &RunOptions, observer: &dyn Observer) -> Result<Report, Error> {
    on_threads(options.threads, || straight_line(pipeline, options, observer))
}

fn straight_line(pipeline: &Pipeline, options: &RunOptions, observer: &dyn Observer) -> Result<Report, Error> {
    let started = Instant::now();
    let source = open(pipeline)?;
    let mut plan = planned(pipeline, options, &*source)?;
    let memory = Budget::of(&plan, pipeline, options.memory, room::free_memory())?;
    let places = Places::check(pipeline, &*source, options)?;
    let purpose = if options.merge { Purpose::Merge } else { Purpose::Factors };
    room::check((pipeline, &plan), options, purpose, Some(&places))?;
    let mut verifier = Verifier::new(pipeline)?;
    let calibrator = Calibrator::new(pipeline)?;
    let staging = Staging::beside(places)?;
    let mut calibrator = calibrator.map(|calibrator| calibrator.working_in(&staging.work()));
    let store = Store::of(options.work.as_deref(), &staging.work())?;
    let metrics = calibrate((pipeline, &*source), &plan, calibrator.as_mut(), &store, observer)?;
    let context = Context { pipeline, source: &*source, observer, metrics: &metrics, memory: &memory };
    let decomposed = decompose(&context, &mut plan, &store, purpose)?;
    let sensitivities = sensitivities(&context, &plan, &decomposed, &store, calibrator.as_mut())?;
    let spectra = known(&decomposed);
    let known = Known { spectra: &spectra, sensitivities: &sensitivities, metrics: &metrics, source: &*source };
    let open = plan.open();
    let fitted_alone = Ready { store: &store, decomposed: &decomposed, sequenced: None, measure: false };
    let search = search(&context, &mut plan, &known, (fitted_alone, &staging), verifier.as_mut())?;
    allocate(pipeline, &mut plan, &known)?;
    let sequenced = sequential(&context, &plan, &store, calibrator)?;
    let ready = Ready { sequenced: sequenced.as_ref(), measure: true, ..fitted_alone };
    let (written, substituted) = substitute(&context, &plan, ready, &staging.model())?;
    let uniform = uniform(&plan, &pipeline.layers, &open);
    let allocated = Allocated { sensitivities: &sensitivities, uniform: &uniform };
    let mut report = Report::new(pipeline, plan, ready, allocated, &substituted, &written);
    report.search = search;
    report.verify = verifier.map(|mut verifier| verifier.compare(&staging.model(), observer)).transpose()?;
    context.go_on()?;
    report.output = if report.passed() {
        staging.publish(&written.paths, options.force)?
    } else {
        staging.publish_as_failed(&written.paths)?
    };
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// What a run would do, from metadata alone: ranks that need spectra are open.
///
/// ```
/// use calabi::Pipeline;
///
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let plan = calabi::plan(&pipeline)?;
/// assert!(plan.is_open(), "a budget is shared once spectra are known");
/// assert!(!folder.path().join("small.onnx").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`run`], without anything being decomposed or written.
pub fn plan(pipeline: &Pipeline) -> Result<Plan, Error> {
    let source = open(pipeline)?;
    survey(pipeline, &*source)
}

/// The plan with every rank chosen, and the spectra of the layers that take part (none where a layer does not).
///
/// With `whole` every singular value is computed, also where the rule and a partial decomposer could do with fewer.
///
/// ```
/// use calabi::{Pipeline, RunOptions, Silent};
///
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let (plan, spectra) = calabi::spectra(&pipeline, &RunOptions::default(), true, &Silent)?;
/// assert!(!plan.is_open() && spectra[2].is_none(), "the last layer takes no part");
/// let first = spectra[0].as_ref().ok_or("no spectrum")?;
/// assert!(first.is_complete() && first.relative_error(64) < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`run`], without anything being written.
pub fn spectra(
    pipeline: &Pipeline,
    options: &RunOptions,
    whole: bool,
    observer: &dyn Observer,
) -> Result<(Plan, Vec<Option<Spectrum>>), Error> {
    let source = open(pipeline)?;
    let mut plan = planned(pipeline, options, &*source)?;
    let memory = Budget::of(&plan, pipeline, options.memory, room::free_memory())?;
    let purpose = Purpose::Spectra { whole };
    room::check((pipeline, &plan), options, purpose, None)?;
    let decomposed = on_threads(options.threads, || {
        let folder = tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
        let mut calibrator = Calibrator::new(pipeline)?.map(|calibrator| calibrator.working_in(folder.path()));
        let store = Store::of(options.work.as_deref(), folder.path())?;
        let metrics = calibrate((pipeline, &*source), &plan, calibrator.as_mut(), &store, observer)?;
        let context = Context { pipeline, source: &*source, observer, metrics: &metrics, memory: &memory };
        let decomposed = decompose(&context, &mut plan, &store, purpose)?;
        let sensitivities = sensitivities(&context, &plan, &decomposed, &store, calibrator.as_mut())?;
        let spectra = known(&decomposed);
        let known = Known { spectra: &spectra, sensitivities: &sensitivities, metrics: &metrics, source: &*source };
        allocate(pipeline, &mut plan, &known)?;
        Ok(decomposed)
    })?;
    Ok((plan, decomposed.into_iter().map(|d| d.map(|d| d.spectrum)).collect()))
}

/// The plan of a pipeline whose model has these spectra (of [`spectra`]): another rule, and nothing is decomposed again.
///
/// ```
/// use calabi::{Pipeline, RunOptions, Silent, plan_with};
/// use calabi::api::settings::Fraction;
/// use calabi::rank::Energy;
///
/// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
/// let keeping = |share| {
///     let threshold = Fraction::new(share).ok_or("not a share")?;
///     Ok::<_, &str>(Pipeline::new(input, "unused", Energy { threshold }))
/// };
/// let (half, spectra) = calabi::spectra(&keeping(0.5)?, &RunOptions::default(), true, &Silent)?;
/// let more = plan_with(&keeping(0.8)?, &spectra)?;
/// assert!(more.layers[0].rank() > half.layers[0].rank());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`spectra`].
pub fn plan_with(pipeline: &Pipeline, spectra: &[Option<Spectrum>]) -> Result<Plan, Error> {
    let source = open(pipeline)?;
    let mut plan = survey(pipeline, &*source)?;
    for (planned, spectrum) in plan.layers.iter_mut().zip(spectra) {
        if let (Decision::Open, Some(spectrum)) = (&planned.decision, spectrum) {
            let read = read_again(&*source, &planned.layer);
            let layer = &planned.layer;
            let seen = LayerSpectrum::new(&layer.name, layer.shape, spectrum).with_weight(&read);
            let choice = select(pipeline, planned.rule, layer, &seen)?;
            planned.decision = choice.map_or(Decision::Open, Decision::from);
        }
    }
    let spectra: Vec<_> = spectra.iter().map(Option::as_ref).collect();
    let metrics = Metrics::default();
    allocate(
        pipeline,
        &mut plan,
        &Known { spectra: &spectra, sensitivities: &[], metrics: &metrics, source: &*source },
    )?;
    Ok(plan)
}

/// The files that a pipeline reads, the model first: nothing may be written over them.
///
/// ```
/// # use calabi::Pipeline;
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let files = calabi::reads(&pipeline)?;
/// assert!(files[0].ends_with("digits.onnx") && files.iter().any(|file| file.ends_with("held-out.npz")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where the model cannot be opened.
pub fn reads(pipeline: &Pipeline) -> Result<Vec<PathBuf>, Error> {
    Ok(files_read(pipeline, &*open(pipeline)?))
}

/// The plan that a run begins with: the one that it was given, else that of its pipeline.
pub(crate) fn planned(pipeline: &Pipeline, options: &RunOptions, source: &dyn LayerSource) -> Result<Plan, Error> {
    options.plan.as_ref().map_or_else(|| survey(pipeline, source), |plan| Ok(plan.clone()))
}

fn known(decomposed: &[Option<Decomposed>]) -> Vec<Option<&Spectrum>> {
    decomposed.iter().map(|d| d.as_ref().map(|d| &d.spectrum)).collect()
}

/// Opens a model by its kind, metadata only.
///
/// ```
/// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
/// let model = calabi::open_model(input.as_ref(), None)?;
/// assert_eq!((model.totals().format, model.layers().len()), ("safetensors", 3));
/// # Ok::<(), calabi::Error>(())
/// ```
///
/// # Errors
/// Where no format knows it, or it is not what it claims to be.
pub fn open_model(path: &Path, kind: Option<&str>) -> Result<Box<dyn LayerSource>, Error> {
    let format = format_of(path, kind)?;
    format.open(path).map_err(|source| Error::Input { source, span: None })
}

pub(crate) fn open(pipeline: &Pipeline) -> Result<Box<dyn LayerSource>, Error> {
    let model = &pipeline.model;
    if !model.input.exists() {
        let error = ConfigError::new(format!("the model {} is not there", model.input.display()));
        return Err(error.with_help("paths are relative to the pipeline file").at(model.input.span.clone()).into());
    }
    if let Some(size) = &model.shard_size
        && !model.input.is_dir()
    {
        let error = ConfigError::new("shard_size is for checkpoint folders, and the input is a single file");
        return Err(error.with_help("leave it out").at(size.span.clone()).into());
    }
    let format = format_of(&model.input, model.format.as_deref().map(String::as_str))
        .map_err(|error| error.at(model.input.span.clone()))?;
    let source = format.open(&model.input).map_err(|source| input_error(pipeline, source))?;
    if let Some(requantise) = &model.requantise
        && source.totals().format == "safetensors"
    {
        let error = ConfigError::new("requantise is for ONNX graphs, and the input is a checkpoint");
        return Err(error.with_help("leave it out").at(requantise.span.clone()).into());
    }
    Ok(source)
}

fn format_of(path: &Path, kind: Option<&str>) -> Result<Box<dyn LayerFormat>, ConfigError> {
    if !path.exists() {
        return Err(ConfigError::new(format!("the model {} is not there", path.display())));
    }
    if let Some(kind) = kind {
        return registry::find::<dyn LayerFormat>(kind)?.build(Settings::empty());
    }
    let plugins = registry::all::<dyn LayerFormat>()?;
    for plugin in &plugins {
        let format = plugin.build(Settings::empty())?;
        if format.detect(path) {
            return Ok(format);
        }
    }
    let kinds: Vec<_> = plugins.iter().map(|plugin| plugin.kind()).collect();
    Err(ConfigError::new(format!("{} is of no known format", path.display()))
        .with_help(format!("known are {}: name one in [model] format", kinds.join(", "))))
}

pub(crate) fn on_threads<T: Send>(
    threads: Option<usize>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build()?.install(work)
}
