//! What every rank allocator promises, as tests, and what one that keeps a budget promises besides.
//!
//! ```
//! # use calabi_api::{Allocation, Choice, LayerOptions, RankAllocator, SelectError};
//! /// Gives every layer the rank in the middle of its options.
//! #[derive(Debug)]
//! struct Middle;
//!
//! impl RankAllocator for Middle {
//!     fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
//!         let middle = |layer: &LayerOptions<'_>| match layer.ranks.get(layer.ranks.len() / 2) {
//!             Some(&rank) => Choice::exactly(rank, "the middle"),
//!             None => Choice::dense("no rank pays"),
//!         };
//!         Ok(model.layers.iter().map(middle).collect())
//!     }
//! }
//!
//! calabi_testing::allocators::conforms(&Middle);
//! ```

mod budgets;
mod models;

use calabi_api::{Choice, Kept, LayerOptions, RankAllocator};
use proptest::test_runner::TestCaseError;

pub use budgets::{Target, keeps_budget, optimal_on_the_hull};
pub use models::{Model, models};

use crate::runner::{check, ensure};

/// Checks the contract of [`RankAllocator`] on models of some layers of all kinds.
///
/// - There is one choice per layer, the same each time, or an error; a model whose layers have options is not always an
///   error.
/// - Ranks come from the layer's options and do not exceed [`limit`](RankAllocator::limit), which is no larger than the
///   full rank.
/// - Choices do not change when a weight is multiplied by a power of two, nor when spectra are cut at the limit.
///
/// The allocator sees what a run shows it: spectra and weights, statistics and sensitivities where its
/// [`needs`](RankAllocator::needs) name them. Layers that the model does not feel are among them.
///
/// The same models are run every time.
///
/// # Panics
/// Where the allocator breaks the contract; the message shows the smallest model that was found.
pub fn conforms(allocator: &dyn RankAllocator) {
    let answered = std::cell::Cell::new(false);
    check(&models(), |model| {
        let first = choose(allocator, &model);
        answered.set(answered.get() || first.is_some());
        legal(allocator, &model, first.as_deref().unwrap_or_default())?;
        same(first.as_ref(), choose(allocator, &model).as_ref(), "asked again")?;
        same(first.as_ref(), choose(allocator, &model.scaled()).as_ref(), "with weights scaled")?;
        same(first.as_ref(), choose(allocator, &model.cut(allocator)).as_ref(), "with spectra cut at the limit")
    });
    assert!(answered.get(), "the allocator gives an error for every model");
}

fn choose(allocator: &dyn RankAllocator, model: &Model) -> Option<Vec<Choice>> {
    model.ask(allocator).ok()
}

fn legal(allocator: &dyn RankAllocator, model: &Model, choices: &[Choice]) -> Result<(), TestCaseError> {
    let allocation = model.allocation();
    ensure(choices.is_empty() || choices.len() == allocation.layers.len(), || {
        format!("{} choices for {} layers", choices.len(), allocation.layers.len())
    })?;
    allocation.layers.iter().zip(choices).try_for_each(|(layer, choice)| {
        let shape = layer.spectrum.shape();
        let (limit, full) = (allocator.limit(shape), shape.full_rank());
        ensure(limit <= full, || format!("the limit {limit} is larger than the full rank {full}"))?;
        ensure(is_option(layer, choice), || format!("{choice:?} is none of the options {:?}", layer.ranks))?;
        ensure(choice.kept == Kept::Dense || matches!(choice.kept, Kept::Rank(rank) if rank <= limit), || {
            format!("{choice:?} exceeds the limit {limit}")
        })
    })
}

fn is_option(layer: &LayerOptions<'_>, choice: &Choice) -> bool {
    match choice.kept {
        Kept::Rank(rank) => layer.ranks.contains(&rank),
        Kept::Dense => true,
    }
}

fn same(first: Option<&Vec<Choice>>, second: Option<&Vec<Choice>>, when: &str) -> Result<(), TestCaseError> {
    let kept = |choices: Option<&Vec<Choice>>| choices.map(|all| all.iter().map(|c| c.kept).collect::<Vec<_>>());
    let (first, second) = (kept(first), kept(second));
    ensure(first == second, || format!("the choices differ {when}: {first:?}, {second:?}"))
}

#[cfg(test)]
mod tests;
