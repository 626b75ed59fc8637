//! The objective of calibration, as settings.

use calabi_api::settings::Share;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a layer's error is measured in.
///
/// ```
/// use calabi::{CalibrationSettings, Objective, api::toml};
///
/// let settings: CalibrationSettings = toml::from_str("objective = 'norm'")?; // no data is needed
/// assert_eq!(settings.objective, Objective::Norm);
/// assert_eq!(CalibrationSettings::of_data("text.txt").objective, Objective::Gram);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The weight itself: plain singular values, no data.
    None,
    /// The output, for inputs as the normalisation before the layer makes them: scales and means from its `γ` and `β`,
    /// no data.
    Norm,
    /// The output, for inputs whose scales alone are known: the diagonal of the Gram matrix.
    Diagonal,
    /// The output on the calibration data: the whole Gram matrix.
    #[default]
    Gram,
}

/// What becomes of the mean of what is cut.
///
/// ```
/// use calabi::{Bias, CalibrationSettings, Pipeline, api::settings::Fraction, rank::Budget};
///
/// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
/// let mut pipeline = Pipeline::with_allocator(input, "unused", Budget::new(Fraction::new(0.5).ok_or("not a share")?));
/// let statistics = CalibrationSettings::of_statistics("statistics.safetensors");
/// pipeline.calibration = Some(CalibrationSettings { bias: Bias::Residual, ..statistics }.into());
/// assert!(calabi::plan(&pipeline)?.layers.iter().all(|layer| layer.bias), "all factors bring one");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Bias {
    /// Nothing: the bias stays as it is.
    #[default]
    None,
    /// The bias makes up for it: `b + (W − W_r) μ`.
    Residual,
    /// The same, and directions are chosen as it will: the optimum of the layer alone.
    Joint,
}

/// How far a Gram matrix is drawn towards its scaled identity, `D_α = (1−α) D + α (tr D / n) I`.
///
/// Few tokens see few directions, and a metric of theirs alone fits its sample rather than the layer's input.
///
/// The default is `α = n / (2 (n + T))` for `T` tokens of `n` features: a half where tokens are few, nothing where they
/// are many. On a query projection of SmolLM2-135M (`n` = 576), judged on other text than it was calibrated on, the best
/// of nine fixed values was 0.3 at 64, 256 and 512 tokens, and 0.1 at 2048 and 12288; the rule gives 0.45, 0.35, 0.26,
/// 0.11 and 0.02.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Shrinkage {
    /// From the number of tokens and the width of the input.
    #[default]
    FromTokens,
    /// This much.
    Fixed(Share),
}

impl Shrinkage {
    /// `α` for this many tokens of `n` features.
    pub(crate) fn alpha(self, tokens: u64, n: usize) -> f64 {
        match self {
            Self::FromTokens => 0.5 * n as f64 / (n as f64 + tokens as f64),
            Self::Fixed(share) => share.get(),
        }
    }
}

impl From<Option<Share>> for Shrinkage {
    fn from(setting: Option<Share>) -> Self {
        setting.map_or(Self::FromTokens, Self::Fixed)
    }
}
