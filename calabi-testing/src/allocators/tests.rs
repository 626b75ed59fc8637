//! The suite passes what keeps the contract and catches what breaks it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use calabi_api::settings::Fraction;
use calabi_api::{Allocation, Choice, LayerOptions, RankAllocator, SelectError};

use super::*;

/// An allocator made of a function.
struct Rule<F>(F);

impl<F> std::fmt::Debug for Rule<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rule")
    }
}

impl<F: Fn(&Allocation<'_>) -> Result<Vec<Choice>, SelectError> + Send + Sync> RankAllocator for Rule<F> {
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
        (self.0)(model)
    }
}

fn refusal(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("the suite lets this pass");
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

fn refused(rule: impl Fn(&Allocation<'_>) -> Result<Vec<Choice>, SelectError> + Send + Sync) -> String {
    refusal(|| conforms(&Rule(rule)))
}

fn smallest(layer: &LayerOptions<'_>) -> Choice {
    layer.ranks.first().map_or(Choice::dense("no rank pays"), |&rank| Choice::exactly(rank, "the smallest"))
}

fn all(choose: impl Fn(&LayerOptions<'_>) -> Choice, model: &Allocation<'_>) -> Vec<Choice> {
    model.layers.iter().map(choose).collect()
}

#[test]
fn an_allocator_that_keeps_the_contract_passes() {
    conforms(&Rule(|model: &Allocation<'_>| Ok(all(smallest, model))));
}

#[test]
fn allocators_that_break_the_contract_are_caught() {
    assert!(refused(|_: &Allocation<'_>| Err(SelectError::new("never"))).contains("an error for every model"));
    assert!(refused(|_: &Allocation<'_>| Ok(vec![Choice::dense("one for all")])).contains("choices for"));
    let full = |layer: &LayerOptions<'_>| Choice::exactly(layer.spectrum.shape().full_rank(), "full rank");
    assert!(refused(|model: &Allocation<'_>| Ok(all(full, model))).contains("none of the options"));
    let loud = |layer: &LayerOptions<'_>| match layer.spectrum.spectrum().energy() {
        energy if energy > 1.0 => Choice::dense("loud"),
        _ => smallest(layer),
    };
    assert!(refused(|model: &Allocation<'_>| Ok(all(loud, model))).contains("scaled"));
}

#[test]
fn a_budget_that_is_missed_is_caught() {
    let target = Target { unit: |cost| cost.parameters, besides: |model| model.decided, keep: 0.5 };
    let meek = Rule(|model: &Allocation<'_>| Ok(all(smallest, model)));
    assert!(refusal(|| keeps_budget(&meek, target)).contains("could take a step from"));
    let lavish = Rule(|model: &Allocation<'_>| Ok(all(|_| Choice::dense("dense"), model)));
    assert!(refusal(|| keeps_budget(&lavish, target)).contains("exceed the target"));
    let idle = Rule(|_: &Allocation<'_>| Err(SelectError::new("never")));
    assert!(refusal(|| keeps_budget(&idle, target)).contains("and yet: never"));
}

#[test]
fn a_budget_that_is_wasted_is_caught() {
    let meek = |_: Fraction| Rule(|model: &Allocation<'_>| Ok(all(smallest, model)));
    assert!(refusal(|| optimal_on_the_hull(meek)).contains("can be had"));
}
