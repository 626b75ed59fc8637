//! Original and compressed on held-out data and by the user's own command, and the gates that the result must meet.

pub(crate) mod command;
pub(crate) mod gates;
mod side_by_side;

use std::path::Path;

use serde::Serialize;

use crate::{Change, Error, Observer, Pipeline, Sited, Stage};
use command::Scorer;
use gates::Gate;
use side_by_side::{Measured, SideBySide};

/// Original and compressed, compared.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let verify = report.verify.ok_or("no [verify]")?;
/// let accuracy = verify.accuracy.ok_or("no labels")?;
/// assert!(verify.samples == 360 && accuracy.after > accuracy.before - 0.01);
/// assert!(verify.perplexity.is_none() && verify.command.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// How many samples were run.
    pub samples: usize,
    /// Each output compared with the original's.
    pub outputs: Vec<OutputReport>,
    /// The share of samples of which the class is right, where labels are given.
    pub accuracy: Option<Change<f64>>,
    /// The perplexity on the next tokens of the samples, where the model predicts them.
    pub perplexity: Option<Change<f64>>,
    /// Over how many predicted tokens the perplexity is taken.
    pub tokens: Option<u64>,
    /// Wall-clock time of all samples, the best of interleaved rounds; none without data.
    pub seconds: Option<Change<f64>>,
    /// What the user's own command says of both models.
    pub command: Option<CommandReport>,
    /// The gates of the pipeline.
    pub gates: Vec<GateReport>,
}

/// An output compared with the original's. Rows of padding (`attention_mask`) are left out of all figures.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let verify = report.verify.ok_or("no [verify]")?;
/// let output = &verify.outputs[0];
/// assert!(output.agreement.is_some_and(|share| share >= 0.99));
/// assert!(output.cosine > 0.9 && output.relative_error < 0.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputReport {
    /// Its name.
    pub name: String,
    /// `‖y − y'‖ / ‖y‖` over all samples.
    pub relative_error: f64,
    /// The cosine with the original's, in the mean over samples.
    pub cosine: f64,
    /// The share of rows with the largest value at the same place; none for outputs without classes.
    pub agreement: Option<f64>,
    /// The Kullback-Leibler divergence `Σ p ln(p / p')` of the compressed model's probabilities `p'` from the original's
    /// `p`, in nats, in the mean over rows (tokens of a language model); none for outputs that are no logits.
    pub kl: Option<f64>,
}

/// What the user's own command says of both models.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml").as_ref();
/// let size = r#"verify.command=["sh", "-c", 'wc -c < "$1"', "sh", "{model}"]"#;
/// let pipeline = Pipeline::load(file, &[small.parse()?, size.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let score = report.verify.and_then(|verify| verify.command).ok_or("no command")?.score;
/// assert_eq!((score.before, score.after), (report.bytes.before as f64, report.bytes.after as f64));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CommandReport {
    /// The command, as the pipeline states it.
    pub command: Vec<String>,
    /// The number that it printed last; higher is better.
    pub score: Change<f64>,
}

/// A gate and how it was met.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let verify = report.verify.ok_or("no [verify]")?;
/// let gates: Vec<_> = verify.gates.iter().map(|gate| (gate.gate, gate.limit, gate.met)).collect();
/// assert_eq!(gates, [("min_agreement", 0.99, true), ("max_accuracy_drop", 0.01, true)]);
/// assert!(verify.gates[0].measured >= verify.gates[0].limit);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
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

/// Both models' data and commands, ready before any work is done: what is missing is told at once.
pub(crate) struct Verifier<'a> {
    models: Option<SideBySide<'a>>,
    scorer: Option<Scorer<'a>>,
    gates: Vec<Gate>,
}

impl<'a> Verifier<'a> {
    /// Loads the samples and the original and runs the command on it, where the pipeline asks for a comparison.
    pub(crate) fn new(pipeline: &'a Pipeline) -> Result<Option<Self>, Error> {
        let Some(settings) = &pipeline.verify else { return Ok(None) };
        let gates = settings.gates();
        let models = match &settings.data {
            None => None,
            Some(data) => {
                let models = SideBySide::new(pipeline, settings, data)?;
                check(&gates, &models, settings)?;
                if let Some(search) = &pipeline.search {
                    check(&search.gates(), &models, search)?;
                }
                Some(models)
            }
        };
        let scorer = match &settings.command {
            None => None,
            Some(command) => Some(Scorer::new(command, &pipeline.base, &pipeline.model.input)?),
        };
        Ok(Some(Self { models, scorer, gates }))
    }

    /// Runs both models, compares their outputs and checks the gates.
    pub(crate) fn compare(&mut self, compressed: &Path, observer: &dyn Observer) -> Result<VerifyReport, Error> {
        const ROUNDS: usize = 5;
        let mut report = self.figures(compressed, ROUNDS, observer)?;
        report.command = self.scorer.as_ref().map(|scorer| scorer.compare(compressed)).transpose()?;
        report.gates = self.gates.iter().map(|gate| gate.report(&report)).collect();
        Ok(report)
    }

    /// The figures on the data alone, without gates: what a search looks at. Both models run at most so many times.
    pub(crate) fn figures(
        &mut self,
        compressed: &Path,
        rounds: usize,
        observer: &dyn Observer,
    ) -> Result<VerifyReport, Error> {
        let Some(models) = &mut self.models else { return Ok(VerifyReport::default()) };
        observer.begin(Stage::Verify, models.groups());
        let Measured { outputs, accuracy, perplexity, seconds } = models.run(compressed, rounds, observer)?;
        observer.end(Stage::Verify);
        Ok(VerifyReport {
            samples: models.samples(),
            outputs,
            accuracy,
            perplexity: perplexity.map(|(change, _)| change),
            tokens: perplexity.map(|(_, tokens)| tokens),
            seconds: Some(seconds),
            ..VerifyReport::default()
        })
    }
}

/// A gate that no figure of this model can meet is told before any work.
fn check<T>(gates: &[Gate], models: &SideBySide<'_>, section: &Sited<T>) -> Result<(), Error> {
    let refused = gates.iter().find_map(|gate| gate.applies(models.figures_known()).err());
    refused.map_or(Ok(()), |error| Err(error.at(section.span.clone()).into()))
}
