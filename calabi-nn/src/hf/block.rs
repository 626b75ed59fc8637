//! One block of a model: attention and feed-forward part with their norms. One forward pass serves running, watching
//! and tuning.

use calabi_api::RunError;
use candle_core::{Result, Tensor};

use super::architecture::{Architecture, Placement};
use super::attention::{Attention, Past, Projections};
use super::failed;
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use super::pass::{Batch, Probe, Site};
use super::store::Store;

/// The weights of one block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) attention: Attention,
    pub(super) mlp: Mlp,
    attention_norms: Norms,
    mlp_norms: Norms,
    placement: Placement,
}

/// The norms of one half of a block.
#[derive(Debug, Clone)]
struct Norms {
    first: Norm,
    /// Where norms stand around.
    second: Option<Norm>,
}

impl Block {
    /// Reads a block.
    pub(super) fn load(
        store: &Store,
        model: &Architecture,
        prefix: &str,
        number: usize,
    ) -> std::result::Result<Self, RunError> {
        let plan = model.blocks.get(number);
        let plan = plan.ok_or_else(|| RunError::Failed(format!("the model has no block {number}")))?;
        let (names, block) = (model.names, name(model, prefix, number));
        let norm = |part: &str| store.norm(&format!("{block}.{part}"), model.norm, model.hidden);
        let norms = |first, second: Option<&str>| {
            Ok::<_, RunError>(Norms { first: norm(first)?, second: second.map(norm).transpose()? })
        };
        Ok(Self {
            attention: Attention::load(store, model, &block, plan)?,
            mlp: Mlp::load(store, model, &block)?,
            attention_norms: norms(names.attention_norm, names.attention_norm_after)?,
            mlp_norms: norms(names.mlp_norm, names.mlp_norm_after)?,
            placement: model.placement,
        })
    }

    /// The rows that leave the block for the rows that enter it; none where the probe ended the pass.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        batch: &Batch,
        probe: &mut Probe<'_>,
    ) -> std::result::Result<Option<Tensor>, RunError> {
        self.forward_after(x, batch, None, probe)
    }

    /// [`Block::forward`] of tokens that continue those of a past, which keeps them too.
    pub(super) fn forward_after(
        &self,
        x: &Tensor,
        batch: &Batch,
        past: Option<&mut Past>,
        probe: &mut Probe<'_>,
    ) -> std::result::Result<Option<Tensor>, RunError> {
        let y = self.entering(x, &self.attention_norms).map_err(failed)?;
        if probe(Site::Attention, &y)?.is_break() {
            return Ok(None);
        }
        let y = self.attention.mixed(&y, batch, past).map_err(failed)?;
        if probe(Site::AttentionOut, &y)?.is_break() {
            return Ok(None);
        }
        let y = self.attention.out.forward(&y).map_err(failed)?;
        let x = self.joined(x, y, &self.attention_norms).map_err(failed)?;
        let y = self.entering(&x, &self.mlp_norms).map_err(failed)?;
        if probe(Site::Mlp, &y)?.is_break() {
            return Ok(None);
        }
        let y = self.mlp.inner(&y).map_err(failed)?;
        if probe(Site::Down, &y)?.is_break() {
            return Ok(None);
        }
        let y = self.mlp.down.forward(&y).map_err(failed)?;
        self.joined(&x, y, &self.mlp_norms).map(Some).map_err(failed)
    }

    fn entering(&self, x: &Tensor, norms: &Norms) -> Result<Tensor> {
        match self.placement {
            Placement::Before | Placement::Around => norms.first.forward(x),
            Placement::After => Ok(x.clone()),
        }
    }

    fn joined(&self, x: &Tensor, y: Tensor, norms: &Norms) -> Result<Tensor> {
        match (self.placement, &norms.second) {
            (Placement::After, _) => norms.first.forward(&(x + y)?),
            (Placement::Around, Some(second)) => x + second.forward(&y)?,
            (Placement::Around | Placement::Before, _) => x + y,
        }
    }

    /// The linear layers, in the order of the pass.
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = match &mut self.attention.qkv {
            Projections::Separate(maps) => maps.iter_mut().collect(),
            Projections::Fused(map) => vec![map.as_mut()],
        };
        all.push(&mut self.attention.out);
        all.extend(self.mlp.gate.as_mut());
        all.extend([&mut self.mlp.up, &mut self.mlp.down]);
        all
    }

    /// The norms, those of queries and keys too.
    pub(super) fn norms_mut(&mut self) -> Vec<&mut Norm> {
        let Self { attention, attention_norms, mlp_norms, .. } = self;
        let mut all = vec![&mut attention_norms.first];
        all.extend(attention_norms.second.as_mut());
        all.extend(attention.query_norm.as_mut());
        all.extend(attention.key_norm.as_mut());
        all.push(&mut mlp_norms.first);
        all.extend(mlp_norms.second.as_mut());
        all
    }
}

/// What the names of a block's tensors begin with.
pub(super) fn name(model: &Architecture, prefix: &str, number: usize) -> String {
    format!("{prefix}{}.{number}", model.names.block)
}
