//! What the chosen ranks are estimated to do to the model, beside a uniform allocation.

use calabi_api::{Kept, Sensitivity};
use serde::Serialize;

use crate::Plan;
use crate::decompose::Decomposed;

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

/// What is known of an allocation besides the ranks: sensitivities and uniform choices, layer by layer.
#[derive(Clone, Copy)]
pub(crate) struct Allocated<'a> {
    pub(crate) sensitivities: &'a [Option<Sensitivity>],
    pub(crate) uniform: &'a [Option<Kept>],
}

impl Allocated<'_> {
    /// The estimate for the chosen and for the uniform allocation; none where no sensitivities are known.
    pub(super) fn report(&self, plan: &Plan, decomposed: &[Option<Decomposed>]) -> Option<AllocationReport> {
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
