//! One matrix by itself, without a model: its spectrum, its rank, its best factors.

mod inputs;

use std::num::NonZeroUsize;
use std::sync::Arc;

use calabi_api::{
    Choice, ConfigError, DType, DecomposeError, Decomposer, Factors, Kept, Layer, LayerCost, LayerOptions,
    LayerSpectrum, Name, Rank, RankAllocator, RankSelector, Role, SelectError, Shape, Spectrum, Vectors, Wiring,
};
use ndarray::ArrayView2;

use crate::choose::{ask, options, settle};
use crate::made::Made;
use crate::metric::{Limits, Metric, Room};
use crate::parts::Parts;
use crate::{Error, LayerSettings};

pub use inputs::InputMetric;

/// A weight (`m × n`, outputs by inputs) that belongs to no model file.
///
/// ```
/// use calabi::{Matrix, api::Rank, rank::Fixed};
/// use calabi::api::ndarray::array;
///
/// let weight = array![[3.0_f32, 0.0, 0.0], [0.0, 2.0, 0.0]];
/// let matrix = Matrix::new(weight.view())?;
/// assert_eq!(matrix.spectrum()?.values(), [3.0, 2.0]);
/// let made = matrix.factorize(&Fixed { rank: Rank::ONE })?;
/// let factors = made.factors.ok_or("dense")?;
/// assert_eq!(factors.left.dot(&factors.right), array![[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]);
/// assert!((made.predicted_error - (4.0_f64 / 13.0).sqrt()).abs() < 1e-9);
/// assert!((made.predicted_error - made.measured_error).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Matrix<'a> {
    name: &'a str,
    weight: ArrayView2<'a, f32>,
    shape: Shape,
    decomposer: Arc<dyn Decomposer>,
    metric: Option<(Arc<Metric>, Arc<InputMetric>)>,
    settings: LayerSettings,
}

/// What became of a matrix.
#[derive(Debug, Clone)]
pub struct Factorized {
    /// The rank, or that it stays dense, and why.
    pub choice: Choice,
    /// The factors, with what the layer's bias gains; none where it stays dense.
    pub factors: Option<Factors>,
    /// What its ranks lose.
    pub spectrum: Spectrum,
    /// The relative error that the spectrum predicts, from 0 to 1; 0 where it stays dense.
    pub predicted_error: f64,
    /// The relative error of the factors.
    pub measured_error: f64,
    /// What the decomposer has to say.
    pub remark: Option<String>,
}

impl<'a> Matrix<'a> {
    /// A weight, taken apart by faer, in the Frobenius norm; every rank is taken as it is chosen.
    ///
    /// # Errors
    /// Where it has no entries.
    pub fn new(weight: ArrayView2<'a, f32>) -> Result<Self, Error> {
        let shape = Shape::of(weight).ok_or_else(|| Error::Decompose {
            layer: NAMELESS.to_owned(),
            source: DecomposeError::Empty { rows: weight.nrows(), cols: weight.ncols() },
        })?;
        Ok(Self {
            name: NAMELESS,
            weight,
            shape,
            decomposer: Arc::new(calabi_svd::Faer::default()),
            metric: None,
            settings: LayerSettings { multiple: NonZeroUsize::MIN, break_even: false, ..LayerSettings::default() },
        })
    }

    /// The same, under this name in messages.
    #[must_use]
    pub fn named(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    /// The same, taken apart by this decomposer.
    #[must_use]
    pub fn with_decomposer(self, decomposer: Arc<dyn Decomposer>) -> Self {
        Self { decomposer, ..self }
    }

    /// The same, its error measured in what flows into it, which other matrices may share.
    ///
    /// # Errors
    /// Where the statistics do not fit the weight.
    pub fn with_metric(self, metric: impl Into<Arc<InputMetric>>) -> Result<Self, Error> {
        let input = metric.into();
        Ok(Self { metric: Some((input.of_shape(self.shape)?, input)), ..self })
    }

    /// The same, with ranks rounded to multiples, and dense where its factors would not be smaller, if asked so.
    #[must_use]
    pub fn with_rounding(mut self, multiple: NonZeroUsize, break_even: bool) -> Self {
        (self.settings.multiple, self.settings.break_even) = (multiple, break_even);
        self
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What every rank loses.
    ///
    /// # Errors
    /// Where it is not finite, or its decomposition fails.
    pub fn spectrum(&self) -> Result<Spectrum, Error> {
        let room = Room::new();
        Ok(self.parts(self.shape.full_rank(), &room)?.spectrum().clone())
    }

    /// Singular values, and the leading `r` singular vectors of both sides; any metric is left out of it.
    ///
    /// # Errors
    /// As [`spectrum`](Self::spectrum).
    pub fn vectors(&self, r: Rank) -> Result<(Spectrum, Vectors), Error> {
        let parts = self.decomposer.svd(self.weight, r.min(self.shape.full_rank())).map_err(|e| self.failed(e))?;
        let vectors = parts.vectors(r).map_err(|e| self.failed(e))?;
        Ok((parts.spectrum().clone(), vectors))
    }

    /// The best factors at the rank that a selector chooses.
    ///
    /// # Errors
    /// As [`spectrum`](Self::spectrum), and where no rank can be chosen.
    pub fn factorize(&self, selector: &dyn RankSelector) -> Result<Factorized, Error> {
        let room = Room::new();
        let multiple = self.settings.multiple.get();
        let limit = Rank::clamped(selector.limit(self.shape).get().next_multiple_of(multiple), self.shape);
        let parts = self.parts(limit, &room)?;
        let spectrum = parts.spectrum().clone();
        let choice = self.choose(selector, &spectrum)?;
        let remark = parts.remark().map(str::to_owned);
        let Kept::Rank(rank) = choice.kept else {
            return Ok(Factorized {
                choice,
                factors: None,
                spectrum,
                predicted_error: 0.0,
                measured_error: 0.0,
                remark,
            });
        };
        let basis = parts.basis(rank).map_err(|e| self.failed(e))?;
        let made = Made::unrounded(self.weight, basis, self.metric()).map_err(|e| self.failed(e))?;
        let (predicted_error, measured_error) = (
            spectrum.relative_error(rank.get()),
            made.measured_error(spectrum.energy(), &room).map_err(|e| self.failed(e))?,
        );
        Ok(Factorized { choice, factors: Some(made.factors), spectrum, predicted_error, measured_error, remark })
    }

    fn choose(&self, selector: &dyn RankSelector, spectrum: &Spectrum) -> Result<Choice, Error> {
        let weight = || Ok(self.weight.to_owned());
        let none = || SelectError::new("there are no statistics of what flows into the matrix: give a metric");
        let statistics = || self.metric.as_ref().map(|(_, input)| input.statistics()).ok_or_else(none);
        let seen =
            LayerSpectrum::new(self.name, self.shape, spectrum).with_weight(&weight).with_statistics(&statistics);
        chosen(selector, &seen, &self.settings)
    }

    fn parts<'p>(&'p self, limit: Rank, room: &'p Room) -> Result<Parts<'p>, Error> {
        let limits = Limits { kept: limit, known: limit };
        Parts::of(self.weight, self.metric(), &*self.decomposer, limits, room).map_err(|e| self.failed(e))
    }

    fn metric(&self) -> Option<&Metric> {
        self.metric.as_ref().map(|(metric, _)| &**metric)
    }

    fn failed(&self, source: DecomposeError) -> Error {
        Error::Decompose { layer: Name::new(self.name).to_string(), source }
    }
}

/// What a matrix without a name is called.
const NAMELESS: &str = "matrix";

/// The rank that a selector chooses for a spectrum, or that it stays dense: rounded to a multiple, and dense where factors would not
/// be smaller and `break_even` says so.
///
/// ```
/// use calabi::api::{Kept, Shape, Spectrum, settings::Fraction};
/// use calabi::{choose_rank, rank::Energy};
///
/// let spectrum = Spectrum::complete(vec![3.0, 1.0, 0.1])?;
/// let most = Energy { threshold: Fraction::new(0.85).ok_or("not a share")? };
/// let shape = Shape::new(3, 3).ok_or("empty")?;
/// let choice = choose_rank(&most, (shape, &spectrum), (1.try_into()?, false))?;
/// assert!(matches!(choice.kept, Kept::Rank(rank) if rank.get() == 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where no rank can be chosen.
pub fn choose_rank(
    selector: &dyn RankSelector,
    (shape, spectrum): (Shape, &Spectrum),
    (multiple, break_even): (NonZeroUsize, bool),
) -> Result<Choice, Error> {
    let settings = LayerSettings { multiple, break_even, ..LayerSettings::default() };
    chosen(selector, &LayerSpectrum::new(NAMELESS, shape, spectrum), &settings)
}

/// The ranks that an allocator gives layers of these names, shapes and spectra, which share a budget.
///
/// ```
/// use calabi::api::{Kept, Shape, Spectrum, settings::Fraction};
/// use calabi::{allocate_ranks, rank::Budget};
///
/// let shape = Shape::new(8, 8).ok_or("empty")?;
/// let steep = Spectrum::complete(vec![9.0, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3])?;
/// let flat = Spectrum::complete(vec![1.0; 8])?;
/// let budget = Budget::new(Fraction::new(0.7).ok_or("not a share")?);
/// let choices = allocate_ranks(&budget, &[("a", shape, &steep), ("b", shape, &flat)], (1.try_into()?, true))?;
/// assert!(matches!(choices[0].kept, Kept::Rank(_)) && choices[1].kept == Kept::Dense);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where the budget cannot be met.
pub fn allocate_ranks(
    allocator: &dyn RankAllocator,
    layers: &[(&str, Shape, &Spectrum)],
    (multiple, break_even): (NonZeroUsize, bool),
) -> Result<Vec<Choice>, Error> {
    let settings = LayerSettings { multiple, break_even, ..LayerSettings::default() };
    let seen = layers.iter().map(|&(name, shape, spectrum)| {
        let layer = bare(name, shape);
        let ranks = options(&layer, &settings, spectrum.known());
        LayerOptions { spectrum: LayerSpectrum::new(name, shape, spectrum), cost: layer.cost, ranks }
    });
    let none = calabi_api::Cost::default();
    ask(allocator, seen.collect(), none, (none, none)).map_err(|source| Error::Select {
        layer: None,
        source,
        span: None,
    })
}

fn chosen(selector: &dyn RankSelector, seen: &LayerSpectrum<'_>, settings: &LayerSettings) -> Result<Choice, Error> {
    let layer = bare(seen.name(), seen.shape());
    let choice = selector.select(seen).and_then(|choice| settle(choice, &layer, settings));
    choice.map_err(|source| Error::Select { layer: Some(Name::new(seen.name()).to_string()), source, span: None })
}

/// A layer of which only name and shape are known.
fn bare(name: &str, shape: Shape) -> Layer {
    Layer {
        name: name.to_owned(),
        shape,
        dtype: DType::F32,
        role: Role::Linear,
        cost: LayerCost::new(shape, DType::F32, DType::F32),
        wiring: Wiring::default(),
        bias: false,
        key: 0,
    }
}

/// A rule that shares a budget has nothing to share with a single matrix.
///
/// # Errors
/// Where the rule is an allocator.
pub fn selector_of(rule: calabi_api::RankRule) -> Result<Box<dyn RankSelector>, ConfigError> {
    match rule {
        calabi_api::RankRule::Selector(selector) => Ok(selector),
        calabi_api::RankRule::Allocator(_) => {
            Err(ConfigError::new("this rule shares a budget among layers, and here is one matrix")
                .with_help("name a rule that chooses layer by layer, such as `energy` or `fraction`"))
        }
    }
}
