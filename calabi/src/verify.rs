//! Runs original and compressed side by side on held-out data, times both, and checks the gates.

use std::path::Path;
use std::time::Instant;

use calabi_api::{ConfigError, Output, RunError, Runner, Runtime, Samples, registry};
use serde::Serialize;

use crate::compare::{agreement, classes, mean_cosine, relative_error};
use crate::{Change, Error, Observer, Pipeline, Sited, Stage, VerifySettings};

/// Original and compressed side by side.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// How many samples were run.
    pub samples: usize,
    /// Each output compared with the original's.
    pub outputs: Vec<OutputReport>,
    /// The share of samples of which the class is right, where labels are given.
    pub accuracy: Option<Change<f64>>,
    /// Wall-clock time of all samples, the best of interleaved rounds.
    pub seconds: Change<f64>,
    /// The gates of the pipeline.
    pub gates: Vec<GateReport>,
}

/// An output compared with the original's.
#[derive(Debug, Clone, Serialize)]
pub struct OutputReport {
    /// Its name.
    pub name: String,
    /// `‖y − y'‖ / ‖y‖` over all samples.
    pub relative_error: f64,
    /// The cosine with the original's, in the mean over samples.
    pub cosine: f64,
    /// The share of rows with the largest value at the same place; none for outputs without classes.
    pub agreement: Option<f64>,
}

/// A gate and how it was met.
#[derive(Debug, Clone, Serialize)]
pub struct GateReport {
    /// The setting, such as `min_cosine`.
    pub gate: &'static str,
    /// Its value.
    pub limit: f64,
    /// What was measured.
    pub measured: f64,
    /// Whether it is met.
    pub met: bool,
}

/// The runtime and the samples, ready before any work is done: what is missing is told at once.
pub(crate) struct Verifier<'a> {
    settings: &'a Sited<VerifySettings>,
    runtime: Box<dyn Runtime>,
    original: Box<dyn Runner>,
    samples: Samples,
    labels: Option<Vec<i64>>,
}

impl<'a> Verifier<'a> {
    /// Loads the samples and the original, where the pipeline asks for a comparison.
    pub(crate) fn new(pipeline: &'a Pipeline) -> Result<Option<Self>, Error> {
        let Some(settings) = &pipeline.verify else { return Ok(None) };
        let input = &pipeline.model.input.value;
        let runtime = runtime_for(input).map_err(|error| error.at(settings.span.clone()))?;
        let (samples, labels) = load_samples(settings)?;
        let original = runtime.load(input).map_err(|source| failed(settings, source))?;
        Ok(Some(Self { settings, runtime, original, samples, labels }))
    }

    /// Runs both models, compares their outputs and checks the gates.
    pub(crate) fn compare(mut self, compressed: &Path, observer: &dyn Observer) -> Result<VerifyReport, Error> {
        observer.begin(Stage::Verify, 1);
        let settings = self.settings;
        let mut compressed = self.runtime.load(compressed).map_err(|source| failed(settings, source))?;
        let rounds = Rounds::run(&mut *self.original, &mut *compressed, &self.samples)
            .map_err(|source| failed(settings, source))?;
        let outputs = compare(&rounds)?;
        let accuracy = self.labels.as_ref().map(|labels| accuracy(&rounds, labels, settings)).transpose()?;
        let gates = gates(settings, &outputs, accuracy);
        observer.step(Stage::Verify, "");
        observer.end(Stage::Verify);
        Ok(VerifyReport { samples: self.samples.count(), outputs, accuracy, seconds: rounds.seconds, gates })
    }
}

fn failed(settings: &Sited<VerifySettings>, source: RunError) -> Error {
    Error::Verify { source, span: settings.span.clone() }
}

fn runtime_for(model: &Path) -> Result<Box<dyn Runtime>, ConfigError> {
    let plugins = registry::all::<dyn Runtime>()?;
    if plugins.is_empty() {
        return Err(ConfigError::new("[verify] needs a runtime, and this program has none")
            .with_help("build it with the feature `onnx-runtime`, or leave [verify] out"));
    }
    for plugin in &plugins {
        let runtime = plugin.build(calabi_api::Settings::empty())?;
        if runtime.detect(model) {
            return Ok(runtime);
        }
    }
    let kinds: Vec<_> = plugins.iter().map(|plugin| plugin.kind()).collect();
    Err(ConfigError::new(format!(
        "[verify] cannot run {}: the runtimes of this program run {}",
        model.display(),
        kinds.join(", ")
    ))
    .with_help("leave [verify] out"))
}

/// Samples by input name, and the right classes apart from them.
type Labelled = (Samples, Option<Vec<i64>>);

#[cfg(feature = "onnx-runtime")]
fn read_samples(path: &Path, labels: Option<&str>) -> Result<Labelled, RunError> {
    let read = calabi_nn::read_samples(path, labels)?;
    Ok((read.samples, read.labels.map(|labels| labels.into_iter().collect())))
}

#[cfg(not(feature = "onnx-runtime"))]
fn read_samples(path: &Path, _: Option<&str>) -> Result<Labelled, RunError> {
    let problem = "this program was built without the feature `onnx-runtime`".to_owned();
    Err(RunError::Data { path: path.to_owned(), problem })
}

fn load_samples(settings: &Sited<VerifySettings>) -> Result<Labelled, Error> {
    let data = &settings.data;
    if !data.is_file() {
        return Err(ConfigError::new(format!("the data {} is not there", data.display())).at(data.span.clone()).into());
    }
    let labels = settings.labels.as_ref().map(|name| name.as_str());
    read_samples(data, labels).map_err(|source| Error::Verify { source, span: data.span.clone() })
}

/// Both models' outputs, and the best time of each over interleaved rounds.
struct Rounds {
    original: Vec<Output>,
    compressed: Vec<Output>,
    seconds: Change<f64>,
}

impl Rounds {
    fn run(original: &mut dyn Runner, compressed: &mut dyn Runner, samples: &Samples) -> Result<Self, RunError> {
        const ROUNDS: usize = 5;
        const ENOUGH_SECONDS: f64 = 5.0;
        let timed = |runner: &mut dyn Runner| {
            let started = Instant::now();
            runner.outputs(samples).map(|outputs| (outputs, started.elapsed().as_secs_f64()))
        };
        let (first, before) = timed(original)?;
        let (second, after) = timed(compressed)?;
        let mut seconds = Change { before, after };
        let mut spent = before + after;
        for _ in 1..ROUNDS {
            if spent > ENOUGH_SECONDS {
                break;
            }
            let (before, after) = (timed(original)?.1, timed(compressed)?.1);
            spent += before + after;
            seconds = Change { before: seconds.before.min(before), after: seconds.after.min(after) };
        }
        Ok(Self { original: first, compressed: second, seconds })
    }
}

fn compare(rounds: &Rounds) -> Result<Vec<OutputReport>, Error> {
    let pairs = rounds.original.iter().zip(&rounds.compressed);
    pairs
        .map(|(y, z)| {
            if y.values.shape() != z.values.shape() || y.values.ndim() == 0 {
                let problem = format!(
                    "output {} has shape {:?}, the original's {:?}",
                    z.name,
                    z.values.shape(),
                    y.values.shape()
                );
                return Err(Error::Verify { source: RunError::Failed(problem), span: None });
            }
            let same = classes(&y.values).zip(classes(&z.values)).map(|(a, b)| agreement(&a, &b));
            Ok(OutputReport {
                name: y.name.clone(),
                relative_error: relative_error(&y.values, &z.values),
                cosine: mean_cosine(&y.values, &z.values),
                agreement: same,
            })
        })
        .collect()
}

/// The accuracy of both models on their first output.
fn accuracy(rounds: &Rounds, labels: &[i64], settings: &Sited<VerifySettings>) -> Result<Change<f64>, Error> {
    let of = |outputs: &[Output]| {
        let found = outputs.first().and_then(|output| classes(&output.values)).unwrap_or_default();
        let found: Vec<i64> = found.into_iter().map(|class| i64::try_from(class).unwrap_or(-1)).collect();
        if found.len() == labels.len() {
            return Ok(agreement(labels, &found));
        }
        let problem = format!("there are {} labels for {} rows of the first output", labels.len(), found.len());
        let span = settings.labels.as_ref().and_then(|name| name.span.clone());
        Err(Error::from(ConfigError::new(problem).at(span)))
    };
    Ok(Change { before: of(&rounds.original)?, after: of(&rounds.compressed)? })
}

fn gates(settings: &VerifySettings, outputs: &[OutputReport], accuracy: Option<Change<f64>>) -> Vec<GateReport> {
    let at_most = |gate, limit: f64, measured: f64| GateReport { gate, limit, measured, met: measured <= limit };
    let at_least = |gate, limit: f64, measured: f64| GateReport { gate, limit, measured, met: measured >= limit };
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let error = outputs.iter().map(|o| o.relative_error).fold(0.0, f64::max);
    let cosine = least(&mut outputs.iter().map(|o| o.cosine));
    let same = least(&mut outputs.iter().filter_map(|o| o.agreement));
    let drop = accuracy.map(|accuracy| accuracy.before - accuracy.after);
    [
        settings.max_relative_error.map(|limit| at_most("max_relative_error", limit.get(), error)),
        settings.min_cosine.map(|limit| at_least("min_cosine", limit.get(), cosine)),
        settings.min_agreement.map(|limit| at_least("min_agreement", limit.get(), same)),
        settings.max_accuracy_drop.zip(drop).map(|(limit, drop)| at_most("max_accuracy_drop", limit.get(), drop)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
