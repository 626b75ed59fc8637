//! `max-error`: the smallest rank whose relative error is small enough.

use std::borrow::Cow;

use calabi_api::{Choice, LayerSpectrum, Plugin, RankSelector, SelectError};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::layer::{cut_short, zero};

/// The smallest rank `r` with `‖W − W_r‖ ≤ epsilon · ‖W‖` in the Frobenius norm.
///
/// By the theorem of Eckart, Young and Mirsky no matrix of smaller rank comes that near. The same rule as `energy` with
/// a threshold of `1 − epsilon²`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaxError {
    /// The largest relative error of a layer.
    pub epsilon: RelativeError,
}

impl RankSelector for MaxError {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        if let Some(choice) = zero(layer) {
            return Ok(choice);
        }
        let (spectrum, epsilon) = (layer.spectrum(), self.epsilon.get());
        let rank = spectrum.rank_for_loss(epsilon * epsilon * spectrum.energy()).ok_or_else(|| {
            let reached = spectrum.relative_error(spectrum.known());
            cut_short(layer, &format!("reach a relative error of {reached:.3}, not {epsilon}"))
        })?;
        Ok(Choice::at_least(rank, format!("relative error at most {epsilon}")))
    }
}

/// A relative error, larger than 0 and smaller than 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct RelativeError(f64);

impl RelativeError {
    /// The error where it lies in the range, else none.
    #[must_use]
    pub fn new(error: f64) -> Option<Self> {
        (error > 0.0 && error < 1.0).then_some(Self(error))
    }

    /// The error as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for RelativeError {
    type Error = String;

    fn try_from(error: f64) -> Result<Self, String> {
        Self::new(error).ok_or_else(|| format!("{error} is no relative error: expected a number between 0 and 1"))
    }
}

impl JsonSchema for RelativeError {
    fn schema_name() -> Cow<'static, str> {
        "RelativeError".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1 })
    }
}

calabi_api::submit! { Plugin::selector::<MaxError>("max-error", "keep the relative error of each layer below a bound") }

#[cfg(test)]
mod tests {
    use calabi_api::{Kept, Rank, Shape, Spectrum};

    use super::*;

    #[test]
    fn an_error_that_is_met_exactly_is_met() {
        let spectrum = Spectrum::complete(vec![12.0, 4.0, 3.0, 0.0]).unwrap();
        let layer = LayerSpectrum::new("layer", Shape::new(9, 4).unwrap(), &spectrum);
        let rank = |epsilon| MaxError { epsilon: RelativeError::new(epsilon).unwrap() }.select(&layer).unwrap().kept;
        let ranks = [0.999, 5.0 / 13.0, 0.38, 3.0 / 13.0, 0.23, 1e-12].map(rank);
        assert_eq!(ranks, [1, 1, 2, 2, 3, 3].map(|r| Kept::Rank(Rank::new(r).unwrap())));
    }

    #[test]
    fn a_spectrum_that_ends_too_early_is_an_error_that_says_so() {
        let spectrum = Spectrum::leading(vec![2.0, 1.0], 10.0).unwrap();
        let layer = LayerSpectrum::new("block.q", Shape::new(4, 4).unwrap(), &spectrum);
        let error = MaxError { epsilon: RelativeError(0.5) }.select(&layer).unwrap_err().to_string();
        assert!(error.contains("2 singular values are known and reach a relative error of 0.707, not 0.5"));
    }

    #[test]
    fn an_error_of_nothing_or_of_everything_is_no_bound() {
        for epsilon in ["0", "1", "0.0", "1.0", "nan", "-0.1"] {
            assert!(toml::from_str::<MaxError>(&format!("epsilon = {epsilon}")).is_err(), "{epsilon}");
        }
    }
}
