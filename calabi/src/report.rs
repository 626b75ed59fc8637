//! What a run did, layer by layer and in total.

mod allocation;
mod layer;

use std::path::PathBuf;

use calabi_api::{Cost, Kept, LeftAlone, Shape, Written};
use serde::Serialize;

pub(crate) use self::allocation::Allocated;
pub use self::allocation::AllocationReport;
use self::layer::{KnownLayer, layer_report};
pub use self::layer::{LayerReport, Outcome, SensitivityReport};
use crate::metric::{Bias, Objective};
use crate::substitute::{Ready, Substituted};
use crate::verify::VerifyReport;
use crate::{Pipeline, Plan, PlannedLayer, SearchReport};

/// What a run did. Its JSON is what `calabi-cli run --format json` prints.
///
/// ```
/// use calabi::{Pipeline, RunOptions, Silent, run};
///
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// assert!(report.passed() && report.removed() > 0.5);
/// assert!(report.output.is_file() && report.bytes.after < report.bytes.before);
/// assert!(report.warnings.is_empty(), "{:?}", report.warnings);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// What errors of layers are measured in; none where the weights alone counted.
    pub calibration: Option<CalibrationReport>,
    /// What the chosen ranks are estimated to do to the model, beside a uniform allocation of the same size; none where no
    /// sensitivities were known.
    pub allocation: Option<AllocationReport>,
    /// The blocks that were tuned, in their order.
    pub blocks: Vec<BlockReport>,
    /// How the smallest budget was found, where the pipeline asks for it.
    pub search: Option<SearchReport>,
    /// Original and compressed side by side, where the pipeline asks for it.
    pub verify: Option<VerifyReport>,
    /// What the reader should know first, with the way out.
    pub warnings: Vec<String>,
    /// Wall-clock time of the whole run.
    pub seconds: f64,
}

/// What errors of layers are measured in.
///
/// ```
/// use calabi::{Bias, CalibrationReport, Objective};
///
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..").as_ref();
/// # let small = format!("model.output='{}'", folder.path().join("small").display()).parse()?;
/// let text = "model = { input = 'calabi-nn/tests/models/llama', output = 'small' }
///     calibration = { data = 'tests/models/tiny-lm/held-out.safetensors' }
///     rank = { kind = 'budget', keep = 0.8 }";
/// let pipeline = Pipeline::parse("example", text, root, &[small]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let gram = CalibrationReport { objective: Objective::Gram, bias: Bias::None, sequential: false };
/// assert_eq!(report.calibration, Some(gram));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CalibrationReport {
    /// The metric.
    pub objective: Objective,
    /// The bias that makes up for what was cut.
    pub bias: Bias,
    /// Whether each block was compressed on what the compressed blocks before it produce.
    pub sequential: bool,
}

/// What tuning a block did to the mean square error of its outputs.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..").as_ref();
/// # let small = format!("model.output='{}'", folder.path().join("small").display()).parse()?;
/// let text = "model = { input = 'calabi-nn/tests/models/llama', output = 'small' }
///     calibration = { data = 'tests/models/tiny-lm/held-out.safetensors', sequential = true }
///     rank = { kind = 'fraction', keep = 0.3 }
///     refine = { epochs = 2 }";
/// let pipeline = Pipeline::parse("example", text, root, &[small]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// assert_eq!(report.blocks.len(), 2);
/// assert!(report.blocks.iter().all(|block| block.held_out.after <= block.held_out.before));
/// assert!(report.blocks.iter().all(|block| block.kept == (block.held_out.after < block.held_out.before)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BlockReport {
    /// Its number, from zero.
    pub block: usize,
    /// On the samples that it was tuned on.
    pub loss: Change<f64>,
    /// On samples that were kept out.
    pub held_out: Change<f64>,
    /// Whether the tuned block is the better one, and was kept.
    pub kept: bool,
    /// Wall-clock time.
    pub seconds: f64,
}

/// A figure of the original and of the result.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml");
/// # let pipeline = Pipeline::load(file.as_ref(), &[small.parse()?]).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let calabi::Change { before, after } = report.parameters;
/// assert_eq!(report.removed(), 1.0 - after as f64 / before as f64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// Of the original.
    pub before: T,
    /// Of the compressed model.
    pub after: T,
}

impl Report {
    pub(crate) fn new(
        pipeline: &Pipeline,
        plan: Plan,
        ready: Ready<'_>,
        allocated: Allocated<'_>,
        substituted: &[Option<Substituted>],
        written: &Written,
    ) -> Self {
        let allocation = allocated.report(&plan, ready.decomposed);
        let layer = |(index, planned): (usize, &PlannedLayer)| {
            let known = KnownLayer {
                decomposed: ready.decomposed.get(index).and_then(Option::as_ref),
                fitted: ready.sequenced.and_then(|sequenced| sequenced.layers.get(index).copied().flatten()),
                substituted: substituted.get(index).copied().flatten(),
                sensitivity: allocated.sensitivities.get(index).copied().flatten(),
                uniform: allocated.uniform.get(index).copied().flatten(),
            };
            layer_report(planned, known)
        };
        let layers: Vec<_> = plan.layers.iter().enumerate().map(layer).collect();
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
            calibration: pipeline.calibration.as_ref().map(|settings| CalibrationReport {
                objective: settings.objective,
                bias: settings.bias,
                sequential: settings.sequential,
            }),
            allocation,
            blocks: ready.sequenced.map(|sequenced| sequenced.blocks.clone()).unwrap_or_default(),
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
