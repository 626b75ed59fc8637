//! Matrices by themselves: spectra, ranks, factors.

use std::num::NonZeroUsize;

use calabi::api::ndarray::Array1;
use calabi::api::{Choice, Kept, Rank, Statistics};
use calabi::{Error, Factorized, InputMetric, Matrix, allocate_ranks, choose_rank};
use numpy::{PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::arrays::{Weight, matrix, vector, view};
use crate::errors::{exception, of_matrix};
use crate::function::Raised;
use crate::rules::{allocator, decomposer, selector};
use crate::spectrum::Spectrum;
use crate::work::away;

/// How a matrix is taken apart.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct How<'py> {
    name: String,
    /// Settings as JSON.
    decomposer: Option<String>,
    threads: Option<usize>,
    metric: Option<Metric<'py>>,
}

/// What flows into a matrix.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Metric<'py> {
    gram: PyReadonlyArray2<'py, f64>,
    mean: PyReadonlyArray1<'py, f64>,
    tokens: u64,
    objective: String,
    bias: String,
    shrinkage: Option<f64>,
}

/// The rank or none, and why.
type Chosen = (Option<usize>, String);
/// Left and right factor, and what the bias gains.
type Factors<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>, Option<Bound<'py, PyArray1<f32>>>);
/// What was chosen, the factors, the spectrum, the predicted and the measured error, a remark.
type Made<'py> = (Chosen, Option<Factors<'py>>, Spectrum, f64, f64, Option<String>);
/// `U`, singular values, `Vᵀ`.
type Svd<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f32>>);

/// Singular values and leading singular vectors.
#[pyfunction]
pub(crate) fn decompose<'py>(
    py: Python<'py>,
    weight: Weight<'py>,
    rank: Option<usize>,
    how: How<'py>,
) -> PyResult<Svd<'py>> {
    let given = prepared(py, &weight, &how)?;
    let full = given.shape().full_rank();
    let rank = rank.map_or(Ok(full), |rank| Rank::new(rank).filter(|&rank| rank <= full).ok_or(rank));
    let rank = rank.map_err(|rank| {
        let text = format!("rank {rank} is none of a matrix of {}: they run from 1 to {full}", given.shape());
        exception(py, "ConfigError", &text, None)
    })?;
    let (spectrum, vectors) = calculated(py, &how, || given.vectors(rank))?;
    let Some(v) = vectors.v else {
        let text = "this decomposer gives vectors of one side alone: take the matrix's own, `faer`";
        return Err(exception(py, "ConfigError", text, None));
    };
    let values: Array1<f64> = spectrum.values().iter().copied().take(rank.get()).collect();
    Ok((matrix(py, vectors.u), vector(py, values), matrix(py, v.reversed_axes())))
}

/// What every rank loses.
#[pyfunction]
pub(crate) fn spectrum<'py>(py: Python<'py>, weight: Weight<'py>, how: How<'py>) -> PyResult<Spectrum> {
    let given = prepared(py, &weight, &how)?;
    let values = calculated(py, &how, || given.spectrum())?;
    Ok(Spectrum::of(&how.name, given.shape(), values))
}

/// The best factors at the rank that a rule chooses.
#[pyfunction]
pub(crate) fn factorize<'py>(
    py: Python<'py>,
    weight: Weight<'py>,
    rank: Bound<'py, PyAny>,
    rounding: (NonZeroUsize, bool),
    how: How<'py>,
) -> PyResult<Made<'py>> {
    let raised = Raised::default();
    let selector = selector(&rank, &raised)?;
    let given = prepared(py, &weight, &how)?.with_rounding(rounding.0, rounding.1);
    let shape = given.shape();
    let made = calculated(py, &how, || given.factorize(&*selector)).map_err(|error| raised.cause(py, error))?;
    let Factorized { choice, factors, spectrum, predicted_error, measured_error, remark } = made;
    let factors = factors.map(|factors| {
        let bias = factors.bias.map(|bias| vector(py, bias));
        (matrix(py, factors.left), matrix(py, factors.right), bias)
    });
    let spectrum = Spectrum::of(&how.name, shape, spectrum);
    Ok((chosen(choice), factors, spectrum, predicted_error, measured_error, remark))
}

/// The rank that a rule chooses for a spectrum.
#[pyfunction]
pub(crate) fn select(
    py: Python<'_>,
    spectrum: &Bound<'_, Spectrum>,
    rule: Bound<'_, PyAny>,
    rounding: (NonZeroUsize, bool),
) -> PyResult<Chosen> {
    let raised = Raised::default();
    let selector = selector(&rule, &raised)?;
    let (_, shape, values) = spectrum.get().parts();
    let choice = choose_rank(&*selector, (shape, values), rounding);
    choice.map(chosen).map_err(|error| raised.cause(py, of_matrix(py, error)))
}

/// The ranks that layers get which share a budget.
#[pyfunction]
pub(crate) fn allocate(
    py: Python<'_>,
    spectra: Vec<Bound<'_, Spectrum>>,
    rule: Bound<'_, PyAny>,
    rounding: (NonZeroUsize, bool),
) -> PyResult<Vec<Chosen>> {
    let allocator = allocator(&rule)?;
    let layers: Vec<_> = spectra.iter().map(|spectrum| spectrum.get().parts()).collect();
    let choices = away(py, || (), || allocate_ranks(&*allocator, &layers, rounding))?;
    let choices = choices.map_err(|error| of_matrix(py, error))?;
    Ok(choices.into_iter().map(chosen).collect())
}

fn chosen(choice: Choice) -> Chosen {
    let rank = match choice.kept {
        Kept::Rank(rank) => Some(rank.get()),
        Kept::Dense => None,
    };
    (rank, choice.because.into_owned())
}

fn prepared<'a>(py: Python<'_>, weight: &'a Weight<'_>, how: &'a How<'_>) -> PyResult<Matrix<'a>> {
    let matrix = Matrix::new(view(weight)).map_err(|error| of_matrix(py, error))?.named(&how.name);
    let matrix = matrix.with_decomposer(decomposer(py, how.decomposer.as_deref())?);
    let Some(metric) = &how.metric else { return Ok(matrix) };
    let metric = metric.read(py)?;
    matrix.with_metric(metric).map_err(|error| of_matrix(py, error))
}

/// Calculates without the interpreter's lock, on as many threads as were asked for.
fn calculated<T: Send>(py: Python<'_>, how: &How<'_>, work: impl FnOnce() -> Result<T, Error> + Send) -> PyResult<T> {
    let threads = how.threads;
    let made = away(
        py,
        || (),
        move || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build()?;
            pool.install(work)
        },
    )?;
    made.map_err(|error| of_matrix(py, error))
}

impl Metric<'_> {
    fn read(&self, py: Python<'_>) -> PyResult<InputMetric> {
        let gram = self.gram.as_array().to_owned();
        let mean = self.mean.as_array().to_owned();
        let statistics = Statistics { gram, mean, tokens: self.tokens };
        let shrinkage = self.shrinkage.map(|share| serde_json::json!(share)).unwrap_or_default();
        Ok(InputMetric::of(statistics)
            .with_objective(named(py, "objective", self.objective.as_str().into())?)
            .with_bias(named(py, "bias", self.bias.as_str().into())?)
            .with_shrinkage(named(py, "shrinkage", shrinkage)?))
    }
}

/// A setting by its text.
fn named<T: serde::de::DeserializeOwned>(py: Python<'_>, what: &str, given: serde_json::Value) -> PyResult<T> {
    serde_json::from_value(given).map_err(|error| exception(py, "ConfigError", &format!("{what}: {error}"), None))
}
