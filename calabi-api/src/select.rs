//! The contract of rank selectors: the rank of one layer, from its spectrum.

use std::error::Error;
use std::fmt::{self, Debug};

use ndarray::Array2;

use crate::{Choice, Needs, Rank, Sensitivity, Shape, Spectrum, Statistics};

/// Chooses the rank of one layer.
///
/// # Contract
/// - The same layer gives the same choice; the choice does not change when the weight is scaled.
/// - The rank lies between 1 and `min(m, n)`, and never above [`limit`](Self::limit).
///
/// `calabi_testing::selectors` checks it on spectra with known answers and on random ones.
pub trait RankSelector: Debug + Send + Sync {
    /// The rank of this layer and the rule that bound.
    ///
    /// # Errors
    /// Where the layer cannot be judged; the message says what would help.
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError>;

    /// The choice for every layer of this shape, where the spectrum does not matter: a plan then needs no weights.
    fn without_spectrum(&self, _shape: Shape) -> Option<Choice> {
        None
    }

    /// What it wants to see besides the spectrum: measured or loaded only if asked for.
    fn needs(&self) -> Needs {
        Needs::NONE
    }

    /// A rank that [`select`](Self::select) never exceeds, so that a partial decomposer may stop early.
    fn limit(&self, shape: Shape) -> Rank {
        shape.full_rank()
    }
}

/// What a selector sees of a layer.
#[derive(Clone, Copy)]
pub struct LayerSpectrum<'a> {
    name: &'a str,
    shape: Shape,
    spectrum: &'a Spectrum,
    weight: Option<&'a ReadWeight<'a>>,
    statistics: Option<&'a ReadStatistics<'a>>,
    sensitivity: Option<Sensitivity>,
}

/// Reads a layer's weight, `m × n`, when a selector asks for it.
pub type ReadWeight<'a> = dyn Fn() -> Result<Array2<f32>, SelectError> + Sync + 'a;

/// Reads the statistics of what flows into a layer, when a selector asks for them.
pub type ReadStatistics<'a> = dyn Fn() -> Result<Statistics, SelectError> + Sync + 'a;

impl<'a> LayerSpectrum<'a> {
    /// A layer of this name, shape and spectrum.
    #[must_use]
    pub fn new(name: &'a str, shape: Shape, spectrum: &'a Spectrum) -> Self {
        Self { name, shape, spectrum, weight: None, statistics: None, sensitivity: None }
    }

    /// The same layer, with a way to read its weight.
    #[must_use]
    pub fn with_weight(self, read: &'a ReadWeight<'a>) -> Self {
        Self { weight: Some(read), ..self }
    }

    /// The same layer, with a way to read the statistics of what flows into it.
    #[must_use]
    pub fn with_statistics(self, read: &'a ReadStatistics<'a>) -> Self {
        Self { statistics: Some(read), ..self }
    }

    /// The same layer, with what cutting it alone does to the model.
    #[must_use]
    pub fn with_sensitivity(self, sensitivity: Option<Sensitivity>) -> Self {
        Self { sensitivity, ..self }
    }

    /// The layer's name, as patterns match it.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The shape of its weight, `m × n`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its singular values.
    #[must_use]
    pub fn spectrum(&self) -> &'a Spectrum {
        self.spectrum
    }

    /// Reads the weight, `m × n`. It is dropped with the value: a model may not fit in memory.
    ///
    /// # Errors
    /// Where the weight cannot be read, or none stands behind this spectrum.
    pub fn weight(&self) -> Result<Array2<f32>, SelectError> {
        self.weight.map_or_else(|| Err(SelectError::new("no weight stands behind this spectrum")), |read| read())
    }

    /// Reads second moments of what flows into the layer: `n × n`. They are dropped with the value, as the weight is.
    ///
    /// # Errors
    /// Where the run has no calibration data, or the rule did not ask for them in [`needs`](RankSelector::needs).
    pub fn statistics(&self) -> Result<Statistics, SelectError> {
        let none = || Err(SelectError::new("there are no statistics of what flows into the layer: add [calibration]"));
        self.statistics.map_or_else(none, |read| read())
    }

    /// What cutting this layer alone does to the model; none where that was not measured.
    #[must_use]
    pub fn sensitivity(&self) -> Option<Sensitivity> {
        self.sensitivity
    }
}

impl Debug for LayerSpectrum<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerSpectrum").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// Why no rank could be chosen.
#[derive(Debug)]
pub struct SelectError {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SelectError {
    /// An error that says what is wrong and what would help.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// An error with the one that caused it.
    pub fn because(message: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { message: message.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for SelectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
