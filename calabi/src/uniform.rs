//! The allocation that gives every layer the same share of its rank, to stand beside the one that was chosen.

use calabi_api::{Cost, Kept, Layer, Rank};

use crate::{LayerSettings, Plan};

/// The rank of each layer of a plan if the parameters of the factorized and dense ones were shared out alike; none where
/// a layer takes no part.
pub(crate) fn uniform(plan: &Plan, settings: &LayerSettings, open: &[usize]) -> Vec<Option<Kept>> {
    let layers: Vec<&Layer> = open.iter().filter_map(|&i| plan.layers.get(i)).map(|planned| &planned.layer).collect();
    let spent: Cost = open.iter().filter_map(|&i| plan.layers.get(i)).map(crate::PlannedLayer::cost).sum();
    let cost =
        |share: f64| layers.iter().map(|layer| layer.cost.of(at_share(layer, settings, share)).parameters).sum::<u64>();
    let (mut fits, mut exceeds) = (0.0, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(fits, exceeds);
        if cost(middle) <= spent.parameters { fits = middle } else { exceeds = middle }
    }
    let mut kept = vec![None; plan.layers.len()];
    for (&index, layer) in open.iter().zip(&layers) {
        kept[index] = Some(at_share(layer, settings, fits));
    }
    kept
}

/// The multiple of the rank multiple that keeps at most this share of a layer's parameters; dense where that is all.
fn at_share(layer: &Layer, settings: &LayerSettings, share: f64) -> Kept {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a rank
    let wanted = (share * layer.shape.break_even() as f64) as usize;
    let multiple = settings.multiple.get();
    let rank = Rank::clamped((wanted / multiple * multiple).max(multiple), layer.shape);
    if settings.break_even && !layer.cost.pays(rank) { Kept::Dense } else { Kept::Rank(rank) }
}
