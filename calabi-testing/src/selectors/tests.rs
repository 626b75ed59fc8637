//! The suite passes what keeps the contract and catches what breaks it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use calabi_api::{Needs, Shape};

use super::*;

/// A selector made of a function.
struct Rule<F>(F);

impl<F> std::fmt::Debug for Rule<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rule")
    }
}

impl<F: Fn(&LayerSpectrum<'_>) -> usize + Send + Sync> RankSelector for Rule<F> {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        let rank = Rank::new((self.0)(layer)).ok_or_else(|| SelectError::new("no rank"))?;
        if rank.get() > layer.spectrum().known() && !layer.spectrum().is_complete() {
            return Err(SelectError::new("too few are known"));
        }
        Ok(Choice::at_least(rank, "a rule"))
    }
}

/// The message with which the suite refuses a rule.
fn refusal(rule: impl Fn(&LayerSpectrum<'_>) -> usize + Send + Sync) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| conforms(&Rule(rule)))).expect_err("the suite lets this pass");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

fn half(layer: &LayerSpectrum<'_>) -> usize {
    layer.shape().full_rank().get().div_ceil(2)
}

#[test]
fn a_rule_that_keeps_the_contract_passes() {
    conforms(&Rule(half));
}

#[test]
fn rules_that_break_the_contract_are_caught() {
    assert!(refusal(|_| 0).contains("a spectrum that suffices gives an error: no rank"));
    assert!(refusal(|layer| layer.shape().rows()).contains("goes beyond the limit"));
    assert!(refusal(|layer| if layer.spectrum().energy() > 1.0 { 1 } else { half(layer) }).contains("scaled"));
    let brittle = |layer: &LayerSpectrum<'_>| match layer.spectrum().known() {
        1 => 1,
        _ => panic!("ouch"),
    };
    assert!(refusal(brittle).contains("ouch"));
    let calls = AtomicUsize::new(0);
    let moody = |layer: &LayerSpectrum<'_>| {
        half(layer) - usize::from(calls.fetch_add(1, Ordering::Relaxed) % 7 == 1 && half(layer) > 1)
    };
    assert!(refusal(moody).contains("the choice differs"));
}

#[test]
fn a_limit_that_hides_what_the_rule_needs_is_caught() {
    #[derive(Debug)]
    struct Blind;
    impl RankSelector for Blind {
        fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
            let last = layer.spectrum().values().last().copied().unwrap_or_default();
            Ok(if last > 0.0 { Choice::dense("full rank") } else { Choice::exactly(Rank::ONE, "singular") })
        }
        fn limit(&self, _: Shape) -> Rank {
            Rank::ONE
        }
    }
    let panic = catch_unwind(|| conforms(&Blind)).expect_err("the suite lets this pass");
    assert!(panic.downcast_ref::<String>().unwrap().contains("with the spectrum cut at the limit"));
}

#[test]
fn families_are_checked_in_their_order() {
    let family =
        |parts: [usize; 3]| parts.map(|part| Rule(move |layer: &LayerSpectrum<'_>| half(layer).div_ceil(part)));
    monotone(&family([9, 3, 1]));
    assert!(catch_unwind(AssertUnwindSafe(|| monotone(&family([9, 1, 3])))).is_err());
}

#[test]
fn a_selector_sees_what_it_asks_for_and_nothing_else() {
    /// Fails where it is not shown what it reads.
    #[derive(Debug)]
    struct Reader(Needs);
    impl RankSelector for Reader {
        fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
            let energy: f32 = layer.weight()?.iter().map(|entry| entry * entry).sum();
            let inputs = layer.statistics()?.gram.nrows();
            let felt = layer.sensitivity().ok_or_else(|| SelectError::new("not measured"))?;
            let known = layer.spectrum().energy();
            assert!((f64::from(energy) - known).abs() <= 1e-4 * known, "{energy} {known}");
            let rank = if felt.divergence_at(known) > 0.1 { inputs } else { 1 };
            Ok(Choice::at_most(Rank::clamped(rank, layer.shape()), "what is felt"))
        }
        fn needs(&self) -> Needs {
            self.0.clone()
        }
    }
    let needs = |statistics, sensitivity| Needs { statistics, sensitivity };
    conforms(&Reader(needs(true, SensitivitySource::Measured)));
    for (forgotten, words) in [
        (needs(false, SensitivitySource::Measured), "no statistics of what flows into the layer"),
        (needs(true, SensitivitySource::Off), "not measured"),
    ] {
        let panic =
            catch_unwind(AssertUnwindSafe(|| conforms(&Reader(forgotten)))).expect_err("the suite lets this pass");
        assert!(panic.downcast_ref::<String>().unwrap().contains(words));
    }
}
