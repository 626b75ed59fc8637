//! `combined`: the gap nearest to the energy rank, else the energy rank.

use calabi_api::settings::{Fraction, NonNegative, Share};
use calabi_api::{Choice, LayerSpectrum, Plugin, RankSelector, SelectError};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::energy::energy_rank;
use crate::gaps::{Gaps, needed};
use crate::layer::{full, known, percent, zero};
use crate::spectral_gap::{deviations, in_words};

/// The gap nearest to the energy rank, inside a window around it; the energy rank itself where no gap stands out there.
///
/// The energy rank is that of `energy`; a gap stands out as in `spectral-gap`. Of two gaps at the same distance the
/// larger rank is taken.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Combined {
    /// The share of the weight's energy `‖W‖² = Σσ²` that sets the energy rank.
    pub energy: Fraction,
    /// How far from the energy rank a gap may be, as a share of `min(m, n)`.
    #[serde(default = "window")]
    pub window: Share,
    /// By how many median absolute deviations a gap must exceed the median of its neighbours.
    #[serde(default = "deviations")]
    pub deviations: NonNegative,
}

fn window() -> Share {
    Share::constant(0.1)
}

impl Combined {
    /// The rule with this share of the energy and the default window.
    #[must_use]
    pub fn new(energy: Fraction) -> Self {
        Self { energy, window: window(), deviations: deviations() }
    }

    /// How many ranks from the energy rank a gap may be.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a number of dimensions
    fn reach(&self, layer: &LayerSpectrum<'_>) -> usize {
        (self.window.get() * full(layer) as f64).floor() as usize
    }
}

impl RankSelector for Combined {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        if let Some(choice) = zero(layer) {
            return Ok(choice);
        }
        let (energy, reach) = (energy_rank(layer, self.energy)?, self.reach(layer));
        let last = energy.get() + reach;
        known(layer, needed(last, layer.shape()))?;
        let around = energy.get().saturating_sub(reach).max(1)..=last;
        let nearest = Gaps::of(layer)
            .outstanding(around, self.deviations.get())
            .min_by_key(|gap| (gap.rank.get().abs_diff(energy.get()), std::cmp::Reverse(gap.rank)));
        let share = percent(self.energy.get());
        Ok(match nearest {
            Some(gap) => Choice::at_least(gap.rank, format!("{} near {share} of the energy ({energy})", in_words(gap))),
            None => Choice::at_least(energy, format!("{share} of the energy, no gap near")),
        })
    }
}

calabi_api::submit! { Plugin::selector::<Combined>("combined", "the gap nearest to a share of the energy, else that share") }

#[cfg(test)]
mod tests {
    use calabi_api::{Kept, Rank, Shape, Spectrum};

    use super::*;

    fn select(energy: f64, window: f64, values: Vec<f64>) -> (usize, String) {
        let share = Share::new(window).unwrap();
        let rule = Combined { window: share, ..Combined::new(Fraction::new(energy).unwrap()) };
        let (shape, spectrum) = (Shape::new(values.len(), 300).unwrap(), Spectrum::complete(values).unwrap());
        let choice = rule.select(&LayerSpectrum::new("layer", shape, &spectrum)).unwrap();
        let Kept::Rank(rank) = choice.kept else { panic!("dense") };
        (rank.get(), choice.because.into_owned())
    }

    /// 20 values of 3, 20 of 2, 60 of 1: energies of 180, 80 and 60.
    fn plateaus() -> Vec<f64> {
        [[3.0; 20].as_slice(), &[2.0; 20], &[1.0; 60]].concat()
    }

    #[test]
    fn the_nearest_gap_inside_the_window_binds_else_the_energy() {
        let words = "gap at 20 (ratio 1.500) near 60 % of the energy (23)";
        assert_eq!(select(0.6, 0.1, plateaus()), (20, words.to_owned()));
        assert_eq!(select(0.6, 0.02, plateaus()), (23, "60 % of the energy, no gap near".to_owned()));
        assert_eq!(select(0.8, 0.1, plateaus()).0, 40);
        assert_eq!(select(0.9, 0.1, plateaus()).0, 68);
    }

    #[test]
    fn of_two_gaps_at_the_same_distance_the_larger_rank_is_taken() {
        // 30 values of energy: 180 + 10 · 4 = 220 of 320.
        assert_eq!(select(220.0 / 320.0, 0.1, plateaus()).0, 40);
        assert_eq!(select(220.0 / 320.0, 0.1, plateaus()[..].iter().map(|v| v * 0.5).collect()).0, 40);
    }

    #[test]
    fn an_energy_rank_near_the_end_of_a_truncated_spectrum_is_an_error() {
        let spectrum = Spectrum::complete(plateaus()).unwrap().truncated(Rank::new(30).unwrap());
        let layer = LayerSpectrum::new("block.q", Shape::new(100, 100).unwrap(), &spectrum);
        let error = Combined::new(Fraction::new(0.6).unwrap()).select(&layer).unwrap_err().to_string();
        assert!(error.starts_with("30 singular values are known and 42 are needed"), "{error}");
    }
}
