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
    /// What the original makes of the samples: run before any work, so that data that does not fit is told at once.
    expected: Vec<Output>,
}

impl<'a> Verifier<'a> {
    /// Loads the samples and the original, where the pipeline asks for a comparison.
    pub(crate) fn new(pipeline: &'a Pipeline) -> Result<Option<Self>, Error> {
        let Some(settings) = &pipeline.verify else { return Ok(None) };
        let input = &pipeline.model.input.value;
        let runtime = runtime_for(input).map_err(|error| error.at(settings.span.clone()))?;
        let (samples, labels) = load_samples(settings)?;
        let mut original = runtime.load(input).map_err(|source| failed(settings, source))?;
        let expected = original.outputs(&samples).map_err(|source| failed(settings, source))?;
        if let Some(labels) = &labels {
            accuracy(&expected, labels)
                .map_err(|error| error.at(settings.labels.as_ref().and_then(|l| l.span.clone())))?;
        }
        if settings.min_agreement.is_some() && expected.iter().all(|output| classes(&output.values).is_none()) {
            let error = ConfigError::new("`min_agreement` compares classes, and no output of the model has any");
            return Err(error
                .with_help("leave it out: min_cosine compares any output")
                .at(settings.span.clone())
                .into());
        }
        Ok(Some(Self { settings, runtime, original, samples, labels, expected }))
    }

    /// Runs both models, compares their outputs and checks the gates.
    pub(crate) fn compare(mut self, compressed: &Path, observer: &dyn Observer) -> Result<VerifyReport, Error> {
        observer.begin(Stage::Verify, 1);
        let settings = self.settings;
        let mut compressed = self.runtime.load(compressed).map_err(|source| failed(settings, source))?;
        let rounds = Rounds::run(&mut *self.original, &mut *compressed, &self.samples)
            .map_err(|source| failed(settings, source))?;
        let outputs = compare(&self.expected, &rounds.compressed)?;
        let accuracy = match &self.labels {
            None => None,
            Some(labels) => {
                Some(Change { before: accuracy(&self.expected, labels)?, after: accuracy(&rounds.compressed, labels)? })
            }
        };
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
            .with_help("build it with the feature `runtimes`, or leave [verify] out"));
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

#[cfg(feature = "runtimes")]
fn read_samples(path: &Path, labels: Option<&str>) -> Result<Labelled, RunError> {
    let read = calabi_nn::read_samples(path, labels)?;
    Ok((read.samples, read.labels.map(|labels| labels.into_iter().collect())))
}

#[cfg(not(feature = "runtimes"))]
fn read_samples(path: &Path, _: Option<&str>) -> Result<Labelled, RunError> {
    let problem = "this program was built without the feature `runtimes`".to_owned();
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

/// The compressed model's outputs, and the best time of each model over interleaved rounds.
struct Rounds {
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
        let (_, before) = timed(original)?;
        let (outputs, after) = timed(compressed)?;
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
        Ok(Self { compressed: outputs, seconds })
    }
}

fn compare(original: &[Output], compressed: &[Output]) -> Result<Vec<OutputReport>, Error> {
    original
        .iter()
        .zip(compressed)
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

/// The accuracy of a model on its first output.
fn accuracy(outputs: &[Output], labels: &[i64]) -> Result<f64, ConfigError> {
    let found = outputs.first().and_then(|output| classes(&output.values)).unwrap_or_default();
    let found: Vec<i64> = found.into_iter().map(|class| i64::try_from(class).unwrap_or(-1)).collect();
    if found.len() == labels.len() {
        return Ok(agreement(labels, &found));
    }
    let problem = format!("there are {} labels for {} rows of classes of the first output", labels.len(), found.len());
    Err(ConfigError::new(problem).with_help("give one label for every row"))
}

fn gates(settings: &VerifySettings, outputs: &[OutputReport], accuracy: Option<Change<f64>>) -> Vec<GateReport> {
    let at_most = |gate, limit: f64, measured: f64| GateReport { gate, limit, measured, met: measured <= limit };
    let at_least = |gate, limit: f64, measured: f64| GateReport { gate, limit, measured, met: measured >= limit };
    let error = worst(outputs.iter().map(|o| o.relative_error), f64::max);
    let cosine = worst(outputs.iter().map(|o| o.cosine), f64::min);
    let same = worst(outputs.iter().filter_map(|o| o.agreement), f64::min);
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

/// The worst of some figures; not a number where one of them is not, or there is none: no gate is met by that.
fn worst(mut figures: impl Iterator<Item = f64>, worse: fn(f64, f64) -> f64) -> f64 {
    let first = figures.next().unwrap_or(f64::NAN);
    figures.fold(first, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { worse(a, b) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_not_a_number_meets_no_gate() {
        assert!(worst([0.1, f64::NAN, 0.2].into_iter(), f64::max).is_nan());
        assert!(worst([f64::NAN, 0.1].into_iter(), f64::min).is_nan());
        assert!(worst(std::iter::empty(), f64::min).is_nan());
        assert!((worst([0.1, 0.3, 0.2].into_iter(), f64::max) - 0.3).abs() < 1e-12);
        let text = "data = \"x.npz\"\nmax_relative_error = 0.1\nmin_cosine = 0.9\nmin_agreement = 0.5\n";
        let settings: VerifySettings = toml::from_str(text).unwrap();
        let output =
            |figure, agreement| OutputReport { name: "y".into(), relative_error: figure, cosine: figure, agreement };
        let met = |output| gates(&settings, &[output], None).iter().map(|gate| gate.met).collect::<Vec<_>>();
        assert_eq!(met(output(f64::NAN, None)), [false, false, false]);
        assert_eq!(met(output(0.05, Some(0.6))), [true, false, true]);
    }
}
