//! `effective-rank`: the number of directions that the energy is spread over.

use calabi_api::{Choice, LayerSpectrum, Plugin, Rank, RankSelector, SelectError, Spectrum};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::layer::{complete, zero};

/// The effective rank `exp(−Σ pᵢ ln pᵢ)` with `pᵢ = σᵢ² / Σσ²`, rounded to the nearest whole number: `k` equal singular
/// values have an effective rank of `k`.
///
/// After Roy and Vetterli, "The effective rank", EUSIPCO 2007, who take `pᵢ = σᵢ / Σσ`; shares of the *energy* give
/// smaller ranks. Needs all singular values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EffectiveRank {}

impl RankSelector for EffectiveRank {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        if let Some(choice) = zero(layer) {
            return Ok(choice);
        }
        complete(layer)?;
        let effective = effective_rank(layer.spectrum());
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 1 to min(m, n)
        let rank = Rank::clamped(effective.round() as usize, layer.shape());
        Ok(Choice::at_least(rank, format!("effective rank {effective:.1}")))
    }
}

fn effective_rank(spectrum: &Spectrum) -> f64 {
    let shares = spectrum.values().iter().map(|value| value * value / spectrum.energy());
    let entropy: f64 = shares.filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum();
    entropy.exp()
}

calabi_api::submit! {
    Plugin::selector::<EffectiveRank>("effective-rank", "the number of directions that the energy is spread over")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(values: &[f64]) -> f64 {
        effective_rank(&Spectrum::complete(values.to_vec()).unwrap())
    }

    #[test]
    fn equal_values_count_one_each() {
        for k in [1, 2, 7, 300] {
            let mut values = vec![0.3; k];
            values.extend([0.0; 5]);
            assert!((effective(&values) - k as f64).abs() < 1e-9 * k as f64);
        }
    }

    #[test]
    fn shares_are_shares_of_the_energy() {
        // p = 3/4, 1/4: the entropy is 2 ln 2 - (3/4) ln 3.
        assert!((effective(&[3.0_f64.sqrt(), 1.0]) - 4.0 / 3.0_f64.powf(0.75)).abs() < 1e-12);
    }
}
