//! What a rank rule wants to see besides spectra: measured or loaded only if it asks.

use std::path::PathBuf;

use ndarray::{Array1, Array2};

/// What a rank rule wants to see besides the spectrum and the weight, which every rule may read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// The statistics of what flows into a layer: [`LayerSpectrum::statistics`](crate::LayerSpectrum::statistics).
    pub statistics: bool,
    /// What cutting a layer alone does to the model: [`LayerSpectrum::sensitivity`](crate::LayerSpectrum::sensitivity).
    pub sensitivity: SensitivitySource,
}

impl Needs {
    /// The spectrum is enough.
    pub const NONE: Self = Self { statistics: false, sensitivity: SensitivitySource::Off };
}

/// Where sensitivities come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SensitivitySource {
    /// Nobody asks for them.
    #[default]
    Off,
    /// Measured on the calibration samples.
    Measured,
    /// Read from a file that an earlier run wrote. Relative to the pipeline file.
    File(PathBuf),
}

/// What cutting one layer alone does to the model's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sensitivity {
    /// The loss of the layer at the rank at which it was measured, in the units of
    /// [`Spectrum::loss`](crate::Spectrum::loss).
    pub loss: f64,
    /// What that did to the model: the Kullback-Leibler divergence of its logits in nats a token, or the relative square
    /// error of its outputs.
    pub divergence: f64,
}

impl Sensitivity {
    /// The divergence that this loss of the layer is estimated to cause: proportional to it.
    #[must_use]
    pub fn divergence_at(&self, loss: f64) -> f64 {
        if self.loss > 0.0 { self.divergence.max(0.0) * loss / self.loss } else { 0.0 }
    }
}

/// Second moments of what flows into a layer of `n` inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// `E[x xᵀ]`, `n × n`, uncentred.
    pub gram: Array2<f64>,
    /// `E[x]`.
    pub mean: Array1<f64>,
    /// Over so many tokens; padding does not count.
    pub tokens: u64,
}
