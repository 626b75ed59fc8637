//! What a run did, layer by layer and in total.

use std::path::PathBuf;

use calabi_api::{Cost, Kept, LeftAlone, Shape, Written};
use serde::Serialize;

use crate::decompose::Decomposed;
use crate::substitute::Substituted;
use crate::verify::VerifyReport;
use crate::{Decision, Pipeline, Plan, PlannedLayer, SearchReport};

/// What a run did. Its JSON is what `calabi-cli run --format json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of calabi that ran.
    pub version: &'static str,
    /// The original.
    pub input: PathBuf,
    /// Where the compressed model is; where a gate was not met, beside its place.
    pub output: PathBuf,
    /// Numbers in all weights of the model.
    pub parameters: Change<u64>,
    /// Bytes of all files that hold weights.
    pub bytes: Change<u64>,
    /// Floating-point operations of all layers for one row of input each.
    pub flops: Change<u64>,
    /// The layers, in the order of the model.
    pub layers: Vec<LayerReport>,
    /// The matrices that the format leaves alone, and why.
    pub left_alone: Vec<LeftAlone>,
    /// How the smallest budget was found, where the pipeline asks for it.
    pub search: Option<SearchReport>,
    /// Original and compressed side by side, where the pipeline asks for it.
    pub verify: Option<VerifyReport>,
    /// What the reader should know first, with the way out.
    pub warnings: Vec<String>,
    /// Wall-clock time of the whole run.
    pub seconds: f64,
}

/// A figure of the original and of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// Of the original.
    pub before: T,
    /// Of the compressed model.
    pub after: T,
}

/// What became of a layer.
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
    /// The error that the spectrum predicts, relative in the Frobenius norm, from 0 to 1.
    pub predicted_error: Option<f64>,
    /// The error of the factors that were written, measured alike.
    pub measured_error: Option<f64>,
    /// Time spent on the layer.
    pub seconds: f64,
    /// Parameters of the weight, or of the factors.
    pub parameters: Change<u64>,
    /// What the decomposer has to say.
    pub remark: Option<String>,
}

/// What became of a layer.
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

impl Report {
    pub(crate) fn new(
        pipeline: &Pipeline,
        plan: Plan,
        decomposed: &[Option<Decomposed>],
        substituted: &[Option<Substituted>],
        written: &Written,
    ) -> Self {
        let layers: Vec<_> = plan
            .layers
            .iter()
            .zip(decomposed)
            .zip(substituted)
            .map(|((planned, decomposed), substituted)| layer_report(planned, decomposed.as_ref(), *substituted))
            .collect();
        let before: Cost = plan.totals.cost;
        let mut report = Self {
            version: env!("CARGO_PKG_VERSION"),
            input: pipeline.model.input.value.clone(),
            output: pipeline.model.output.value.clone(),
            parameters: Change { before: before.parameters, after: written.cost.parameters },
            bytes: Change { before: before.bytes, after: written.cost.bytes },
            flops: plan.flops(),
            layers,
            left_alone: plan.left_alone,
            search: None,
            verify: None,
            warnings: Vec::new(),
            seconds: 0.0,
        };
        report.warnings = report.little_removed().into_iter().chain(report.grown()).collect();
        report
    }

    /// The share of the parameters that is gone.
    #[must_use]
    pub fn removed(&self) -> f64 {
        1.0 - self.parameters.after as f64 / self.parameters.before.max(1) as f64
    }

    /// Whether every gate of `[verify]` is met.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verify.as_ref().is_none_or(|verify| verify.gates.iter().all(|gate| gate.met))
    }

    /// A run that did next to nothing says so, with the way out.
    fn little_removed(&self) -> Option<String> {
        const LITTLE: f64 = 0.05;
        let removed = 100.0 * self.removed();
        (0.0..100.0 * LITTLE).contains(&removed).then(|| {
            format!(
                "only {removed:.1} % of the parameters were removed: the spectra are too flat for this rule, or few layers take \
                 part. Share a budget instead: --set rank.kind=budget --set rank.keep=0.8 (`calabi-cli plan` shows what \
                 each layer does)"
            )
        })
    }

    /// Files that grew by their headers, or because the break-even rule is off.
    fn grown(&self) -> Option<String> {
        let Change { before, after } = self.bytes;
        (after > before)
            .then(|| format!("the files grew by {} bytes: keep less, or leave the break-even rule on", after - before))
    }
}

impl Plan {
    /// Floating-point operations of all layers for one row of input each: `2mn` dense, `2r(m + n)` factorized.
    #[must_use]
    pub fn flops(&self) -> Change<u64> {
        let of = |planned: &PlannedLayer, kept| match kept {
            Kept::Dense => 2 * planned.layer.shape.entries(),
            Kept::Rank(r) => 2 * r.get() as u64 * outer(planned.layer.shape),
        };
        Change {
            before: self.layers.iter().map(|l| of(l, Kept::Dense)).sum(),
            after: self.layers.iter().map(|l| of(l, l.kept().unwrap_or(Kept::Dense))).sum(),
        }
    }
}

fn outer(shape: Shape) -> u64 {
    shape.rows() as u64 + shape.cols() as u64
}

fn layer_report(
    planned: &PlannedLayer,
    decomposed: Option<&Decomposed>,
    substituted: Option<Substituted>,
) -> LayerReport {
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
        predicted_error: rank.zip(decomposed).map(|(rank, d)| d.spectrum.relative_error(rank.get())),
        measured_error: substituted.map(|s| s.measured_error),
        seconds: decomposed.map_or(0.0, |d| d.seconds) + substituted.map_or(0.0, |s| s.seconds),
        parameters: Change { before: layer.cost.dense.parameters, after: planned.cost().parameters },
        remark: decomposed.and_then(|d| d.remark.clone()),
    }
}
