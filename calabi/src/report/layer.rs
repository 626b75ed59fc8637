//! What became of a layer.

use calabi_api::{Kept, Sensitivity};
use serde::Serialize;

use super::Change;
use crate::decompose::Decomposed;
use crate::sequential::Fitted;
use crate::substitute::Substituted;
use crate::{Decision, PlannedLayer};

/// What cutting a layer alone did to the model.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..").as_ref();
/// # let small = format!("model.output='{}'", folder.path().join("small").display()).parse()?;
/// let text = "model = { input = 'calabi-nn/tests/models/llama', output = 'small' }
///     calibration = { data = 'tests/models/tiny-lm/held-out.safetensors' }
///     rank = { kind = 'budget', keep = 0.8, sensitivity = 'measured' }";
/// let pipeline = Pipeline::parse("example", text, root, &[small]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let measured: Vec<_> = report.layers.iter().filter_map(|layer| layer.sensitivity).collect();
/// assert!(!measured.is_empty() && measured.iter().all(|layer| layer.loss > 0.0 && layer.divergence.is_finite()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SensitivityReport {
    /// The loss of the layer at the rank at which it was measured.
    pub loss: f64,
    /// What it did: the divergence of the logits in nats a token, or the relative square error of the outputs.
    pub divergence: f64,
}

/// What became of a layer.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let layer = &report.layers[1];
/// assert!(layer.rank.is_some_and(|rank| rank < layer.break_even));
/// let (predicted, measured) = (layer.predicted_error.ok_or("dense")?, layer.measured_error.ok_or("dense")?);
/// assert!((predicted - measured).abs() < 1e-4, "the factors lose what the spectrum said");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerReport {
    /// Its name, as patterns match it.
    pub name: String,
    /// `m × n`, outputs by inputs.
    pub shape: [usize; 2],
    /// What became of it.
    pub outcome: Outcome,
    /// Its rank, where it is factorized.
    pub rank: Option<usize>,
    /// From this rank on the factors would not be smaller.
    pub break_even: usize,
    /// Which rule bound, or why it is dense or skipped.
    pub because: String,
    /// The rank that it would have if all layers kept the same share; none where it would be dense, or takes no part in a
    /// shared budget.
    pub uniform_rank: Option<usize>,
    /// What cutting it alone does to the model, where that was measured.
    pub sensitivity: Option<SensitivityReport>,
    /// The error that the spectrum predicts, relative to the layer's output (without calibration: in the Frobenius norm),
    /// from 0 to 1.
    pub predicted_error: Option<f64>,
    /// The error of the factors that were written, measured alike.
    pub measured_error: Option<f64>,
    /// Time spent on the layer.
    pub seconds: f64,
    /// Parameters of the weight, or of the factors.
    pub parameters: Change<u64>,
    /// Whether its factors were tuned since they were measured.
    pub refined: bool,
    /// What the decomposer has to say.
    pub remark: Option<String>,
}

/// What became of a layer.
///
/// ```
/// use calabi::Outcome::{Dense, Factorized, Skipped};
///
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let outcomes: Vec<_> = report.layers.iter().map(|layer| layer.outcome).collect();
/// assert_eq!(outcomes, [Dense, Factorized, Skipped]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Two factors stand for it.
    Factorized,
    /// It took part and stays as it was.
    Dense,
    /// It did not take part.
    Skipped,
}

/// What the steps of a run found out about a layer.
#[derive(Clone, Copy)]
pub(super) struct KnownLayer<'a> {
    pub(super) decomposed: Option<&'a Decomposed>,
    pub(super) fitted: Option<Fitted>,
    pub(super) substituted: Option<Substituted>,
    pub(super) sensitivity: Option<Sensitivity>,
    pub(super) uniform: Option<Kept>,
}

pub(super) fn layer_report(planned: &PlannedLayer, known: KnownLayer<'_>) -> LayerReport {
    let KnownLayer { decomposed, fitted, substituted, sensitivity, uniform } = known;
    let layer = &planned.layer;
    let rank = planned.rank();
    let (outcome, because) = match &planned.decision {
        Decision::Skipped { why } => (Outcome::Skipped, why.clone()),
        Decision::Chosen { kept: Kept::Rank(_), because } => (Outcome::Factorized, because.clone()),
        Decision::Chosen { because, .. } => (Outcome::Dense, because.clone()),
        Decision::Open => (Outcome::Dense, "open".to_owned()),
    };
    LayerReport {
        name: layer.name.clone(),
        shape: [layer.shape.rows(), layer.shape.cols()],
        outcome,
        rank: rank.map(calabi_api::Rank::get),
        break_even: layer.shape.break_even(),
        because,
        uniform_rank: match uniform {
            Some(Kept::Rank(rank)) => Some(rank.get()),
            Some(Kept::Dense) | None => None,
        },
        sensitivity: sensitivity.map(|Sensitivity { loss, divergence }| SensitivityReport { loss, divergence }),
        predicted_error: match fitted {
            Some(fitted) => Some(fitted.predicted_error),
            None => rank.zip(decomposed).map(|(rank, d)| d.spectrum.relative_error(rank.get())),
        },
        measured_error: substituted.map(|s| s.measured_error),
        seconds: decomposed.map_or(0.0, |d| d.seconds)
            + fitted.map_or(0.0, |f| f.seconds)
            + substituted.map_or(0.0, |s| s.seconds),
        parameters: Change { before: layer.cost.dense.parameters, after: planned.cost().parameters },
        refined: fitted.is_some_and(|fitted| fitted.refined),
        remark: decomposed.and_then(|d| d.remark.clone()),
    }
}
