//! A norm with its weights.

use candle_core::{Result, Tensor};

use super::architecture::{NormKind, NormPlan};
use super::ops;

/// A norm of rows.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    /// Its name: its tensors are `name.weight` and `name.bias`.
    pub(super) name: String,
    pub(super) plan: NormPlan,
    /// With the plan's offset added.
    pub(super) weight: Tensor,
    /// There where the kind is [`NormKind::Layer`].
    pub(super) bias: Option<Tensor>,
}

impl Norm {
    /// Normalises along the last dimension.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match (self.plan.kind, &self.bias) {
            (NormKind::Rms, _) => ops::rms_norm(x, &self.weight, self.plan.eps),
            (NormKind::Layer, Some(bias)) => ops::layer_norm(x, &self.weight, bias, self.plan.eps),
            (NormKind::Layer, None) => ops::layer_norm(x, &self.weight, &self.weight.zeros_like()?, self.plan.eps),
        }
    }
}
