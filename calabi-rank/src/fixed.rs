//! `fixed`: the same rank for every layer.

use calabi_api::{Choice, LayerSpectrum, Plugin, Rank, RankSelector, SelectError, Shape};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::layer::{known, zero};

/// This rank, taken literally: no rank multiple rounds it. A smaller layer gets its full rank.
///
/// Mostly of use in an `[[override]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fixed {
    /// The rank.
    pub rank: Rank,
}

impl RankSelector for Fixed {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        if let Some(choice) = zero(layer) {
            return Ok(choice);
        }
        known(layer, self.limit(layer.shape()).get())?;
        Ok(self.choice(layer.shape()))
    }

    fn without_spectrum(&self, shape: Shape) -> Option<Choice> {
        Some(self.choice(shape))
    }

    fn limit(&self, shape: Shape) -> Rank {
        self.rank.min(shape.full_rank())
    }
}

impl Fixed {
    fn choice(self, shape: Shape) -> Choice {
        let rank = self.limit(shape);
        let because = if rank == self.rank { "fixed".to_owned() } else { format!("fixed: full rank {rank}") };
        Choice::exactly(rank, because)
    }
}

calabi_api::submit! { Plugin::selector::<Fixed>("fixed", "the same rank for every layer") }

#[cfg(test)]
mod tests {
    use calabi_api::Spectrum;

    use super::*;

    #[test]
    fn the_rank_is_taken_literally_up_to_the_full_rank() {
        let spectrum = Spectrum::complete(vec![3.0; 13]).unwrap();
        let layer = LayerSpectrum::new("layer", Shape::new(13, 20).unwrap(), &spectrum);
        let choice = |rank| Fixed { rank: Rank::new(rank).unwrap() }.select(&layer).unwrap();
        assert_eq!(choice(11), Choice::exactly(Rank::new(11).unwrap(), "fixed"));
        assert_eq!(choice(64), Choice::exactly(Rank::new(13).unwrap(), "fixed: full rank 13"));
    }

    #[test]
    fn no_rank_is_nothing() {
        assert!(toml::from_str::<Fixed>("rank = 0").is_err());
        assert!(toml::from_str::<Fixed>("rank = -3").is_err());
    }
}
