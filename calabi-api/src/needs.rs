//! What a rank rule wants to see besides spectra: measured or loaded only if it asks.

use std::path::PathBuf;

use ndarray::{Array1, Array2};

/// What a rank rule wants to see besides the spectrum and the weight, which every rule may read.
///
/// ```
/// use calabi_api::{Needs, SensitivitySource};
///
/// let needs = Needs { statistics: true, ..Needs::NONE };
/// assert_eq!(needs.sensitivity, SensitivitySource::Off); // no sweep over the layers
/// assert_eq!(Needs::default(), Needs::NONE);
/// ```
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
///
/// ```
/// use std::path::PathBuf;
///
/// use calabi_api::{Needs, SensitivitySource};
///
/// /// What a rule needs that takes an optional `sensitivity = "report.json"`.
/// fn needs(file: Option<PathBuf>) -> Needs {
///     Needs { sensitivity: file.map_or(SensitivitySource::Measured, SensitivitySource::File), ..Needs::NONE }
/// }
///
/// assert_eq!(needs(None).sensitivity, SensitivitySource::Measured);
/// assert_eq!(needs(Some("report.json".into())).sensitivity, SensitivitySource::File("report.json".into()));
/// ```
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
///
/// ```
/// use calabi_api::{Sensitivity, Spectrum};
///
/// let spectrum = Spectrum::complete(vec![3.0, 2.0, 1.0])?;
/// let measured = Sensitivity { loss: spectrum.loss(1), divergence: 0.25 }; // at rank 1, which loses 5
/// assert_eq!(measured.divergence_at(spectrum.loss(2)), 0.05); // rank 2 loses 1
/// # Ok::<(), calabi_api::SpectrumError>(())
/// ```
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
///
/// ```
/// use calabi_api::Statistics;
/// use calabi_api::ndarray::{Axis, array};
///
/// let x = array![[1.0, 2.0], [3.0, 4.0]]; // two tokens of two features
/// let mean = x.mean_axis(Axis(0)).ok_or("no tokens")?;
/// let statistics = Statistics { gram: x.t().dot(&x) / 2.0, mean, tokens: 2 };
/// let w = array![1.0, -1.0]; // one output, which is -1 for both tokens
/// assert_eq!(w.dot(&statistics.mean), -1.0);
/// assert_eq!(w.dot(&statistics.gram).dot(&w), 1.0);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// `E[x xᵀ]`, `n × n`, uncentred.
    pub gram: Array2<f64>,
    /// `E[x]`.
    pub mean: Array1<f64>,
    /// Over so many tokens; padding does not count.
    pub tokens: u64,
}
