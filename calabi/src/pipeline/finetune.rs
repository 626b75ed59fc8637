//! `[finetune]`: how a compressed model is trained.
//!
//! The examples of sections are for rustdoc alone: their other docs are the descriptions of the schema.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use calabi_api::settings::Positive;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Sited;

/// `[finetune]`: `calabi-cli finetune` trains the factors, biases and norms of the compressed model that `[model] output`
/// names, on text. The result goes to another place; `calabi-cli run` does not look at this section.
#[cfg_attr(
    doc,
    doc = r#"
```
use calabi::{FinetuneObjective, FinetuneSettings, api::toml};

let settings: FinetuneSettings = toml::from_str("data = 'text.txt'\nsteps = 100")?;
assert_eq!((settings.steps.map(|steps| steps.get()), settings.minutes), (Some(100), None));
assert_eq!(settings.objective, FinetuneObjective::NextToken);
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinetuneSettings {
    /// Text, or tokens (`input_ids` in an .npz or .safetensors file). Relative to the pipeline file.
    pub data: Sited<PathBuf>,
    /// Wall-clock time, in minutes. Without it and without `steps`, 20.
    pub minutes: Option<Positive>,
    /// Steps of the optimizer, in place of `minutes` or beside it: what is reached first ends the training.
    pub steps: Option<NonZeroUsize>,
    /// The largest step of the optimizer.
    #[serde(default = "learning_rate")]
    pub learning_rate: Positive,
    /// What is trained for.
    #[serde(default)]
    pub objective: FinetuneObjective,
    /// Where the result goes. Without it, beside `[model] output`, with `.tuned` behind its name. Relative to the pipeline
    /// file.
    pub output: Option<Sited<PathBuf>>,
    /// The tokenizer of text, a tokenizer.json. Without it, the model's own. Relative to the pipeline file.
    pub tokenizer: Option<Sited<PathBuf>>,
    /// Tokens of a window of text.
    #[serde(default = "sequence")]
    pub sequence: NonZeroUsize,
    /// Windows a step.
    #[serde(default = "batch")]
    pub batch: NonZeroUsize,
    /// So many windows, spread over the text, are kept out of the training and judge it: the best is kept.
    #[serde(default = "held_out")]
    pub held_out: NonZeroUsize,
    /// Orders the windows.
    #[serde(default)]
    pub seed: u64,
    /// Minutes from one saving of the training's state to the next: a run that was killed goes on from the last.
    #[serde(default = "save_minutes")]
    pub save_minutes: Positive,
}

/// What a model is trained for.
///
/// ```
/// use calabi::{FinetuneObjective, FinetuneSettings, api::toml};
///
/// let settings: FinetuneSettings = toml::from_str("data = 'text.txt'\nobjective = 'distill'")?;
/// assert_eq!(settings.objective, FinetuneObjective::Distill);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum FinetuneObjective {
    /// The token that follows, as the text has it.
    #[default]
    NextToken,
    /// The probabilities of the token that follows, as the original has them.
    Distill,
}

/// Minutes of a training whose end nothing else says.
#[cfg(feature = "runtimes")]
pub(crate) const MINUTES: f64 = 20.0;

const fn number(value: usize) -> NonZeroUsize {
    match NonZeroUsize::new(value) {
        Some(value) => value,
        None => NonZeroUsize::MIN,
    }
}

fn learning_rate() -> Positive {
    Positive::constant(1e-4)
}

fn sequence() -> NonZeroUsize {
    number(512)
}

fn batch() -> NonZeroUsize {
    number(1)
}

fn held_out() -> NonZeroUsize {
    number(8)
}

fn save_minutes() -> Positive {
    Positive::constant(2.0)
}
