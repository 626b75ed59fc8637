//! What one pass of a batch through a block knows: its samples, their padding, their positions; and who watches.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, PoisonError};

use calabi_api::RunError;
use candle_core::Tensor;

use super::architecture::Architecture;
use super::rotary::Rotary;
use super::store::tensor_of;

/// Samples of one length that run together, as rows: sample by sample, token by token.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) samples: usize,
    /// Of each sample.
    pub(super) tokens: usize,
    /// Which rows are tokens rather than padding; none where all are.
    pub(super) mask: Option<Arc<[bool]>>,
    pub(super) angles: Arc<[CosSin]>,
}

/// Cosines and sines of positions, each positions × half a head.
pub(super) type CosSin = (Tensor, Tensor);

/// The angles of each of a model's rotary positions, those that were asked for last: batches in a row mostly share theirs.
#[derive(Debug, Default)]
pub(super) struct Angles(Mutex<Option<Made>>);

/// The angles of these positions.
type Made = (Range<usize>, Arc<[CosSin]>);

impl Angles {
    fn of(&self, rotaries: &[Rotary], positions: Range<usize>) -> Result<Arc<[CosSin]>, RunError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, angles)) = last.as_ref().filter(|(known, _)| *known == positions) {
            return Ok(angles.clone());
        }
        let angles = rotaries.iter().map(|rotary| {
            let (cos, sin) = rotary.table(positions.clone());
            let shape = (positions.len(), rotary.frequencies.len());
            Ok((tensor_of(cos, shape)?, tensor_of(sin, shape)?))
        });
        let angles: Arc<[CosSin]> = angles.collect::<Result<_, RunError>>()?;
        *last = Some((positions, angles.clone()));
        Ok(angles)
    }
}

impl Batch {
    /// A batch of samples with as many tokens each, and their masks.
    pub(super) fn new(
        model: &Architecture,
        samples: usize,
        tokens: usize,
        mask: Option<Arc<[bool]>>,
    ) -> Result<Self, RunError> {
        Ok(Self { samples, tokens, mask, angles: model.angles.of(&model.rotaries, 0..tokens)? })
    }

    /// Tokens of one sample that continue those before these positions.
    pub(super) fn continued(model: &Architecture, positions: Range<usize>) -> Result<Self, RunError> {
        let tokens = positions.len();
        Ok(Self { samples: 1, tokens, mask: None, angles: model.angles.of(&model.rotaries, positions)? })
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
