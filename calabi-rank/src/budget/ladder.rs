//! One layer's options, from the cheapest to dense.

use calabi_api::{Kept, LayerOptions, Rank};

use super::Unit;

/// The options of a layer in ascending cost; the last one is dense.
#[derive(Debug, Clone)]
pub(super) struct Ladder {
    rungs: Vec<Rung>,
    full: f64,
    fixed: f64,
    per_rank: f64,
    zero: bool,
}

/// One option: what it costs and what it loses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rung {
    pub(super) kept: Kept,
    pub(super) cost: u64,
    /// The loss relative to the layer's energy, times the weight of the layer.
    pub(super) loss: f64,
}

impl Rung {
    /// What a step from here to a dearer rung gains for each parameter or byte.
    pub(super) fn rate(&self, to: &Self) -> f64 {
        (self.loss - to.loss) / (to.cost - self.cost) as f64
    }
}

/// The ranks of a layer that are options: they pay, and as many singular values are known.
pub(super) fn ranks(layer: &LayerOptions<'_>) -> impl Iterator<Item = Rank> {
    let known = layer.spectrum.spectrum().known();
    layer.ranks.iter().copied().filter(move |&rank| layer.cost.pays(rank) && rank.get() <= known)
}

impl Ladder {
    /// The options of a layer whose relative loss counts `weight` times.
    pub(super) fn of(layer: &LayerOptions<'_>, unit: Unit, weight: f64) -> Self {
        let (spectrum, shape) = (layer.spectrum.spectrum(), layer.spectrum.shape());
        let zero = spectrum.energy() == 0.0;
        let loss = |rank| if zero { 0.0 } else { weight * spectrum.loss(rank) / spectrum.energy() };
        let rung = |kept, loss| Rung { kept, cost: unit.of(layer.cost.of(kept)), loss };
        let mut rungs: Vec<_> = ranks(layer).map(|rank| rung(Kept::Rank(rank), loss(rank.get()))).collect();
        rungs.push(rung(Kept::Dense, 0.0));
        Self {
            rungs,
            full: shape.full_rank().get() as f64,
            fixed: unit.of(layer.cost.fixed) as f64,
            per_rank: unit.of(layer.cost.per_rank) as f64,
            zero,
        }
    }

    pub(super) fn rungs(&self) -> &[Rung] {
        &self.rungs
    }

    /// What is kept on this rung, or on the last.
    pub(super) fn kept(&self, rung: usize) -> Kept {
        self.rungs.get(rung).map_or(Kept::Dense, |rung| rung.kept)
    }

    pub(super) fn is_dense_only(&self) -> bool {
        self.rungs.len() == 1
    }

    pub(super) fn is_zero(&self) -> bool {
        self.zero
    }

    /// The cost of the cheapest option.
    pub(super) fn least(&self) -> u64 {
        self.rungs.first().map_or(0, |rung| rung.cost)
    }

    /// The cost of keeping this share of the dimensions, were every rank an option: at least that of the cheapest
    /// option and at most that of dense.
    pub(super) fn cost_of_share(&self, share: f64) -> f64 {
        let dense = self.rungs.last().map_or(0, |rung| rung.cost) as f64;
        (self.fixed + self.per_rank * share * self.full).min(dense).max(self.least() as f64)
    }

    /// The dearest rung whose rank is at most this share of the dimensions, or the first.
    pub(super) fn rung_at_share(&self, share: f64) -> usize {
        let within = |rung: &Rung| matches!(rung.kept, Kept::Rank(rank) if rank.get() as f64 <= share * self.full);
        self.rungs.partition_point(within).saturating_sub(1)
    }
}
