//! Spends a budget on the steps that gain most.

use super::hull::hull;
use super::ladder::Ladder;

/// Where a layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) rung: usize,
    /// Whether it came here when the rest of the budget was filled.
    pub(super) filled: bool,
}

/// A step of one layer to a dearer rung.
#[derive(Debug, Clone, Copy)]
struct Step {
    layer: usize,
    to: usize,
    cost: u64,
    rate: f64,
}

impl Step {
    fn between(layer: usize, ladder: &Ladder, from: usize, to: usize) -> Self {
        let (below, above) = (&ladder.rungs()[from], &ladder.rungs()[to]);
        Self { layer, to, cost: above.cost - below.cost, rate: below.rate(above) }
    }
}

/// Where each layer stands when at most `available` is spent, from its floor upwards.
///
/// Equal gains go to the earlier layer.
pub(super) fn spend(ladders: &[Ladder], floors: &[usize], available: u64) -> Vec<Held> {
    let mut held: Vec<_> = floors.iter().map(|&rung| Held { rung, filled: false }).collect();
    let spent: u64 = ladders.iter().zip(floors).map(|(ladder, &floor)| ladder.rungs()[floor].cost).sum();
    let mut left = available.saturating_sub(spent);
    for step in hull_steps(ladders, floors) {
        if step.cost > left {
            break;
        }
        held[step.layer].rung = step.to;
        left -= step.cost;
    }
    fill(ladders, &mut held, left);
    held
}

/// The steps along all hulls, the one that gains most first.
fn hull_steps(ladders: &[Ladder], floors: &[usize]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (layer, (ladder, &floor)) in ladders.iter().zip(floors).enumerate() {
        let hull = hull(ladder.rungs(), floor);
        steps.extend(hull.windows(2).map(|pair| Step::between(layer, ladder, pair[0], pair[1])));
    }
    steps.sort_by(|a, b| b.rate.total_cmp(&a.rate)); // stable: equal ones stay in the order of layers
    steps
}

/// Takes the step that gains most of those that fit, on the hull or not, until none fits.
fn fill(ladders: &[Ladder], held: &mut [Held], mut left: u64) {
    let best = |layer: usize, held: &[Held], left| best_step(layer, &ladders[layer], held[layer].rung, left);
    let mut steps: Vec<_> = (0..ladders.len()).map(|layer| best(layer, held, left)).collect();
    while let Some(step) = most(steps.iter().copied().flatten()) {
        held[step.layer] = Held { rung: step.to, filled: true };
        left -= step.cost;
        for (layer, known) in steps.iter_mut().enumerate() {
            if layer == step.layer || known.is_some_and(|known| known.cost > left) {
                *known = best(layer, held, left);
            }
        }
    }
}

/// The step of a layer that gains most of those that cost at most `left`.
fn best_step(layer: usize, ladder: &Ladder, from: usize, left: u64) -> Option<Step> {
    let steps = (from + 1..ladder.rungs().len()).map(|to| Step::between(layer, ladder, from, to));
    most(steps.take_while(|step| step.cost <= left).filter(|step| step.rate > 0.0))
}

/// The step that gains most, the first of equal ones.
fn most(steps: impl Iterator<Item = Step>) -> Option<Step> {
    steps.reduce(|best, step| if step.rate > best.rate { step } else { best })
}
