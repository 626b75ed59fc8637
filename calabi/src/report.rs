//! What a run did, layer by layer and in total.

use std::path::PathBuf;

use calabi_api::{Cost, Kept, LeftAlone, Sensitivity, Shape, Written};
use serde::Serialize;

use crate::decompose::Decomposed;
use crate::metric::{Bias, Objective};
use crate::sequential::Fitted;
use crate::substitute::{Ready, Substituted};
use crate::verify::VerifyReport;
use crate::{Decision, Pipeline, Plan, PlannedLayer, SearchReport};

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

/// Two allocations of the same size, by the sum of what each layer's cut is estimated to do to the model.
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
/// let allocation = report.allocation.ok_or("no sensitivities")?;
/// assert!(allocation.chosen <= allocation.uniform);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AllocationReport {
    /// Every layer keeps the same share of its parameters.
    pub uniform: f64,
    /// The one that was chosen.
    pub chosen: f64,
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

/// What is known of an allocation besides the ranks: sensitivities and uniform choices, layer by layer.
#[derive(Clone, Copy)]
pub(crate) struct Allocated<'a> {
    pub(crate) sensitivities: &'a [Option<Sensitivity>],
    pub(crate) uniform: &'a [Option<Kept>],
}

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

impl Allocated<'_> {
    /// The estimate for the chosen and for the uniform allocation; none where no sensitivities are known.
    fn report(&self, plan: &Plan, decomposed: &[Option<Decomposed>]) -> Option<AllocationReport> {
        let estimate = |kept: &dyn Fn(usize) -> Option<Kept>| {
            let of = |(index, sensitivity): (usize, &Option<Sensitivity>)| -> Option<f64> {
                let Kept::Rank(rank) = kept(index)? else { return None };
                let spectrum = &decomposed.get(index)?.as_ref()?.spectrum;
                Some((*sensitivity)?.divergence_at(spectrum.loss(rank.get())))
            };
            self.sensitivities.iter().enumerate().filter_map(of).sum::<f64>()
        };
        self.sensitivities.iter().any(Option::is_some).then(|| AllocationReport {
            uniform: estimate(&|index| self.uniform.get(index).copied().flatten()),
            chosen: estimate(&|index| plan.layers.get(index)?.kept()),
        })
    }
}

/// What the steps of a run found out about a layer.
#[derive(Clone, Copy)]
struct KnownLayer<'a> {
    decomposed: Option<&'a Decomposed>,
    fitted: Option<Fitted>,
    substituted: Option<Substituted>,
    sensitivity: Option<Sensitivity>,
    uniform: Option<Kept>,
}

fn layer_report(planned: &PlannedLayer, known: KnownLayer<'_>) -> LayerReport {
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
