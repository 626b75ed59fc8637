//! Rotary positions: frequencies as `rope_parameters` (or `rope_theta` and `rope_scaling`) scale them.
//!
//! Formulas are those of transformers' `modeling_rope_utils`. For a dimension pair `i` of `d / 2` the plain frequency is
//! `theta^(-2i/d)`.

use std::f64::consts::TAU;
use std::ops::Range;

use calabi_api::RunError;

use super::config::Keys;

/// The angle that a position adds to each pair of dimensions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rotary {
    /// Radians a position, one for each of `d / 2` pairs.
    pub(super) frequencies: Vec<f32>,
    /// What sines and cosines are multiplied by.
    pub(super) magnitude: f64,
}

impl Rotary {
    /// Frequencies without scaling, for heads of `dim` features.
    pub(super) fn plain(theta: f64, dim: usize) -> Self {
        Self::from_f64(&plain(theta, dim), 1.0)
    }

    /// Reads the scaling from `scaling`: `rope_type` (or `type`) with its parameters.
    pub(super) fn scaled(theta: f64, dim: usize, scaling: &Keys) -> Result<Self, RunError> {
        scaling.refuse_set(&["partial_rotary_factor"])?;
        let kind = match scaling.text("rope_type")? {
            Some(kind) => kind,
            None => scaling.text("type")?.unwrap_or("default"),
        };
        match kind {
            "default" => Ok(Self::plain(theta, dim)),
            "linear" => linear(theta, dim, scaling),
            "llama3" => llama3(theta, dim, scaling),
            "yarn" => yarn(theta, dim, scaling),
            other => {
                let problem =
                    format!("{} is not supported: default, linear, llama3 and yarn are", crate::text::shown(other));
                Err(scaling.refuse("rope_type", problem))
            }
        }
    }

    #[allow(clippy::cast_possible_truncation)] // frequencies are f32 in the models
    fn from_f64(frequencies: &[f64], magnitude: f64) -> Self {
        Self { frequencies: frequencies.iter().map(|&f| f as f32).collect(), magnitude }
    }

    /// Cosines and sines of these positions, each `positions × d / 2`.
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn table(&self, positions: Range<usize>) -> (Vec<f32>, Vec<f32>) {
        let angles = positions.flat_map(|t| self.frequencies.iter().map(move |f| f64::from(t as f32 * f)));
        angles.map(|a| ((a.cos() * self.magnitude) as f32, (a.sin() * self.magnitude) as f32)).unzip()
    }
}

fn plain(theta: f64, dim: usize) -> Vec<f64> {
    (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect()
}

fn linear(theta: f64, dim: usize, keys: &Keys) -> Result<Rotary, RunError> {
    let factor = keys.positive("factor")?;
    let frequencies: Vec<_> = plain(theta, dim).into_iter().map(|f| f / factor).collect();
    Ok(Rotary::from_f64(&frequencies, 1.0))
}

fn llama3(theta: f64, dim: usize, keys: &Keys) -> Result<Rotary, RunError> {
    let factor = keys.positive("factor")?;
    let (low, high) = (keys.positive("low_freq_factor")?, keys.positive("high_freq_factor")?);
    let original = keys.positive("original_max_position_embeddings")?;
    if high <= low {
        return Err(keys.refuse("high_freq_factor", "it is not above low_freq_factor"));
    }
    let scale = |f: f64| {
        let wavelength = TAU / f;
        let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - smooth) * f / factor + smooth * f
    };
    let frequencies: Vec<_> = plain(theta, dim).into_iter().map(scale).collect();
    Ok(Rotary::from_f64(&frequencies, 1.0))
}

/// `YaRN` (arXiv 2309.00071).
fn yarn(theta: f64, dim: usize, keys: &Keys) -> Result<Rotary, RunError> {
    if keys.number("mscale")?.is_some() || keys.number("mscale_all_dim")?.is_some() {
        return Err(keys.refuse("mscale", "it is not supported"));
    }
    let factor = keys.positive("factor")?;
    let original = keys.positive("original_max_position_embeddings")?;
    let fast = keys.number("beta_fast")?.unwrap_or(32.0);
    let slow = keys.number("beta_slow")?.unwrap_or(1.0);
    let magnitude = keys.number("attention_factor")?;
    let magnitude = magnitude.unwrap_or_else(|| if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 });
    let pair_of = |turns: f64| dim as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
    let whole = keys.flag("truncate")?.unwrap_or(true);
    let (low, high) =
        if whole { (pair_of(fast).floor(), pair_of(slow).ceil()) } else { (pair_of(fast), pair_of(slow)) };
    let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    let width = if (high - low).abs() < f64::EPSILON { 1e-3 } else { high - low };
    let scale = |(i, f): (usize, f64)| {
        let interpolated = ((i as f64 - low) / width).clamp(0.0, 1.0);
        f / factor * interpolated + f * (1.0 - interpolated)
    };
    let frequencies: Vec<_> = plain(theta, dim).into_iter().enumerate().map(scale).collect();
    Ok(Rotary::from_f64(&frequencies, magnitude))
}
