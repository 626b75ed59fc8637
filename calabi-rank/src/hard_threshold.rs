//! `hard-threshold`: what stands above the noise, as the spectrum itself shows it.

use calabi_api::{Choice, LayerSpectrum, Plugin, Rank, RankSelector, SelectError, Shape};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::layer::{complete, full, zero};
use crate::marchenko_pastur::MarchenkoPastur;

/// The number of singular values above `τ = ω(β) · median(σ)`, at least 1: the optimal hard threshold for a weight of
/// low rank plus white noise of unknown strength.
///
/// With `β = min(m, n) / max(m, n)`, `ω(β) = λ(β) / √μ_β`, where `λ(β)² = 2(β+1) + 8β / (β + 1 + √(β² + 14β + 1))` and
/// `μ_β` is the median of the Marchenko-Pastur law, found to machine precision; `ω(1) ≈ 2.858`. No threshold has a
/// smaller mean square error over matrices of low rank, as they grow large.
///
/// Gavish and Donoho, "The optimal hard threshold for singular values is 4/√3", IEEE Trans. Inf. Theory 60 (2014).
/// Needs all singular values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HardThreshold {}

impl RankSelector for HardThreshold {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        if let Some(choice) = zero(layer) {
            return Ok(choice);
        }
        complete(layer)?;
        let (values, medians) = (layer.spectrum().values(), omega(aspect(layer.shape())));
        let threshold = medians * median(values);
        let above = values.partition_point(|&value| value > threshold);
        let because = format!("{above} of {} above the noise ({medians:.2} medians)", full(layer));
        Ok(Choice::at_least(Rank::clamped(above, layer.shape()), because))
    }
}

/// `β = min(m, n) / max(m, n)`.
fn aspect(shape: Shape) -> f64 {
    let (m, n) = (shape.rows(), shape.cols());
    m.min(n) as f64 / m.max(n) as f64
}

/// The optimal threshold in medians of the spectrum.
fn omega(beta: f64) -> f64 {
    let lambda = 2.0 * (beta + 1.0) + 8.0 * beta / (beta + 1.0 + (beta * beta + 14.0 * beta + 1.0).sqrt());
    (lambda / MarchenkoPastur::new(beta).median()).sqrt()
}

/// The median of values that descend; none is zero.
fn median(values: &[f64]) -> f64 {
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    let half = values.len() / 2;
    if values.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.saturating_sub(1)), at(half)) }
}

calabi_api::submit! {
    Plugin::selector::<HardThreshold>("hard-threshold", "keep what stands above the noise that the spectrum shows")
}

#[cfg(test)]
mod tests {
    use calabi_api::{Kept, Spectrum};

    use super::*;

    #[test]
    fn omega_is_near_the_cubic_that_the_paper_gives_for_it() {
        for step in 1_u32..=100 {
            let beta = f64::from(step) / 100.0;
            let cubic = 0.56 * beta.powi(3) - 0.95 * beta.powi(2) + 1.82 * beta + 1.43;
            assert!((omega(beta) - cubic).abs() < 0.02 + 1e-3, "β {beta}: {} and {cubic}", omega(beta));
        }
        assert!((omega(1.0) - 2.858).abs() < 5e-4, "{}", omega(1.0));
    }

    #[test]
    fn what_exceeds_the_threshold_is_kept() {
        let spectrum = Spectrum::complete(vec![9.0, 2.9, 2.8, 1.0, 1.0, 1.0, 1.0]).unwrap();
        let layer = LayerSpectrum::new("layer", Shape::new(7, 7).unwrap(), &spectrum);
        let choice = HardThreshold {}.select(&layer).unwrap();
        assert_eq!(choice.kept, Kept::Rank(Rank::new(2).unwrap()));
        assert_eq!(choice.because, "2 of 7 above the noise (2.86 medians)");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(
            [median(&[5.0]), median(&[5.0, 4.0]), median(&[5.0, 4.0, 1.0])].map(f64::to_bits),
            [5.0, 4.5, 4.0].map(f64::to_bits)
        );
    }

    #[test]
    fn a_part_of_the_spectrum_is_not_enough() {
        let spectrum = Spectrum::leading(vec![1.0], 2.0).unwrap();
        let layer = LayerSpectrum::new("block.q", Shape::new(3, 3).unwrap(), &spectrum);
        let error = HardThreshold {}.select(&layer).unwrap_err().to_string();
        assert!(error.starts_with("1 singular values are known and all 3 are needed"), "{error}");
    }
}
