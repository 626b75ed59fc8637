//! The sections of a pipeline file that belong to no plugin.
//!
//! The examples of sections are for rustdoc alone: their other docs are the descriptions of the schema.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use calabi_api::WriteOptions;
use calabi_api::settings::{Fraction, NonNegative, Share};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{ByteSize, Pattern, Sited};

/// `[model]`: what is compressed, and where the result goes.
#[cfg_attr(
    doc,
    doc = r#"
```
use calabi::{ModelSettings, api::toml};

let model: ModelSettings = toml::from_str("input = 'hf:org/name'\noutput = 'small'\nshard_size = '2GB'")?;
assert!(model.output.ends_with("small") && model.format.is_none());
assert_eq!(model.shard_size.map(|size| size.bytes()), Some(2_000_000_000));
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// An ONNX graph, a safetensors file, or a checkpoint folder, relative to the pipeline file; or `hf:org/name[@revision]`,
    /// which is looked up in the local Hugging Face cache.
    pub input: Sited<PathBuf>,
    /// Where the result goes: a file where the input is a file, a folder where it is a folder.
    pub output: Sited<PathBuf>,
    /// The kind of the format, where the file does not tell.
    pub format: Option<Sited<String>>,
    /// The largest size of a shard, such as "2GB". Without it the shards stay as they are.
    pub shard_size: Option<Sited<ByteSize>>,
    /// Whether factors of weights that an ONNX graph stores as integers are stored as integers too: 8 bits, with a scale for
    /// each row. Without it they are floating point; other weights always stay as they are. The measured errors are those
    /// of the rounded factors.
    pub requantise: Option<Sited<bool>>,
}

impl ModelSettings {
    /// How the model is written.
    pub(crate) fn write_options(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.shard_size = self.shard_size.as_ref().map(|size| size.bytes());
        options.requantise = self.requantise.as_ref().is_some_and(|requantise| requantise.value);
        options
    }
}

/// `[layers]`: which layers are factorized, and what holds for all of them.
#[cfg_attr(
    doc,
    doc = r#"
```
use calabi::{LayerSettings, api::toml};

let layers: LayerSettings = toml::from_str("exclude = ['*head*']\nmin_features = 64")?;
assert!(layers.include[0].matches("lm_head") && layers.exclude[0].matches("lm_head"));
assert_eq!((layers.min_features.get(), layers.multiple.get(), layers.break_even), (64, 8, true));
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LayerSettings {
    /// Patterns over whole layer names: a layer that none matches is skipped. A pattern that matches no layer is an error.
    #[schemars(default = "everything")]
    pub include: Vec<Sited<Pattern>>,
    /// Patterns over whole layer names: a layer that one matches is skipped.
    #[schemars(default = "nothing")]
    pub exclude: Vec<Sited<Pattern>>,
    /// Layers with fewer inputs or fewer outputs are skipped.
    pub min_features: NonZeroUsize,
    /// Let embeddings take part, and heads that share their weight: rows of tokens that calibration cannot see.
    pub embeddings: bool,
    /// What becomes of a layer whose decomposition fails.
    pub on_error: OnError,
    /// Ranks are rounded to multiples of this: up where an error was promised, else down. min(m, n) is never rounded.
    pub multiple: NonZeroUsize,
    /// Leave a layer dense where its factors would not be smaller.
    pub break_even: bool,
}

/// What becomes of a layer whose decomposition fails.
///
/// ```
/// use calabi::{LayerSettings, OnError, api::toml};
///
/// assert_eq!(toml::from_str::<LayerSettings>("on_error = 'dense'")?.on_error, OnError::Dense);
/// assert_eq!(LayerSettings::default().on_error, OnError::Stop);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum OnError {
    /// The run ends, and nothing is written.
    #[default]
    Stop,
    /// The layer stays dense, and the report says so.
    Dense,
}

impl Default for LayerSettings {
    fn default() -> Self {
        const EIGHT: NonZeroUsize = NonZeroUsize::new(8).unwrap();
        Self {
            include: Pattern::new("*").into_iter().map(Sited::from).collect(),
            exclude: Vec::new(),
            min_features: NonZeroUsize::MIN,
            embeddings: false,
            on_error: OnError::Stop,
            multiple: EIGHT,
            break_even: true,
        }
    }
}

fn everything() -> Vec<&'static str> {
    vec!["*"]
}

fn nothing() -> Vec<&'static str> {
    Vec::new()
}

/// `[verify]`: original and compressed run side by side on held-out data, or are scored by a command of yours. A gate
/// that is not met ends the run with exit code 3, and the output is put beside its place, marked as failed.
#[cfg_attr(
    doc,
    doc = r#"
```
use calabi::{VerifySettings, api::toml};

let verify: VerifySettings = toml::from_str("data = 'held-out.npz'\nmin_agreement = 0.99")?;
assert_eq!(verify.min_agreement.map(|share| share.get()), Some(0.99));
assert!(verify.samples.is_none() && verify.max_kl.is_none(), "all samples, and no other gate");
assert!(toml::from_str::<VerifySettings>("min_agreement = 99").is_err());
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerifySettings {
    /// Held-out samples: tensors by input name, samples along the first axis (an .npz file), or text. Relative to the
    /// pipeline file. Needed by all gates but `max_drop`.
    pub data: Option<Sited<PathBuf>>,
    /// The tokenizer of a text, a tokenizer.json. Without it, the model's own. Relative to the pipeline file.
    pub tokenizer: Option<PathBuf>,
    /// How many samples. Without it, 16 of a text, all of tensors.
    pub samples: Option<NonZeroUsize>,
    /// Tokens a sample of text.
    pub sequence: NonZeroUsize,
    /// The array of the file that holds the right classes: gives the accuracy of both models on their first output.
    pub labels: Option<Sited<String>>,
    /// Gate: the largest relative error of an output, ‖y - y'‖ / ‖y‖.
    pub max_relative_error: Option<NonNegative>,
    /// Gate: the smallest cosine between an output and the original's, in the mean over samples.
    pub min_cosine: Option<Share>,
    /// Gate: the largest Kullback-Leibler divergence of the compressed model's probabilities from the original's, in
    /// nats a token (or sample), in the mean. For outputs that are logits.
    pub max_kl: Option<NonNegative>,
    /// Gate: the smallest share of samples (of a language model: tokens) on which the largest value of an output is at the same place.
    pub min_agreement: Option<Share>,
    /// Gate: the largest drop in accuracy, as a share: 0.01 is one point. Needs `labels`.
    pub max_accuracy_drop: Option<Share>,
    /// Gate: the largest increase of the perplexity on the samples' next tokens, as a share of the original's: 0.05 is
    /// 5 %. For language models.
    pub max_perplexity_increase: Option<NonNegative>,
    /// A program and its arguments, with `{model}` where the path of the model goes: it prints a score of the model,
    /// higher is better, as the last line of its stdout. It runs in the pipeline file's folder, on the original first.
    pub command: Option<Sited<Vec<String>>>,
    /// Gate: how far the command's score may fall below the original's. Needs `command`.
    pub max_drop: Option<NonNegative>,
}

impl Default for VerifySettings {
    fn default() -> Self {
        const SEQUENCE: NonZeroUsize = NonZeroUsize::new(512).unwrap();
        Self {
            data: None,
            tokenizer: None,
            samples: None,
            sequence: SEQUENCE,
            labels: None,
            max_relative_error: None,
            min_cosine: None,
            max_kl: None,
            min_agreement: None,
            max_accuracy_drop: None,
            max_perplexity_increase: None,
            command: None,
            max_drop: None,
        }
    }
}

impl VerifySettings {
    /// The files that it names.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.data.iter().map(|data| &data.value).chain(&self.tokenizer)
    }
}

/// `[search]`: the smallest `keep` of the budget whose result passes one gate on the data of `[verify]`, by bisection.
/// Nothing is decomposed again: a step costs one verification. The `keep` in `[rank]` is then what `plan` shows.
#[cfg_attr(
    doc,
    doc = r#"
```
use calabi::{SearchSettings, api::toml};

let search: SearchSettings = toml::from_str("max_kl = 0.01\nmin_keep = 0.4")?;
assert_eq!((search.max_kl.map(|limit| limit.get()), search.tolerance.get()), (Some(0.01), 0.01));
assert!(search.min_keep.is_some() && search.max_keep.is_none());
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSettings {
    /// Gate: see `[verify]`. One gate must be set.
    pub max_kl: Option<NonNegative>,
    /// Gate: see `[verify]`.
    pub min_cosine: Option<Share>,
    /// Gate: see `[verify]`.
    pub min_agreement: Option<Share>,
    /// Gate: see `[verify]`.
    pub max_relative_error: Option<NonNegative>,
    /// Gate: see `[verify]`.
    pub max_perplexity_increase: Option<NonNegative>,
    /// The distance between one `keep` that is looked at and the next.
    pub tolerance: Fraction,
    /// The smallest `keep` that is looked at. Without it, `tolerance`.
    pub min_keep: Option<Fraction>,
    /// The largest `keep` that is looked at. Without it, 1.
    pub max_keep: Option<Fraction>,
}

impl Default for SearchSettings {
    fn default() -> Self {
        Self {
            max_kl: None,
            min_cosine: None,
            min_agreement: None,
            max_relative_error: None,
            max_perplexity_increase: None,
            tolerance: Fraction::constant(0.01),
            min_keep: None,
            max_keep: None,
        }
    }
}

/// `[report]`: where reports go besides the terminal.
#[cfg_attr(
    doc,
    doc = r#"
```
let report: calabi::ReportSettings = calabi::api::toml::from_str("json = 'report.json'")?;
assert_eq!(report.json, Some("report.json".into()));
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSettings {
    /// Writes what `--format json` prints. Relative to the pipeline file.
    pub json: Option<PathBuf>,
}
