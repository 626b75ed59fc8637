//! `energy`: the smallest rank that holds a share of the energy.

use calabi_api::settings::Fraction;
use calabi_api::{Choice, LayerSpectrum, Plugin, Rank, RankSelector, SelectError};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::layer::{cut_short, percent, zero};

/// The smallest rank `r` with `Σ_{i≤r} σᵢ² ≥ threshold · ‖W‖²`.
///
/// By the theorem of Eckart, Young and Mirsky no matrix of smaller rank holds that share of the energy. A threshold of
/// 0.95 means a relative error of `√0.05 ≈ 0.22` in the Frobenius norm; `max-error` asks for the error itself.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Energy {
    /// The share of the weight's energy `‖W‖² = Σσ²` that is kept.
    pub threshold: Fraction,
}

impl RankSelector for Energy {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        if let Some(choice) = zero(layer) {
            return Ok(choice);
        }
        let because = format!("{} of the energy", percent(self.threshold.get()));
        Ok(Choice::at_least(energy_rank(layer, self.threshold)?, because))
    }
}

/// The smallest rank that holds this share of the energy.
pub(crate) fn energy_rank(layer: &LayerSpectrum<'_>, share: Fraction) -> Result<Rank, SelectError> {
    let (spectrum, share) = (layer.spectrum(), share.get());
    spectrum.rank_for_loss(spectrum.energy() - share * spectrum.energy()).ok_or_else(|| {
        let held = 1.0 - spectrum.loss(spectrum.known()) / spectrum.energy();
        cut_short(layer, &format!("hold {} of the energy, not {}", percent(held), percent(share)))
    })
}

calabi_api::submit! { Plugin::selector::<Energy>("energy", "keep a share of the weight's energy") }

#[cfg(test)]
mod tests {
    use calabi_api::{Kept, Shape, Spectrum};

    use super::*;

    fn rank(threshold: f64, squares: &[f64]) -> Result<usize, String> {
        let spectrum = Spectrum::complete(squares.iter().map(|s| s.sqrt()).collect()).unwrap();
        let shape = Shape::new(squares.len(), 9).unwrap();
        let choice = Energy { threshold: Fraction::new(threshold).unwrap() }
            .select(&LayerSpectrum::new("layer", shape, &spectrum))
            .map_err(|error| error.to_string())?;
        let Kept::Rank(rank) = choice.kept else { panic!("dense") };
        Ok(rank.get())
    }

    #[test]
    fn a_share_that_is_met_exactly_is_met() {
        let squares = [36.0, 16.0, 9.0, 4.0, 0.0];
        let shares = [1e-9, 36.0 / 65.0, 0.56, 0.8, 0.81, 61.0 / 65.0, 0.95, 1.0];
        assert_eq!(shares.map(|share| rank(share, &squares).unwrap()), [1, 1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn the_whole_energy_is_the_rank_of_the_matrix() {
        assert_eq!(rank(1.0, &[1.0, 1e-30, 0.0]), Ok(2));
        assert_eq!(rank(1.0, &[1.0; 7]), Ok(7));
    }

    #[test]
    fn a_spectrum_that_ends_too_early_is_an_error_that_says_so() {
        let spectrum = Spectrum::leading(vec![2.0, 1.0], 10.0).unwrap();
        let layer = LayerSpectrum::new("block.q", Shape::new(4, 4).unwrap(), &spectrum);
        let error = Energy { threshold: Fraction::new(0.9).unwrap() }.select(&layer).unwrap_err().to_string();
        assert!(error.starts_with("2 singular values are known and hold 50 % of the energy, not 90 %"));
        assert!(Energy { threshold: Fraction::new(0.5).unwrap() }.select(&layer).is_ok());
    }
}
