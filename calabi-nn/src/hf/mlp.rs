//! The feed-forward part of a block: up and down, with a gate or without.

use calabi_api::RunError;
use candle_core::{Result, Tensor};

use super::architecture::Architecture;
use super::linear::Linear;
use super::ops::{self, Activation};
use super::store::Store;

/// `down(activation(gate(x)) · up(x))`, or `down(activation(up(x)))`.
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Linear,
    activation: Activation,
}

impl Mlp {
    /// Reads the feed-forward part of the block whose tensors' names begin with `block`.
    pub(super) fn load(store: &Store, model: &Architecture, block: &str) -> std::result::Result<Self, RunError> {
        let (names, hidden) = (model.names, model.hidden);
        let wide = |part: &str, m| store.linear(&format!("{block}.{part}"), (m, hidden), names.inputs_first);
        let up_name = format!("{block}.{}", names.up);
        let inner = store.shape(&up_name, names.inputs_first)?.0;
        let down = format!("{block}.{}", names.down);
        Ok(Self {
            gate: names.gate.map(|part| wide(part, Some(inner))).transpose()?,
            up: wide(names.up, Some(inner))?,
            down: store.linear(&down, (Some(hidden), inner), names.inputs_first)?,
            activation: model.activation,
        })
    }

    /// What flows into `down`.
    pub(super) fn inner(&self, x: &Tensor) -> Result<Tensor> {
        match &self.gate {
            Some(gate) => ops::gated(&gate.forward(x)?, &self.up.forward(x)?, self.activation),
            None => ops::activation(&self.up.forward(x)?, self.activation),
        }
    }
}
