//! Two models on the same samples, a few samples at a time: outputs of all of them need not fit in memory.

use std::path::{Path, PathBuf};
use std::time::Instant;

use calabi_api::{ConfigError, Output, RunError, Runner, Runtime, Samples};

use super::OutputReport;
use super::gates::Known;
use crate::compare::{Comparison, Meaning};
use crate::data::{self, DataRequest, Labelled};
use crate::runtime::runtime_for;
use crate::tokens::Tokens;
use crate::{Change, Error, Observer, Pipeline, Sited, Stage, VerifySettings};

/// Outputs of both models that are held at once, in bytes; at least those of one sample.
const HELD: usize = 512 << 20;

/// The original and the samples, ready to be compared with another model.
pub(super) struct SideBySide<'a> {
    settings: &'a Sited<VerifySettings>,
    runtime: Box<dyn Runtime>,
    original: Box<dyn Runner>,
    samples: Samples,
    labels: Option<Vec<i64>>,
    tokens: Option<Tokens>,
    outputs: Vec<(String, Meaning)>,
    /// So many samples run at once.
    group: usize,
}

/// What came of a comparison.
pub(super) struct Measured {
    pub(super) outputs: Vec<OutputReport>,
    pub(super) accuracy: Option<Change<f64>>,
    pub(super) perplexity: Option<(Change<f64>, u64)>,
    pub(super) seconds: Change<f64>,
}

impl<'a> SideBySide<'a> {
    /// Loads the original and the samples, and runs one of them: data that does not fit is told before any work.
    pub(super) fn new(
        pipeline: &Pipeline,
        settings: &'a Sited<VerifySettings>,
        data: &Sited<PathBuf>,
    ) -> Result<Self, Error> {
        let input = &pipeline.model.input.value;
        let at_section = |source| Error::Verify { source, span: settings.span.clone() };
        let runtime = runtime_for(input, "[verify]").map_err(|error| error.at(settings.span.clone()))?;
        if !data.is_file() {
            let error = ConfigError::new(format!("the data {} is not there", data.display()));
            return Err(error.at(data.span.clone()).into());
        }
        let mut original = runtime.load(input).map_err(at_section)?;
        let Labelled { samples, labels } = data::load(data, &request(settings, data, input), &original.inputs())
            .map_err(|source| Error::Verify { source, span: data.span.clone() })?;
        let tokens = Tokens::of(&samples);
        let first = original.outputs(&samples.some(0, samples.count().min(1))).map_err(at_section)?;
        check_vocabulary(&first, tokens.as_ref())
            .map_err(|problem| at_section(RunError::Data { path: data.value.clone(), problem }))?;
        if let Some(labels) = &labels {
            check_labels(&first, labels.len(), samples.count())
                .map_err(|error| error.at(settings.labels.as_ref().and_then(|labels| labels.span.clone())))?;
        }
        let outputs = first.iter().map(|y| (y.name.clone(), Meaning::of(y, tokens.as_ref()))).collect();
        let group = group(&first);
        Ok(Self { settings, runtime, original, samples, labels, tokens, outputs, group })
    }

    pub(super) fn samples(&self) -> usize {
        self.samples.count()
    }

    /// How many groups of samples run one after the other.
    pub(super) fn groups(&self) -> usize {
        self.samples().div_ceil(self.group)
    }

    pub(super) fn figures_known(&self) -> Known {
        let any = |is: fn(&Meaning) -> bool| self.outputs.iter().any(|(_, meaning)| is(meaning));
        let pairs = self.tokens.as_ref().is_some_and(Tokens::has_pairs);
        Known {
            classes: any(|meaning| meaning.classes),
            logits: any(|meaning| meaning.logits),
            next_tokens: pairs && any(|meaning| meaning.predicts_tokens()),
        }
    }

    /// Runs both models on all samples and compares them. Quick models run up to so many times, for the time's sake.
    pub(super) fn run(&mut self, compressed: &Path, rounds: usize, observer: &dyn Observer) -> Result<Measured, Error> {
        const ENOUGH_SECONDS: f64 = 5.0;
        let span = &self.settings.span;
        let failed = |source| Error::Verify { source, span: span.clone() };
        let mut comparison = Comparison::new(&self.outputs, self.tokens.as_ref(), self.labels.as_deref());
        let compressed = self.runtime.load(compressed).map_err(failed)?;
        let (samples, group) = (&self.samples, self.group);
        let mut pair = Pair { original: &mut *self.original, compressed, samples, group };
        let go_on = || if observer.cancelled() { Err(Error::Cancelled) } else { Ok(()) };
        let mut seconds = pair.pass(
            &mut |first, outputs| {
                comparison.add(first, outputs.before, outputs.after).map_err(failed)?;
                observer.step(Stage::Verify, "");
                go_on()
            },
            &failed,
        )?;
        let mut spent = seconds.before + seconds.after;
        for _ in 1..rounds {
            if spent > ENOUGH_SECONDS {
                break;
            }
            let again = pair.pass(&mut |_, _| go_on(), &failed)?;
            spent += again.before + again.after;
            seconds = Change { before: seconds.before.min(again.before), after: seconds.after.min(again.after) };
        }
        let (outputs, accuracy) = (comparison.outputs(), comparison.accuracy());
        Ok(Measured { outputs, accuracy, perplexity: comparison.perplexity(), seconds })
    }
}

/// Sees the number of the first of some samples, and what both models make of them.
type Each<'e> = dyn FnMut(usize, Change<&[Output]>) -> Result<(), Error> + 'e;

/// Two models and their samples.
struct Pair<'p> {
    original: &'p mut dyn Runner,
    compressed: Box<dyn Runner>,
    samples: &'p Samples,
    group: usize,
}

impl Pair<'_> {
    /// Runs both models on all samples, a group at a time: the seconds that each of them took.
    fn pass(&mut self, each: &mut Each<'_>, failed: &dyn Fn(RunError) -> Error) -> Result<Change<f64>, Error> {
        let mut seconds = Change { before: 0.0, after: 0.0 };
        let count = self.samples.count();
        for first in (0..count).step_by(self.group) {
            let some = self.samples.some(first, count.min(first + self.group));
            let before = timed(&mut seconds.before, || self.original.outputs(&some)).map_err(failed)?;
            let after = timed(&mut seconds.after, || self.compressed.outputs(&some)).map_err(failed)?;
            each(first, Change { before: &before, after: &after })?;
        }
        Ok(seconds)
    }
}

fn request<'s>(settings: &'s VerifySettings, data: &Path, model: &'s Path) -> DataRequest<'s> {
    /// Samples of text, where nothing is said: 8192 tokens of 512 each.
    const OF_TEXT: usize = 16;
    let samples = settings.samples.map(std::num::NonZeroUsize::get);
    DataRequest {
        tokenizer: settings.tokenizer.as_deref(),
        model,
        sequence: settings.sequence.get(),
        samples: samples.or((!data::holds_tensors(data)).then_some(OF_TEXT)),
        seed: 0,
        labels: settings.labels.as_ref().map(|labels| labels.as_str()),
    }
}

/// How many samples run at once: the outputs of both models stay within [`HELD`].
fn group(of_one: &[Output]) -> usize {
    let bytes: usize = of_one.iter().map(|output| 4 * output.values.len()).sum();
    (HELD / (2 * bytes).max(1)).max(1)
}

fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    *seconds += started.elapsed().as_secs_f64();
    done
}

/// A token that the model's vocabulary lacks comes of another model's tokenizer.
fn check_vocabulary(outputs: &[Output], tokens: Option<&Tokens>) -> Result<(), String> {
    let Some(tokens) = tokens else { return Ok(()) };
    let logits = outputs.iter().find(|output| Meaning::of(output, Some(tokens)).predicts_tokens());
    let vocabulary = logits.and_then(|output| output.values.shape().last().copied());
    match vocabulary {
        Some(size) if usize::try_from(tokens.largest()).is_ok_and(|id| id >= size) => Err(format!(
            "it holds the token id {}, and the model's vocabulary has {size} entries: another model's tokenizer made it",
            tokens.largest()
        )),
        _ => Ok(()),
    }
}

/// Checks that there is a label for every row of the first output.
fn check_labels(of_one: &[Output], labels: usize, samples: usize) -> Result<(), ConfigError> {
    let rows = of_one.first().map_or(0, |output| match *output.values.shape() {
        [_, ref inner @ .., width] if width >= 2 => inner.iter().product::<usize>() * samples,
        _ => 0,
    });
    if rows == labels {
        return Ok(());
    }
    let problem = format!("there are {labels} labels for {rows} rows of classes of the first output");
    Err(ConfigError::new(problem).with_help("give one label for every row"))
}
