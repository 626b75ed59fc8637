//! What every rank selector promises, as tests.
//!
//! ```
//! # use calabi_api::{Choice, LayerSpectrum, Rank, RankSelector, SelectError};
//! /// Keeps half of the rank.
//! #[derive(Debug)]
//! struct Half;
//!
//! impl RankSelector for Half {
//!     fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
//!         let half = layer.shape().full_rank().get() / 2;
//!         Ok(Choice::at_most(Rank::clamped(half, layer.shape()), "half of the full rank"))
//!     }
//! }
//!
//! calabi_testing::selectors::conforms(&Half);
//! ```

mod cases;

use calabi_api::{Choice, Kept, LayerSpectrum, Rank, RankSelector, SelectError, SensitivitySource};
use proptest::test_runner::TestCaseError;

pub use cases::{Case, cases};

use crate::runner::{check, ensure};

/// Checks the contract of [`RankSelector`] on spectra of all kinds: flat, steep, with steps, with ties, of low rank, of
/// low rank plus noise, zero; of square, tall, wide and one-row weights; whole and truncated.
///
/// - A complete spectrum gives a choice, the same each time.
/// - Its rank lies between 1 and `min(m, n)`, never above [`limit`](RankSelector::limit), which is no larger itself.
/// - It does not change when the weight is multiplied by a power of two, which is exact.
/// - The spectrum cut at [`limit`](RankSelector::limit) gives the same choice: that is what a partial decomposer hands
///   over.
/// - A spectrum that is cut earlier, which no decomposer hands over, gives a choice or an error; never a panic.
///
/// The selector sees what a run shows it: spectrum and weight, statistics and sensitivity where its
/// [`needs`](RankSelector::needs) name them. Layers that the model does not feel are among the cases.
///
/// The same cases are run every time.
///
/// # Panics
/// Where the selector breaks the contract; the message shows the smallest case that was found.
pub fn conforms(selector: &dyn RankSelector) {
    check(&cases(), |case| conforms_on(selector, &case));
}

/// Checks that a family of selectors, ordered from the strictest to the most generous, chooses ranks in that order;
/// dense counts as more than every rank.
///
/// # Panics
/// Where a later member chooses less than an earlier one; the message shows the smallest case that was found.
pub fn monotone<S: RankSelector>(family: &[S]) {
    check(&cases(), |case| {
        let sizes = family.iter().map(|selector| select(selector, &case).map(size)).collect::<Result<Vec<_>, _>>();
        let sizes = sizes.map_err(|error| fail(format!("a complete spectrum gives an error: {error}")))?;
        ensure(sizes.is_sorted(), || format!("the ranks of the family do not ascend: {sizes:?}"))
    });
}

fn conforms_on(selector: &dyn RankSelector, case: &Case) -> Result<(), TestCaseError> {
    let choose = |case: &Case| {
        select(selector, case).map_err(|error| fail(format!("a spectrum that suffices gives an error: {error}")))
    };
    let (full, limit) = (case.shape.full_rank(), selector.limit(case.shape));
    ensure(limit <= full, || format!("the limit {limit} is larger than the full rank {full}"))?;
    let choice = choose(case)?;
    within(&choice, limit, "the limit")?;
    same(&choice, &choose(case)?, "asked again")?;
    same(&choice, &choose(&case.scaled(2.0_f64.powi(31)))?, "with the weight scaled up")?;
    same(&choice, &choose(&case.scaled(2.0_f64.powi(-31)))?, "with the weight scaled down")?;
    same(&choice, &choose(&case.truncated(limit))?, "with the spectrum cut at the limit")?;
    survives_truncation(selector, case)
}

/// Cuts the spectrum ever shorter.
fn survives_truncation(selector: &dyn RankSelector, case: &Case) -> Result<(), TestCaseError> {
    let mut case = case.clone();
    while let Some(half) = Rank::new(case.spectrum.known() / 2) {
        case = case.truncated(half);
        if let Ok(choice) = select(selector, &case) {
            within(&choice, case.shape.full_rank(), "the full rank")?;
        }
    }
    Ok(())
}

/// Lets the selector choose, shown what it asks for.
fn select(selector: &dyn RankSelector, case: &Case) -> Result<Choice, SelectError> {
    let (weight, statistics) = (|| Ok(case.weight()), || Ok(case.statistics()));
    let layer = LayerSpectrum::new("the layer", case.shape, &case.spectrum).with_weight(&weight);
    let needs = selector.needs();
    let measured = needs.sensitivity != SensitivitySource::Off;
    let layer = layer.with_sensitivity(case.sensitivity.filter(|_| measured));
    selector.select(&if needs.statistics { layer.with_statistics(&statistics) } else { layer })
}

fn size(choice: Choice) -> usize {
    match choice.kept {
        Kept::Rank(rank) => rank.get(),
        Kept::Dense => usize::MAX,
    }
}

fn within(choice: &Choice, bound: Rank, what: &str) -> Result<(), TestCaseError> {
    let inside = match choice.kept {
        Kept::Rank(rank) => rank <= bound,
        Kept::Dense => true,
    };
    ensure(inside, || format!("{choice:?} goes beyond {what} ({bound})"))
}

/// The words may differ: they may name absolute numbers.
fn same(first: &Choice, second: &Choice, when: &str) -> Result<(), TestCaseError> {
    let same = (first.kept, first.rounding) == (second.kept, second.rounding);
    ensure(same, || format!("the choice differs {when}: {first:?}, {second:?}"))
}

fn fail(message: String) -> TestCaseError {
    TestCaseError::fail(message)
}

#[cfg(test)]
mod tests;
