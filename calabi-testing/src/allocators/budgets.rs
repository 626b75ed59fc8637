//! What an allocator that keeps a budget promises.

use calabi_api::settings::Fraction;
use calabi_api::{Allocation, Choice, Cost, Kept, LayerOptions, RankAllocator};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::models::{models, small_models};
use crate::runner::{check, ensure};

/// What a budget counts, and up to where.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The part of a cost that counts.
    pub unit: fn(Cost) -> u64,
    /// What is counted besides the layers, before and after.
    pub besides: fn(&Allocation<'_>) -> (Cost, Cost),
    /// The share that may be left.
    pub keep: f64,
}

impl Target {
    /// What the layers may cost together; below zero where the rest alone exceeds the target.
    fn of(&self, model: &Allocation<'_>) -> f64 {
        let (before, after) = (self.besides)(model);
        let whole = (self.unit)(model.dense() + before) as f64;
        self.keep * whole - (self.unit)(after) as f64
    }
}

/// Checks that an allocator never exceeds its target, that it is an error only where the cheapest options do, and that
/// no layer could take one more step: that the target is met to within one rank step, unless no layer loses anything.
///
/// # Panics
/// Where it does not; the message shows the smallest model that was found.
pub fn keeps_budget(allocator: &dyn RankAllocator, target: Target) {
    check(&models(), |model| {
        let allocation = model.allocation_for(&allocator.needs());
        let left = |cost: Cost| target.of(&allocation) - (target.unit)(cost) as f64;
        match model.ask(allocator) {
            Err(error) => {
                let spare = left(allocation.layers.iter().map(|layer| cheapest(layer, target.unit)).sum());
                ensure(spare < 1.0, || format!("the cheapest options leave {spare}, and yet: {error}"))
            }
            Ok(choices) => full_to_a_step(&allocation, &choices, left(cost(&allocation, kept(&choices))), target.unit),
        }
    });
}

fn cheapest(layer: &LayerOptions<'_>, unit: fn(Cost) -> u64) -> Cost {
    let ranks = layer.ranks.iter().map(|&rank| layer.cost.at(rank));
    ranks.min_by_key(|&cost| unit(cost)).filter(|&cost| unit(cost) < unit(layer.cost.dense)).unwrap_or(layer.cost.dense)
}

fn full_to_a_step(
    model: &Allocation<'_>,
    choices: &[Choice],
    left: f64,
    unit: fn(Cost) -> u64,
) -> Result<(), TestCaseError> {
    ensure(left >= 0.0, || format!("{choices:?} exceed the target by {}", -left))?;
    model.layers.iter().zip(choices).try_for_each(|(layer, choice)| {
        let held = unit(layer.cost.of(choice.kept));
        let dearer = dearer(layer, choice.kept).map(|kept| unit(layer.cost.of(kept))).filter(|&cost| cost > held).min();
        let fits = dearer.is_some_and(|cost| ((cost - held) as f64) <= left - 1.0);
        ensure(!fits, || format!("{left} are left, and {} could take a step from {choice:?}", layer.spectrum.shape()))
    })
}

/// The options that lose less than this one.
fn dearer(layer: &LayerOptions<'_>, held: Kept) -> impl Iterator<Item = Kept> {
    let loss = loss(layer, held);
    every(layer).filter(move |&kept| self::loss(layer, kept) < loss)
}

/// The divergence that an option is estimated to cause; where no sensitivity was asked for, its loss relative to the
/// layer's energy.
fn loss(layer: &LayerOptions<'_>, kept: Kept) -> f64 {
    let spectrum = layer.spectrum.spectrum();
    match (kept, layer.spectrum.sensitivity()) {
        (Kept::Rank(rank), Some(sensitivity)) => sensitivity.divergence_at(spectrum.loss(rank.get())),
        (Kept::Rank(rank), None) => spectrum.relative_error(rank.get()).powi(2),
        (Kept::Dense, _) => 0.0,
    }
}

/// Checks an allocator that counts the parameters of its layers against all choices that there are, on small models:
/// where the budget is a point of the hull, which is the best that can be had for some price of a parameter, no choice
/// within the budget loses less. An allocator that [needs](RankAllocator::needs) sensitivities is held to the sum of the
/// divergences that its choices are estimated to cause.
///
/// # Panics
/// Where one does; the message shows the smallest model that was found.
pub fn optimal_on_the_hull<A: RankAllocator>(allocator: impl Fn(Fraction) -> A) {
    let priced = (small_models(), (-14.0..1.0_f64).prop_map(f64::exp2));
    check(&priced, |(model, price)| {
        let needs = allocator(Fraction::constant(1.0)).needs();
        let allocation = model.allocation_for(&needs);
        let best = allocation.layers.iter().map(|layer| best_at(layer, price));
        let (budget, dense) = (cost(&allocation, best).parameters as f64, allocation.dense().parameters as f64);
        let Some(keep) = Fraction::new(((budget + 0.5) / dense).min(1.0)) else { return Ok(()) };
        let choices = model.ask(&allocator(keep)).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let (reached, least) = (total(&allocation, &choices), least(&allocation.layers, budget));
        ensure(reached <= least + 1e-12, || format!("{choices:?} lose {reached}, {least} can be had"))
    });
}

/// What a model costs when this is kept of its layers.
fn cost(model: &Allocation<'_>, kept: impl Iterator<Item = Kept>) -> Cost {
    model.layers.iter().zip(kept).map(|(layer, kept)| layer.cost.of(kept)).sum()
}

fn kept(choices: &[Choice]) -> impl Iterator<Item = Kept> {
    choices.iter().map(|choice| choice.kept)
}

fn total(model: &Allocation<'_>, choices: &[Choice]) -> f64 {
    model.layers.iter().zip(choices).map(|(layer, choice)| loss(layer, choice.kept)).sum()
}

fn every(layer: &LayerOptions<'_>) -> impl Iterator<Item = Kept> {
    layer.ranks.iter().map(|&rank| Kept::Rank(rank)).chain([Kept::Dense])
}

/// The option of least loss and price together, the cheapest of equal ones.
fn best_at(layer: &LayerOptions<'_>, price: f64) -> Kept {
    let total = |kept| loss(layer, kept) + price * layer.cost.of(kept).parameters as f64 / 16.0;
    every(layer).min_by(|&a, &b| total(a).total_cmp(&total(b))).unwrap_or(Kept::Dense)
}

/// The least loss of any choice of options within a budget of parameters: all are tried.
fn least(layers: &[LayerOptions<'_>], budget: f64) -> f64 {
    let Some((layer, others)) = layers.split_first() else { return 0.0 };
    let with = |kept| {
        let left = budget - layer.cost.of(kept).parameters as f64;
        if left < 0.0 { f64::INFINITY } else { loss(layer, kept) + least(others, left) }
    };
    every(layer).map(with).fold(f64::INFINITY, f64::min)
}
