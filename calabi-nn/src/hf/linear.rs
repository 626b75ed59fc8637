//! A linear layer, dense or factorized.

use candle_core::{Result, Tensor};

use super::ops;

/// `y = W x + b`, `W` of shape `m × n`, or its factors in its place.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// The layer's name: its weight's tensor without `.weight`.
    pub(super) name: String,
    pub(super) weight: Weight,
    /// All of the bias, `m`.
    pub(super) bias: Option<Tensor>,
    /// What of the bias the file holds: the rest came with substituted factors.
    pub(super) own_bias: Option<Tensor>,
}

/// A weight, or what stands for it.
#[derive(Debug, Clone)]
pub(super) enum Weight {
    /// `m × n`.
    Dense(Tensor),
    /// `left · right`. `substituted`: by [`Runner::substitute`](calabi_api::Runner::substitute), not in the file.
    LowRank {
        /// `m × r`.
        left: Tensor,
        /// `r × n`.
        right: Tensor,
        substituted: bool,
    },
}

impl Linear {
    /// `x` is rows of `n` features; gives rows of `m`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        match &self.weight {
            Weight::Dense(weight) => ops::linear(x, weight, bias),
            Weight::LowRank { left, right, .. } => ops::linear(&ops::linear(x, right, None)?, left, bias),
        }
    }

    /// The number of outputs, `m`.
    pub(super) fn outputs(&self) -> Result<usize> {
        match &self.weight {
            Weight::Dense(weight) => weight.dim(0),
            Weight::LowRank { left, .. } => left.dim(0),
        }
    }

    /// The layer that gives `width` of the outputs from `start` on.
    pub(super) fn part(&self, start: usize, width: usize) -> Result<Self> {
        let rows = |matrix: &Tensor| matrix.narrow(0, start, width);
        let weight = match &self.weight {
            Weight::Dense(weight) => Weight::Dense(rows(weight)?),
            Weight::LowRank { left, right, substituted } => {
                Weight::LowRank { left: rows(left)?, right: right.clone(), substituted: *substituted }
            }
        };
        let part = |bias: &Option<Tensor>| bias.as_ref().map(rows).transpose();
        Ok(Self { name: self.name.clone(), weight, bias: part(&self.bias)?, own_bias: part(&self.own_bias)? })
    }
}
