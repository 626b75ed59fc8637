//! The contract of rank allocators: one budget, shared by all layers.

use std::fmt::Debug;

use crate::settings::Fraction;
use crate::{Choice, Cost, LayerCost, LayerSpectrum, Needs, Rank, RankSelector, SelectError, Shape};

/// Sees every layer before any rank is chosen. Every [`RankSelector`] is one.
///
/// # Contract
/// - One choice per layer, in their order; ranks come from [`LayerOptions::ranks`], or the layer stays dense.
/// - The same layers give the same choices.
pub trait RankAllocator: Debug + Send + Sync {
    /// One choice per layer, in the order of [`Allocation::layers`].
    ///
    /// # Errors
    /// Where the budget cannot be met; the message says what could be.
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError>;

    /// What it wants to see besides spectra: measured or loaded only if asked for.
    fn needs(&self) -> Needs {
        Needs::NONE
    }

    /// A rank that a layer of this shape never exceeds, so that a partial decomposer may stop early. The same for every
    /// share of [`with_keep`](Self::with_keep).
    fn limit(&self, shape: Shape) -> Rank {
        shape.full_rank()
    }

    /// The same allocator with another share that may remain; none where it has no such share. A search for the smallest
    /// share needs it.
    fn with_keep(&self, keep: Fraction) -> Option<Box<dyn RankAllocator>> {
        let _ = keep;
        None
    }
}

impl<S: RankSelector + ?Sized> RankAllocator for S {
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
        model.layers.iter().map(|layer| self.select(&layer.spectrum)).collect()
    }

    fn limit(&self, shape: Shape) -> Rank {
        RankSelector::limit(self, shape)
    }

    fn needs(&self) -> Needs {
        RankSelector::needs(self)
    }
}

/// The layers among which a budget is shared.
#[derive(Debug, Clone)]
pub struct Allocation<'a> {
    /// The layers, in the order of the model.
    pub layers: Vec<LayerOptions<'a>>,
    /// What the rest of the model costs: all that no allocator decides about, overridden layers as they will be written.
    pub rest: Cost,
    /// What the part of the rest that is selected, but decided elsewhere (an override), cost before and costs after.
    pub decided: (Cost, Cost),
}

/// One layer's options: dense, or one of these ranks.
#[derive(Debug, Clone)]
pub struct LayerOptions<'a> {
    /// Name, shape and singular values.
    pub spectrum: LayerSpectrum<'a>,
    /// The cost of dense and of every rank.
    pub cost: LayerCost,
    /// The ranks that may be chosen, ascending: multiples of the rank multiple that pay.
    pub ranks: Vec<Rank>,
}

impl Allocation<'_> {
    /// What the layers cost when all of them stay dense.
    #[must_use]
    pub fn dense(&self) -> Cost {
        self.layers.iter().map(|layer| layer.cost.dense).sum()
    }
}
