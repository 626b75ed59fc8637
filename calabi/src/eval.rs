//! The perplexity of a language model on a text.

use std::path::{Path, PathBuf};
use std::time::Instant;

use calabi_api::{ConfigError, Output, RunError, Samples};
use rayon::prelude::*;
use serde::Serialize;

use crate::compare::{Meaning, surprise};
use crate::data::{self, DataRequest};
use crate::run::on_threads;
use crate::runtime::runtime_for;
use crate::tokens::Tokens;
use crate::{Error, Observer, Stage};

/// How a model is evaluated.
///
/// ```
/// # use calabi::{EvalOptions, Silent, evaluate};
/// # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/models/tiny-lm"));
/// # let [model, text] = ["model.onnx", "text.txt"].map(|name| folder.join(name));
/// let options = EvalOptions { window: 20, windows: Some(3), ..EvalOptions::default() };
/// let evaluation = evaluate(&model, &text, &options, &Silent)?;
/// assert_eq!((evaluation.windows, evaluation.tokens), (3, 3 * 19));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// Tokens a window. Windows do not overlap: the text is tokenized once and cut; what is left behind the last whole
    /// window is not looked at.
    pub window: usize,
    /// How many windows, from the start of the text; none takes all.
    pub windows: Option<usize>,
    /// The tokenizer; none takes the model's own (`tokenizer.json`).
    pub tokenizer: Option<PathBuf>,
    /// Threads to work on; none takes one per processor.
    pub threads: Option<usize>,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { window: 512, windows: None, tokenizer: None, threads: None }
    }
}

/// How well a model predicts a text. Its JSON is what `calabi-cli eval --format json` prints.
///
/// ```
/// # use calabi::{EvalOptions, Silent, evaluate};
/// # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/models/tiny-lm"));
/// # let [model, text] = ["model.onnx", "text.txt"].map(|name| folder.join(name));
/// # let options = EvalOptions { window: 20, ..EvalOptions::default() };
/// let evaluation = evaluate(&model, &text, &options, &Silent)?;
/// assert_eq!(evaluation.perplexity, evaluation.loss.exp());
/// assert_eq!(evaluation.tokens, evaluation.windows as u64 * (evaluation.window as u64 - 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// The model.
    pub model: PathBuf,
    /// The text.
    pub text: PathBuf,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// `−ln p(token)` given the tokens before it in its window, in nats, in the mean over the scored tokens.
    pub loss: f64,
    /// The number of scored tokens: each window scores all but its first.
    pub tokens: u64,
    /// The number of windows.
    pub windows: usize,
    /// Tokens a window.
    pub window: usize,
    /// Tokens from the start of one window to the start of the next: the same, windows do not overlap.
    pub stride: usize,
    /// Wall-clock time, without reading model and text.
    pub seconds: f64,
}

/// Measures the perplexity of a model (a checkpoint folder, an ONNX graph) on a text.
///
/// ```
/// use calabi::{EvalOptions, Silent, evaluate};
///
/// # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/models/tiny-lm"));
/// # let [model, text] = ["model.onnx", "text.txt"].map(|name| folder.join(name));
/// let options = EvalOptions { window: 20, ..EvalOptions::default() };
/// let evaluation = evaluate(&model, &text, &options, &Silent)?;
/// assert!(evaluation.perplexity > 1.0 && evaluation.loss.is_finite());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where no runtime runs the model, the text does not fill a window, or the model predicts no tokens.
pub fn evaluate(
    model: &Path,
    text: &Path,
    options: &EvalOptions,
    observer: &dyn Observer,
) -> Result<Evaluation, Error> {
    on_threads(options.threads, || evaluate_here(model, text, options, observer))
}

fn evaluate_here(
    model: &Path,
    text: &Path,
    options: &EvalOptions,
    observer: &dyn Observer,
) -> Result<Evaluation, Error> {
    let failed = |source| Error::Evaluate { source };
    for path in [model, text] {
        if !path.exists() {
            return Err(ConfigError::new(format!("{} is not there", path.display())).into());
        }
    }
    if options.window < 2 {
        return Err(ConfigError::new("a window of one token predicts nothing").with_help("--window 512").into());
    }
    let mut runner = runtime_for(model, "an evaluation")?.load(model).map_err(failed)?;
    let tokenizer = options.tokenizer.as_deref();
    let request =
        DataRequest { tokenizer, model, sequence: options.window, samples: options.windows, seed: 0, labels: None };
    let samples = data::windows(text, &request, &runner.inputs()).map_err(failed)?;
    let started = Instant::now();
    let (loss, tokens) = score(&mut *runner, &samples, observer)?;
    Ok(Evaluation {
        model: model.to_owned(),
        text: text.to_owned(),
        perplexity: loss.exp(),
        loss,
        tokens,
        windows: samples.count(),
        window: options.window,
        stride: options.window,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The mean of `−ln p(token)` over the tokens of these samples that follow another, and their number.
fn score(runner: &mut dyn calabi_api::Runner, samples: &Samples, observer: &dyn Observer) -> Result<(f64, u64), Error> {
    let failed = |source| Error::Evaluate { source };
    let first = runner.outputs(&samples.some(0, samples.count().min(1))).map_err(failed)?;
    let tokens = Tokens::of(samples).filter(Tokens::has_pairs).ok_or_else(|| no_logits(&first))?;
    let predicts = |output: &Output| Meaning::of(output, Some(&tokens)).predicts_tokens();
    let place = first.iter().position(predicts).ok_or_else(|| no_logits(&first))?;
    drop(first);
    observer.begin(Stage::Evaluate, samples.count());
    let (mut sum, mut scored) = (0.0, 0);
    runner
        .stream(samples, &mut |start, outputs| {
            if observer.cancelled() {
                return Err(RunError::Failed("cancelled".to_owned()));
            }
            let Some(logits) = outputs.get(place) else { return Ok(()) };
            for (index, sample) in logits.values.outer_iter().enumerate() {
                let (added, count) = window(&sample.as_standard_layout().into_dyn(), &tokens, start + index);
                sum += added;
                scored += count;
                observer.step(Stage::Evaluate, &format!("window {}", start + index + 1));
            }
            Ok(())
        })
        .map_err(|source| if observer.cancelled() { Error::Cancelled } else { failed(source) })?;
    observer.end(Stage::Evaluate);
    let loss = sum / scored as f64;
    if loss.is_finite() {
        return Ok((loss, scored));
    }
    let problem =
        format!("its loss on {scored} tokens is {loss}: the tokenizer is another model's, or weights are broken");
    Err(failed(RunError::Failed(problem)))
}

/// The sum of `−ln p(token)` over a window, and the number of its terms.
fn window(logits: &ndarray::CowArray<'_, f32, ndarray::IxDyn>, tokens: &Tokens, sample: usize) -> (f64, u64) {
    let (Some(values), Some(&width)) = (logits.as_slice(), logits.shape().last()) else { return (0.0, 0) };
    let terms: Vec<Option<f64>> = values
        .par_chunks(width.max(1))
        .enumerate()
        .map(|(position, row)| tokens.next(sample, position).map(|next| surprise(row, next)))
        .collect();
    terms.iter().flatten().fold((0.0, 0), |(sum, count), term| (sum + term, count + 1))
}

fn no_logits(outputs: &[Output]) -> Error {
    let names: Vec<_> = outputs.iter().map(|o| calabi_api::Name::new(&o.name).to_string()).collect();
    ConfigError::new(format!("the model predicts no tokens: its outputs are {}", names.join(", ")))
        .with_help("perplexity is of language models, which take `input_ids` and give `logits`")
        .into()
}
