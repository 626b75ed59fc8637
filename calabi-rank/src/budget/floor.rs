//! The rung below which no layer falls.

use calabi_api::settings::Share;

use super::ladder::Ladder;

/// For each layer the rung at this share of the uniform rank. Together these rungs cost at most `available`, if the
/// cheapest ones do.
pub(super) fn floors(ladders: &[Ladder], available: u64, share: Share) -> Vec<usize> {
    let share = share.get() * uniform(ladders, available as f64);
    ladders.iter().map(|ladder| ladder.rung_at_share(share)).collect()
}

/// The share of its dimensions that every layer keeps if all keep the same share and meet the budget: by bisection, to
/// 2⁻⁵⁰.
fn uniform(ladders: &[Ladder], available: f64) -> f64 {
    let cost = |share| ladders.iter().map(|ladder| ladder.cost_of_share(share)).sum::<f64>();
    let (mut fits, mut exceeds) = (0.0, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(fits, exceeds);
        if cost(middle) <= available { fits = middle } else { exceeds = middle }
    }
    fits
}
