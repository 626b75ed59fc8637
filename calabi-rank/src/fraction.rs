//! `fraction`: a share of the dimensions, whatever the spectrum.

use calabi_api::settings;
use calabi_api::{Choice, LayerSpectrum, Plugin, Rank, RankSelector, SelectError, Shape};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::layer::{known, percent, zero};

/// The rank `⌈keep · min(m, n)⌉`: a share of the *dimensions*, which is not the share of the parameters that is left.
///
/// Factors of rank `r` have `r (m + n)` parameters, so that at 0.5 a square layer is exactly as large as before and
/// stays dense. `budget` keeps a share of the parameters or of the bytes instead. (The first calabi called this share
/// its compression ratio.)
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fraction {
    /// The share of the `min(m, n)` dimensions that is kept.
    pub keep: settings::Fraction,
}

impl RankSelector for Fraction {
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
        Rank::clamped(ceiling(self.keep.get() * shape.full_rank().get() as f64), shape)
    }
}

impl Fraction {
    fn choice(self, shape: Shape) -> Choice {
        let rank = self.limit(shape);
        Choice::at_most(rank, self.because(shape, rank))
    }

    fn because(self, shape: Shape, rank: Rank) -> String {
        let share = self.share_in_words();
        let break_even = shape.break_even();
        let place = match rank.get() {
            rank if rank == shape.full_rank().get() || rank < break_even => return share,
            rank if rank == break_even => "at",
            _ => "past",
        };
        format!(
            "{share} is {place} break-even ({break_even}): no smaller than dense; `budget` keeps a share of the size"
        )
    }

    fn share_in_words(self) -> String {
        match self.keep.get() {
            1.0 => "all of the dimensions".to_owned(),
            0.5 => "half of the dimensions".to_owned(),
            keep => format!("{} of the dimensions", percent(keep)),
        }
    }
}

/// `⌈x⌉`, where a share such as 0.07 that binary numbers only come near does not cost a dimension more.
fn ceiling(x: f64) -> usize {
    let nearest = x.round();
    let whole = if (x - nearest).abs() <= 1e-9 * nearest { nearest } else { x.ceil() };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a number of dimensions
    {
        whole as usize
    }
}

calabi_api::submit! { Plugin::selector::<Fraction>("fraction", "keep a share of the dimensions") }

#[cfg(test)]
mod tests {
    use calabi_api::{Rounding, Spectrum};

    use super::*;

    fn select(keep: f64, rows: usize, cols: usize) -> (usize, Choice) {
        let spectrum = Spectrum::complete(vec![1.0; rows.min(cols)]).unwrap();
        let (shape, fraction) =
            (Shape::new(rows, cols).unwrap(), Fraction { keep: settings::Fraction::new(keep).unwrap() });
        let choice = fraction.select(&LayerSpectrum::new("layer", shape, &spectrum)).unwrap();
        (fraction.limit(shape).get(), choice)
    }

    #[test]
    fn the_rank_is_the_ceiling_of_the_share() {
        let rank = |keep, full| select(keep, full, 4096).0;
        assert_eq!([rank(0.25, 100), rank(0.251, 100), rank(1.0, 100), rank(1e-9, 100)], [25, 26, 100, 1]);
        assert_eq!([rank(0.07, 100), rank(0.1, 30), rank(0.3, 10), rank(0.29, 100)], [7, 3, 3, 29]);
    }

    #[test]
    fn break_even_is_named_with_the_way_out() {
        let because = |keep, rows, cols| select(keep, rows, cols).1.because.into_owned();
        assert_eq!(because(0.5, 64, 256), "half of the dimensions");
        assert!(because(0.5, 64, 64).starts_with("half of the dimensions is at break-even (32): "));
        assert!(because(0.75, 64, 64).starts_with("75 % of the dimensions is past break-even (32): "));
        assert!(because(0.5, 64, 64).contains("`budget`"));
        assert_eq!(because(1.0, 64, 64), "all of the dimensions");
    }

    #[test]
    fn the_rank_is_a_size_and_rounds_down() {
        assert_eq!(select(0.4, 99, 256).1.rounding, Rounding::Down);
    }
}
