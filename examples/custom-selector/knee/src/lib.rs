//! `knee`: the rank where the spectrum bends most.

use calabi_api::{Choice, LayerSpectrum, Name, Plugin, Rank, RankSelector, SelectError};

/// The rank after which the spectrum lies farthest below the line from its first value to its last, at least a share
/// of the dimensions.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Knee {
    /// The share of the dimensions that is kept whatever the spectrum.
    pub at_least: calabi_api::settings::Share,
}

impl RankSelector for Knee {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        let values = layer.spectrum().values();
        if !layer.spectrum().is_complete() {
            return Err(SelectError::new(format!("layer {}: not all values are known", Name::new(layer.name()))));
        }
        let slope = (values[0] - values[values.len() - 1]) / values.len() as f64;
        let below_line = |i: usize| values[0] - slope * i as f64 - values[i];
        let knee = (0..values.len()).rev().max_by(|&i, &j| below_line(i).total_cmp(&below_line(j))).unwrap_or_default();
        let floor = (self.at_least.get() * values.len() as f64).ceil() as usize;
        Ok(Choice::at_least(Rank::clamped(knee.max(floor), layer.shape()), format!("knee at {knee}")))
    }
}

calabi_api::submit! { Plugin::selector::<Knee>("knee", "the rank where the spectrum bends most") }

#[test]
fn keeps_the_contract_of_selectors() {
    let at_least = calabi_api::settings::Share::new(0.1).expect("a share");
    calabi_testing::selectors::conforms(&Knee { at_least });
}
