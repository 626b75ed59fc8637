//! What one pass of a batch through a block knows: its samples, their padding, their positions; and who watches.

use std::ops::ControlFlow;
use std::sync::Arc;

use calabi_api::RunError;
use candle_core::Tensor;

use super::architecture::Architecture;
use super::store::tensor_of;

/// Samples of one length that run together, as rows: sample by sample, token by token.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) samples: usize,
    /// Of each sample.
    pub(super) tokens: usize,
    /// Which rows are tokens rather than padding; none where all are.
    pub(super) mask: Option<Arc<[bool]>>,
    /// Cosines and sines, tokens × half a head, of each of the model's rotary positions.
    pub(super) angles: Vec<(Tensor, Tensor)>,
}

impl Batch {
    /// A batch of samples with as many tokens each, and their masks.
    pub(super) fn new(
        model: &Architecture,
        samples: usize,
        tokens: usize,
        mask: Option<Arc<[bool]>>,
    ) -> Result<Self, RunError> {
        let angles = model.rotaries.iter().map(|rotary| {
            let (cos, sin) = rotary.table(tokens);
            let shape = (tokens, rotary.frequencies.len());
            Ok((tensor_of(cos, shape)?, tensor_of(sin, shape)?))
        });
        Ok(Self { samples, tokens, mask, angles: angles.collect::<Result<_, RunError>>()? })
    }
}

/// An input of linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Site {
    /// Of queries, keys and values.
    Attention,
    /// Of attention's output.
    AttentionOut,
    /// Of gate and up.
    Mlp,
    /// Of down.
    Down,
    /// Of what follows the last block.
    End,
}

/// Sees the inputs of linear layers, rows of features, in the order of the pass; may end it.
pub(super) type Probe<'a> = dyn FnMut(Site, &Tensor) -> Result<ControlFlow<()>, RunError> + 'a;

/// Sees nothing.
#[allow(clippy::unnecessary_wraps)] // a probe
pub(super) fn unwatched(_: Site, _: &Tensor) -> Result<ControlFlow<()>, RunError> {
    Ok(ControlFlow::Continue(()))
}
