//! Attention: projections, norms of queries and keys, rotary positions, heads that share keys and values.

use calabi_api::RunError;
use candle_core::{Result, Tensor};

use super::architecture::{Architecture, BlockPlan};
use super::linear::Linear;
use super::names::Qkv;
use super::norm::Norm;
use super::ops::{self, Mask};
use super::pass::Batch;
use super::store::Store;

/// The attention of a block.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    pub(super) qkv: Projections,
    pub(super) query_norm: Option<Norm>,
    pub(super) key_norm: Option<Norm>,
    pub(super) out: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    causal: bool,
    plan: BlockPlan,
}

/// The keys and values of one sample's tokens that a block has seen, each 1 × tokens × key heads × dim.
#[derive(Debug, Default)]
pub(super) struct Past(Option<(Tensor, Tensor)>);

impl Past {
    /// All keys and values, those of earlier passes first.
    fn continued(&mut self, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let all = match self.0.take() {
            Some((keys, values)) => (Tensor::cat(&[keys, k], 1)?, Tensor::cat(&[values, v], 1)?),
            None => (k, v),
        };
        self.0 = Some(all.clone());
        Ok(all)
    }
}

/// The linear maps that give queries, keys and values.
#[derive(Debug, Clone)]
pub(super) enum Projections {
    Separate(Box<[Linear; 3]>),
    Fused(Box<Linear>),
}

impl Attention {
    /// Reads the attention of the block whose tensors' names begin with `block`.
    pub(super) fn load(
        store: &Store,
        model: &Architecture,
        block: &str,
        plan: &BlockPlan,
    ) -> std::result::Result<Self, RunError> {
        let Architecture { names, hidden, heads, kv_heads, head_dim, .. } = *model;
        let named = |part: &str| format!("{block}.{part}");
        let linear = |part, m: usize, n| store.linear(&named(part), (Some(m), n), names.inputs_first);
        let (inner, shared) = (heads * head_dim, kv_heads * head_dim);
        let qkv = match names.qkv {
            Qkv::Fused(part) => Projections::Fused(Box::new(linear(part, inner + 2 * shared, hidden)?)),
            Qkv::Separate([q, k, v]) => Projections::Separate(Box::new([
                linear(q, inner, hidden)?,
                linear(k, shared, hidden)?,
                linear(v, shared, hidden)?,
            ])),
        };
        let norm = |part: Option<&str>| {
            let name = part.map(named).filter(|name| store.has(&format!("{name}.weight")));
            name.map(|name| store.norm(&name, model.norm, head_dim)).transpose()
        };
        Ok(Self {
            qkv,
            query_norm: norm(names.query_norm)?,
            key_norm: norm(names.key_norm)?,
            out: linear(names.attention_out, hidden, inner)?,
            heads,
            kv_heads,
            head_dim,
            causal: model.causal,
            plan: plan.clone(),
        })
    }

    /// What the heads give, before the output's linear map: rows of `heads · head_dim` from rows of hidden features.
    /// With a past, its keys and values stand before theirs, which it keeps.
    pub(super) fn mixed(&self, x: &Tensor, batch: &Batch, past: Option<&mut Past>) -> Result<Tensor> {
        let (samples, tokens) = (batch.samples, batch.tokens);
        let [q, k, v] = self.projected(x)?;
        let split = |x: Tensor, heads: usize| x.reshape((samples, tokens, heads, self.head_dim));
        let q = normed(split(q, self.heads)?, self.query_norm.as_ref())?;
        let k = normed(split(k, self.kv_heads)?, self.key_norm.as_ref())?;
        let v = split(v, self.kv_heads)?;
        let (q, k) = match self.plan.rotary.and_then(|rotary| batch.angles.get(rotary)) {
            Some((cos, sin)) => (ops::rotary(&q, cos, sin)?, ops::rotary(&k, cos, sin)?),
            None => (q, k),
        };
        let (k, v) = past.map_or(Ok((k.clone(), v.clone())), |past| past.continued(k, v))?;
        let mask = Mask { causal: self.causal, window: self.plan.window, tokens: batch.mask.clone() };
        let mixed = ops::attention(&q, &k, &v, self.plan.scale, &mask)?;
        mixed.reshape((samples * tokens, self.heads * self.head_dim))
    }

    fn projected(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        match &self.qkv {
            Projections::Separate(maps) => {
                let [q, k, v] = maps.as_ref();
                Ok([q.forward(x)?, k.forward(x)?, v.forward(x)?])
            }
            Projections::Fused(map) => {
                let (all, inner, shared) = (map.forward(x)?, self.heads * self.head_dim, self.kv_heads * self.head_dim);
                let part = |start, length| all.narrow(1, start, length)?.contiguous();
                Ok([part(0, inner)?, part(inner, shared)?, part(inner + shared, shared)?])
            }
        }
    }
}

fn normed(x: Tensor, norm: Option<&Norm>) -> Result<Tensor> {
    norm.map_or(Ok(x.clone()), |norm| norm.forward(&x))
}
