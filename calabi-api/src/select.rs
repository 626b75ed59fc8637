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
///
/// ```
/// use calabi_api::{Choice, Kept, LayerSpectrum, Needs, Rank, RankSelector, SelectError, Shape, Spectrum};
///
/// /// Keeps the singular values that are at least half as large as the largest, at most 64 of them.
/// #[derive(Debug)]
/// struct Large;
///
/// impl RankSelector for Large {
///     fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
///         let values = layer.spectrum().values();
///         let large = values.iter().filter(|&&value| value >= values[0] / 2.0).count();
///         let rank = Rank::clamped(large, layer.shape()).min(self.limit(layer.shape()));
///         Ok(Choice::at_least(rank, format!("{large} large values")))
///     }
///
///     fn limit(&self, shape: Shape) -> Rank {
///         Rank::clamped(64, shape)
///     }
/// }
///
/// let (shape, spectrum) = (Shape::new(5, 3).unwrap(), Spectrum::complete(vec![8.0, 4.0, 1.0])?);
/// let choice = Large.select(&LayerSpectrum::new("fc1", shape, &spectrum))?;
/// assert_eq!(choice.kept, Kept::Rank(Rank::new(2).unwrap()));
///
/// // By default the rule depends on the spectrum, and on nothing besides.
/// assert!(Large.without_spectrum(shape).is_none() && Large.needs() == Needs::NONE);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi_api::ndarray::{Array1, Array2, array};
/// use calabi_api::{LayerSpectrum, Sensitivity, Shape, Spectrum, Statistics};
///
/// let (shape, spectrum) = (Shape::new(2, 2).unwrap(), Spectrum::complete(vec![3.0, 1.0])?);
/// let weight = || Ok(array![[3.0, 0.0], [0.0, 1.0]]);
/// let statistics = || Ok(Statistics { gram: Array2::eye(2), mean: Array1::zeros(2), tokens: 64 });
/// let layer = LayerSpectrum::new("fc1", shape, &spectrum)
///     .with_weight(&weight)
///     .with_statistics(&statistics)
///     .with_sensitivity(Some(Sensitivity { loss: 1.0, divergence: 0.02 }));
///
/// assert_eq!((layer.name(), layer.shape(), layer.spectrum().values()), ("fc1", shape, &[3.0, 1.0][..]));
/// assert_eq!(layer.weight()?.dim(), (2, 2));
/// assert_eq!(layer.statistics()?.tokens, 64);
/// assert_eq!(layer.sensitivity().map(|measured| measured.divergence), Some(0.02));
///
/// // What was not given is an error that says so, or none.
/// let bare = LayerSpectrum::new("fc1", shape, &spectrum);
/// assert!(bare.weight().is_err() && bare.statistics().is_err() && bare.sensitivity().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi_api::{LayerSpectrum, ReadWeight, SelectError, Shape, Spectrum, ndarray::array};
/// use std::collections::HashMap;
///
/// let model = HashMap::from([("fc1", array![[3.0, 0.0], [0.0, 1.0]])]);
/// let read: &ReadWeight<'_> =
///     &|| model.get("fc1").cloned().ok_or_else(|| SelectError::new("the model has no such layer"));
///
/// let (shape, spectrum) = (Shape::new(2, 2).unwrap(), Spectrum::complete(vec![3.0, 1.0])?);
/// let layer = LayerSpectrum::new("fc1", shape, &spectrum).with_weight(read);
/// assert_eq!(layer.weight()?, model["fc1"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type ReadWeight<'a> = dyn Fn() -> Result<Array2<f32>, SelectError> + Sync + 'a;

/// Reads the statistics of what flows into a layer, when a selector asks for them.
///
/// ```
/// use calabi_api::ndarray::{Axis, array};
/// use calabi_api::{LayerSpectrum, ReadStatistics, Shape, Spectrum, Statistics};
///
/// let inputs = array![[1.0, 0.0], [1.0, 2.0]]; // what flowed in: two tokens of two features
/// let read: &ReadStatistics<'_> = &|| {
///     let tokens = inputs.nrows() as u64;
///     let gram = inputs.t().dot(&inputs) / tokens as f64;
///     Ok(Statistics { gram, mean: inputs.sum_axis(Axis(0)) / tokens as f64, tokens })
/// };
///
/// let (shape, spectrum) = (Shape::new(2, 2).unwrap(), Spectrum::complete(vec![3.0, 1.0])?);
/// let layer = LayerSpectrum::new("fc1", shape, &spectrum).with_statistics(read);
/// assert_eq!(layer.statistics()?.gram, array![[1.0, 1.0], [1.0, 2.0]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi_api::SelectError;
/// use std::error::Error;
///
/// let error = SelectError::new("the spectrum is cut short: take a decomposer that finds all values");
/// assert!(error.source().is_none());
///
/// let error = SelectError::because("the weight cannot be read", std::io::Error::other("the disk is gone"));
/// assert_eq!(error.to_string(), "the weight cannot be read");
/// assert_eq!(error.source().unwrap().to_string(), "the disk is gone");
/// ```
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
