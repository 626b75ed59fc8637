//! `equal-error`: one relative error for all layers, as small as a budget of parameters allows.

use calabi_api::settings::Fraction;
use calabi_api::{Allocation, Choice, LayerOptions, Plugin, RankAllocator, SelectError};

/// The smallest relative error that, allowed to every layer alike, leaves at most this share of the parameters.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EqualError {
    /// The share of the selected layers' parameters that may remain.
    pub keep: Fraction,
}

impl RankAllocator for EqualError {
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
        let target = self.keep.get() * (model.dense() + model.decided.0).parameters as f64;
        let left = target - model.decided.1.parameters as f64;
        let (mut fails, mut meets) = (0.0, 1.0);
        if cost(model, meets) > left {
            return Err(SelectError::new(
                "even at the smallest ranks the layers are larger than `keep` allows: raise it",
            ));
        }
        for _ in 0..50 {
            let error = f64::midpoint(fails, meets);
            if cost(model, error) <= left { meets = error } else { fails = error }
        }
        Ok(model.layers.iter().map(|layer| choice(layer, meets)).collect())
    }
}

/// The parameters of all layers when each may have this relative error.
fn cost(model: &Allocation<'_>, error: f64) -> f64 {
    model.layers.iter().map(|layer| layer.cost.of(choice(layer, error).kept).parameters as f64).sum()
}

/// The smallest option with at most this relative error.
fn choice(layer: &LayerOptions<'_>, error: f64) -> Choice {
    let spectrum = layer.spectrum.spectrum();
    let within = |rank: usize| rank <= spectrum.known() && spectrum.relative_error(rank) <= error;
    match layer.ranks.iter().find(|rank| within(rank.get())) {
        Some(&rank) => Choice::exactly(rank, format!("relative error at most {error:.3}")),
        None => Choice::dense(format!("no rank has an error of {error:.3}")),
    }
}

calabi_api::submit! { Plugin::allocator::<EqualError>("equal-error", "one relative error for all layers") }

#[test]
fn keeps_the_contract_of_allocators() {
    calabi_testing::allocators::conforms(&EqualError { keep: Fraction::new(0.6).expect("a share") });
}
