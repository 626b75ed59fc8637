//! The suite passes what keeps the contract and catches what breaks it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use calabi_api::settings::Fraction;
use calabi_api::{Allocation, Choice, LayerOptions, Needs, RankAllocator, SelectError, SensitivitySource};

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

/// Gives the smallest rank to layers that were measured, and fails where it is not shown what it needs.
#[derive(Debug)]
struct Reader(Needs);

impl RankAllocator for Reader {
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
        for layer in &model.layers {
            let (shape, statistics) = (layer.spectrum.shape(), layer.spectrum.statistics()?);
            let shapes = (layer.spectrum.weight()?.dim(), statistics.gram.dim());
            assert_eq!(shapes, ((shape.rows(), shape.cols()), (shape.cols(), shape.cols())));
            layer.spectrum.sensitivity().ok_or_else(|| SelectError::new("not measured"))?;
        }
        Ok(all(smallest, model))
    }

    fn needs(&self) -> Needs {
        self.0.clone()
    }
}

#[test]
fn an_allocator_sees_what_it_asks_for_and_nothing_else() {
    let needs = |statistics, sensitivity| Needs { statistics, sensitivity };
    conforms(&Reader(needs(true, SensitivitySource::Measured)));
    conforms(&Reader(needs(true, SensitivitySource::File("a file".into()))));
    for forgotten in [needs(false, SensitivitySource::Measured), needs(true, SensitivitySource::Off)] {
        assert!(refusal(|| conforms(&Reader(forgotten))).contains("an error for every model"));
    }
}

#[test]
fn divergences_that_follow_the_absolute_loss_are_caught() {
    /// Looks at the divergence at a loss of one, whatever the layer's loss is.
    #[derive(Debug)]
    struct Absolute;
    impl RankAllocator for Absolute {
        fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
            let hurts =
                |layer: &LayerOptions<'_>| layer.spectrum.sensitivity().is_some_and(|s| s.divergence_at(1.0) > 1.0);
            Ok(all(|layer| if hurts(layer) { Choice::dense("it hurts") } else { smallest(layer) }, model))
        }
        fn needs(&self) -> Needs {
            Needs { sensitivity: SensitivitySource::Measured, ..Needs::NONE }
        }
    }
    assert!(refusal(|| conforms(&Absolute)).contains("scaled"));
}
