//! `spectral-gap`: the rank where the spectrum has its largest gap, if one stands out.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use calabi_api::settings::{Fraction, NonNegative};
use calabi_api::{Choice, LayerSpectrum, Plugin, Rank, RankSelector, SelectError, Shape};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::energy::energy_rank;
use crate::gaps::{Gap, Gaps, needed};
use crate::layer::{known, percent, zero};

/// The rank `r` inside the window with the largest relative gap `ln σ_r / σ_{r+1}`, if that gap stands out.
///
/// A gap stands out where it exceeds the median of the gaps around it (`min(m, n) / 16` ranks on either side, at least
/// 8) by `deviations` times their median absolute deviation. Values below the noise floor `max(m, n) · ε · σ₁`, with
/// the `ε` of `f32`, are rounding: the rank where a spectrum comes to its floor always counts as a gap, steps below
/// it never do.
///
/// Weights of trained networks seldom have such a gap: of the 37 matrices of `MiniLM` none has, of the 210 of
/// SmolLM2-135M one. `otherwise` says what becomes of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpectralGap {
    /// The ranks among which a gap is looked for, as shares of `min(m, n)`.
    #[serde(default)]
    pub window: Window,
    /// By how many median absolute deviations a gap must exceed the median of its neighbours.
    #[serde(default = "deviations")]
    pub deviations: NonNegative,
    /// What becomes of a layer without such a gap.
    #[serde(default)]
    pub otherwise: Otherwise,
}

/// The default of `deviations`: in `MiniLM` and SmolLM2-135M the largest gap of a weight exceeds the median by 4 to 10.
pub(crate) fn deviations() -> NonNegative {
    NonNegative::constant(10.0)
}

impl Default for SpectralGap {
    fn default() -> Self {
        Self { window: Window::default(), deviations: deviations(), otherwise: Otherwise::default() }
    }
}

/// What becomes of a layer in which no gap stands out.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Otherwise {
    /// It stays dense.
    #[default]
    Dense,
    /// The largest gap of the window is taken all the same.
    Largest,
    /// It keeps this share of its energy: `{ energy = 0.95 }`.
    Energy(Fraction),
}

impl RankSelector for SpectralGap {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        if let Some(choice) = zero(layer) {
            return Ok(choice);
        }
        let ranks = self.window.ranks(layer.shape());
        known(layer, needed(*ranks.end(), layer.shape()))?;
        let gaps = Gaps::of(layer);
        if let Some(end) = gaps.end().filter(|end| end.get() < *ranks.start()) {
            return Ok(Choice::at_least(end, format!("all beyond rank {end} is rounding")));
        }
        match largest(gaps.outstanding(ranks.clone(), self.deviations.get())) {
            Some(gap) => Ok(Choice::at_least(gap.rank, in_words(gap))),
            None => self.without_gap(layer, largest(gaps.within(ranks))),
        }
    }

    fn limit(&self, shape: Shape) -> Rank {
        match self.otherwise {
            Otherwise::Energy(_) => shape.full_rank(),
            Otherwise::Dense | Otherwise::Largest => {
                Rank::clamped(needed(*self.window.ranks(shape).end(), shape), shape)
            }
        }
    }
}

impl SpectralGap {
    fn without_gap(&self, layer: &LayerSpectrum<'_>, largest: Option<Gap>) -> Result<Choice, SelectError> {
        const NONE: &str = "no gap stands out";
        Ok(match (self.otherwise, largest) {
            (Otherwise::Energy(share), _) => {
                let because = format!("{NONE}: {} of the energy", percent(share.get()));
                Choice::at_least(energy_rank(layer, share)?, because)
            }
            (Otherwise::Largest, Some(gap)) => Choice::at_least(gap.rank, format!("{NONE}: largest {}", in_words(gap))),
            (Otherwise::Largest, None) => Choice::dense("no gap in the window"),
            (Otherwise::Dense, _) => Choice::dense(NONE),
        })
    }
}

/// The largest of these gaps, the first of equal ones.
fn largest(gaps: impl Iterator<Item = Gap>) -> Option<Gap> {
    gaps.reduce(|best, gap| if gap.size > best.size { gap } else { best })
}

/// "gap at 41 (ratio 3.2)".
pub(crate) fn in_words(gap: Gap) -> String {
    format!("gap at {} (ratio {:.3})", gap.rank, gap.ratio())
}

/// A range of ranks as shares of `min(m, n)`: `[0.05, 0.8]`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "[f64; 2]", into = "[f64; 2]")]
pub struct Window {
    from: f64,
    to: f64,
}

impl Window {
    /// The window between two shares with `0 ≤ from < to ≤ 1`, else none.
    #[must_use]
    pub fn new(from: f64, to: f64) -> Option<Self> {
        (0.0 <= from && from < to && to <= 1.0).then_some(Self { from, to })
    }

    /// The ranks `⌈from · min(m, n)⌉` to `⌊to · min(m, n)⌋`, at least 1 and smaller than `min(m, n)`; may be empty.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // shares of a number of dimensions
    fn ranks(self, shape: Shape) -> RangeInclusive<usize> {
        let full = shape.full_rank().get();
        let (from, to) = ((self.from * full as f64).ceil() as usize, (self.to * full as f64).floor() as usize);
        from.max(1)..=to.min(full - 1)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { from: 0.05, to: 0.8 }
    }
}

impl TryFrom<[f64; 2]> for Window {
    type Error = String;

    fn try_from([from, to]: [f64; 2]) -> Result<Self, String> {
        Self::new(from, to)
            .ok_or_else(|| format!("[{from}, {to}] is no window: expected two shares, 0 <= from < to <= 1"))
    }
}

impl From<Window> for [f64; 2] {
    fn from(window: Window) -> Self {
        [window.from, window.to]
    }
}

impl JsonSchema for Window {
    fn schema_name() -> Cow<'static, str> {
        "Window".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array", "minItems": 2, "maxItems": 2,
            "items": { "type": "number", "minimum": 0, "maximum": 1 }
        })
    }
}

calabi_api::submit! { Plugin::selector::<SpectralGap>("spectral-gap", "cut where the spectrum has its largest gap") }

#[cfg(test)]
mod tests {
    use calabi_api::{Kept, Spectrum};

    use super::*;

    fn select(settings: &str, values: Vec<f64>) -> Choice {
        let selector: SpectralGap = toml::from_str(settings).unwrap();
        let (shape, spectrum) = (Shape::new(values.len(), 300).unwrap(), Spectrum::complete(values).unwrap());
        selector.select(&LayerSpectrum::new("layer", shape, &spectrum)).unwrap()
    }

    /// 100 values that fall evenly but for a step by a factor of 2 after the 30th and one of 3 after the 90th.
    fn steps() -> Vec<f64> {
        let step = |i| {
            if i < 30 {
                1.0
            } else if i < 90 {
                0.5
            } else {
                0.5 / 3.0
            }
        };
        (0..100).map(|i| step(i) * 0.99_f64.powi(i)).collect()
    }

    #[test]
    fn the_largest_gap_of_the_window_is_taken() {
        let (inside, all) = (select("", steps()), select("window = [0, 1]", steps()));
        assert_eq!((inside.kept, &*inside.because), (Kept::Rank(Rank::new(30).unwrap()), "gap at 30 (ratio 2.020)"));
        assert_eq!(all.kept, Kept::Rank(Rank::new(90).unwrap()));
    }

    #[test]
    fn what_happens_without_a_gap_is_a_setting_and_is_said() {
        let even: Vec<f64> = (0..100).map(|i| 0.5_f64.powf(f64::from(i) / 2.0)).collect();
        let even = || even[..20].to_vec();
        assert_eq!(select("", even()), Choice::dense("no gap stands out"));
        let energy = select("otherwise = { energy = 0.75 }", even());
        assert_eq!(
            (energy.kept, &*energy.because),
            (Kept::Rank(Rank::new(2).unwrap()), "no gap stands out: 75 % of the energy")
        );
        assert!(select("otherwise = 'largest'", even()).because.starts_with("no gap stands out: largest gap at "));
    }

    #[test]
    fn a_rank_below_the_window_is_not_raised_to_it() {
        let mut values = vec![0.0; 100];
        values[0] = 2.0;
        let choice = select("", values);
        assert_eq!((choice.kept, &*choice.because), (Kept::Rank(Rank::ONE), "all beyond rank 1 is rounding"));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for settings in [
            "window = [0.8, 0.2]",
            "window = [0.1]",
            "window = [0, 1.1]",
            "deviations = -1",
            "otherwise = 'x'",
            "otherwise = { energy = 2 }",
        ] {
            assert!(toml::from_str::<SpectralGap>(settings).is_err(), "{settings}");
        }
    }
}
