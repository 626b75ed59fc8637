//! `[calibration]` and `[refine]`: what layers see, and how blocks are tuned.
//!
//! The examples of sections are for rustdoc alone: their other docs are the descriptions of the schema.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use calabi_api::settings::{Positive, Share};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::metric::{Bias, Objective};
use crate::{ByteSize, Sited};

/// `[calibration]`: the error of a layer is measured in the metric of what flows into it. Without this section ranks and
/// factors come from the weights alone.
#[cfg_attr(
    doc,
    doc = r#"
```
use calabi::{Bias, CalibrationSettings, Objective, api::toml};

let settings: CalibrationSettings = toml::from_str("data = 'text.txt'\nbias = 'residual'\nsequential = true")?;
assert_eq!((settings.objective, settings.bias), (Objective::Gram, Bias::Residual));
assert_eq!((settings.samples, settings.sequence.get()), (None, 512));
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationSettings {
    /// Text, or tensors by input name (.npz, .safetensors): what the model is run on. Relative to the pipeline file.
    pub data: Option<Sited<PathBuf>>,
    /// Statistics in place of data, as `calabi-cli calibrate` or a program of your own wrote them. Relative to the
    /// pipeline file.
    pub statistics: Option<Sited<PathBuf>>,
    /// The tokenizer for text: a tokenizer.json. Without it, the one in the model's folder.
    pub tokenizer: Option<Sited<PathBuf>>,
    /// How many samples are taken. Of text 64 without it, of tensors all.
    pub samples: Option<NonZeroUsize>,
    /// Tokens of a sample of text.
    #[serde(default = "sequence")]
    pub sequence: NonZeroUsize,
    /// Chooses the samples of a text.
    #[serde(default)]
    pub seed: u64,
    /// What the error of a layer is measured in.
    #[serde(default)]
    pub objective: Objective,
    /// The bias that makes up for what was cut.
    #[serde(default)]
    pub bias: Bias,
    /// How far the Gram matrix is drawn towards its scaled identity. Without it a rule of tokens and width decides.
    pub shrinkage: Option<Share>,
    /// Compress block by block, each on the inputs that the compressed blocks before it produce.
    #[serde(default)]
    pub sequential: bool,
    /// How many of the samples measure what cutting a layer does to the model, where a rank rule asks for it.
    #[serde(default = "sensitivity_samples")]
    pub sensitivity_samples: NonZeroUsize,
    /// Hidden states of more bytes than these wait in a file beside the output.
    #[serde(default = "states")]
    pub states: ByteSize,
}

/// `[refine]`: after a block's layers are factorized, its factors, biases and norms are tuned to give back the original
/// block's outputs. Needs `[calibration] sequential = true`.
#[cfg_attr(
    doc,
    doc = r#"
```
use calabi::{RefineSection, api::toml};

let refine: RefineSection = toml::from_str("epochs = 8")?;
assert_eq!((refine.epochs.get(), refine.batch.get(), refine.held_out.get()), (8, 4, 0.125));
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RefineSection {
    /// Passes over the calibration samples.
    #[serde(default = "epochs")]
    pub epochs: NonZeroUsize,
    /// The largest step of the optimizer.
    #[serde(default = "learning_rate")]
    pub learning_rate: Positive,
    /// Samples a step.
    #[serde(default = "batch")]
    pub batch: NonZeroUsize,
    /// The share of the samples that is kept out of the tuning and judges it.
    #[serde(default = "held_out")]
    pub held_out: Share,
}

impl CalibrationSettings {
    /// The model is run on this file: text, or tensors by input name. All else is as where a pipeline file says nothing.
    ///
    /// ```
    /// use calabi::CalibrationSettings;
    ///
    /// let settings = CalibrationSettings { sequential: true, ..CalibrationSettings::of_data("text.txt") };
    /// assert!(settings.data.is_some_and(|data| data.ends_with("text.txt")) && settings.statistics.is_none());
    /// ```
    pub fn of_data(data: impl Into<PathBuf>) -> Self {
        Self { data: Some(data.into().into()), ..Self::unsaid() }
    }

    /// Statistics of this file, in place of data. All else is as where a pipeline file says nothing.
    ///
    /// ```
    /// use calabi::CalibrationSettings;
    ///
    /// let settings = CalibrationSettings::of_statistics("statistics.safetensors");
    /// assert!(settings.statistics.is_some() && settings.data.is_none());
    /// ```
    pub fn of_statistics(statistics: impl Into<PathBuf>) -> Self {
        Self { statistics: Some(statistics.into().into()), ..Self::unsaid() }
    }

    fn unsaid() -> Self {
        Self {
            data: None,
            statistics: None,
            tokenizer: None,
            samples: None,
            sequence: sequence(),
            seed: 0,
            objective: Objective::default(),
            bias: Bias::default(),
            shrinkage: None,
            sequential: false,
            sensitivity_samples: sensitivity_samples(),
            states: states(),
        }
    }
}

const fn number(value: usize) -> NonZeroUsize {
    match NonZeroUsize::new(value) {
        Some(value) => value,
        None => NonZeroUsize::MIN,
    }
}

fn sequence() -> NonZeroUsize {
    number(512)
}

fn sensitivity_samples() -> NonZeroUsize {
    number(4)
}

fn states() -> ByteSize {
    ByteSize::new(1 << 30)
}

fn epochs() -> NonZeroUsize {
    number(4)
}

fn batch() -> NonZeroUsize {
    number(4)
}

fn learning_rate() -> Positive {
    Positive::constant(1e-3)
}

fn held_out() -> Share {
    Share::constant(0.125)
}
