//! What every rank of a layer loses, as Python sees it.

use calabi::api::{self, LayerSpectrum, Shape};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;

use crate::errors::exception;

/// Singular values of a matrix, largest first, and what every rank loses.
#[pyclass(frozen, module = "calabi")]
#[derive(Debug)]
pub(crate) struct Spectrum {
    name: String,
    shape: Shape,
    values: api::Spectrum,
}

impl Spectrum {
    /// The spectrum of a matrix.
    pub(crate) fn of(name: &str, shape: Shape, values: api::Spectrum) -> Self {
        Self { name: name.to_owned(), shape, values }
    }

    /// What a selector sees of a layer.
    pub(crate) fn seen(layer: &LayerSpectrum<'_>) -> Self {
        Self::of(layer.name(), layer.shape(), layer.spectrum().clone())
    }

    /// Its name, its shape, its values.
    pub(crate) fn parts(&self) -> (&str, Shape, &api::Spectrum) {
        (&self.name, self.shape, &self.values)
    }
}

#[pymethods]
impl Spectrum {
    #[new]
    #[pyo3(signature = (values, shape = None, *, name = "matrix"))]
    fn new(py: Python<'_>, values: Vec<f64>, shape: Option<(usize, usize)>, name: &str) -> PyResult<Self> {
        let refuse = |text: &str| exception(py, "ConfigError", text, None);
        let (rows, cols) = shape.unwrap_or((values.len(), values.len()));
        let shape = Shape::new(rows, cols).ok_or_else(|| refuse("a spectrum needs one value at least"))?;
        let values = api::Spectrum::complete(values).map_err(|error| refuse(&error.to_string()))?;
        if !values.fits(shape) {
            let text = format!("{} singular values are not those of a matrix of {shape}", values.known());
            return Err(refuse(&text));
        }
        Ok(Self::of(name, shape, values))
    }

    /// A spectrum that was taken apart by `__reduce__`.
    #[staticmethod]
    fn _restored(
        py: Python<'_>,
        named: (String, (usize, usize), bool),
        values: Vec<f64>,
        losses: Vec<f64>,
        energy: f64,
    ) -> PyResult<Self> {
        let (name, shape, complete) = named;
        let own: f64 = values.iter().map(|v| v * v).sum();
        let made = if complete { api::Spectrum::complete(values) } else { api::Spectrum::leading(values, own) };
        let made = made.and_then(|made| made.with_losses(losses, energy));
        let refuse = |text: &str| exception(py, "ConfigError", text, None);
        let shape = Shape::new(shape.0, shape.1).ok_or_else(|| refuse("a spectrum needs one value at least"))?;
        Ok(Self { name, shape, values: made.map_err(|error| refuse(&error.to_string()))? })
    }

    #[allow(clippy::type_complexity)] // what `_restored` takes
    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, ((&str, (usize, usize), bool), Vec<f64>, Vec<f64>, f64))> {
        let restored = py.get_type::<Self>().getattr("_restored")?;
        let named = (&*self.name, self.shape(), self.values.is_complete());
        Ok((restored, (named, self.values.values().to_vec(), self.values.losses().to_vec(), self.values.energy())))
    }

    /// What messages call the matrix: in a run, the name of the layer.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Outputs by inputs.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.shape.rows(), self.shape.cols())
    }

    /// The singular values that are known.
    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_slice(py, self.values.values())
    }

    /// The squared error of each rank, from 0 on.
    #[getter]
    fn losses<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_slice(py, self.values.losses())
    }

    /// The sum of all squared singular values, also of those that are not known.
    #[getter]
    fn energy(&self) -> f64 {
        self.values.energy()
    }

    /// Whether every singular value is known.
    #[getter]
    fn is_complete(&self) -> bool {
        self.values.is_complete()
    }

    /// The smallest rank at which factors are not smaller than the matrix.
    #[getter]
    fn break_even(&self) -> usize {
        self.shape.break_even()
    }

    /// The relative error of the best approximation of this rank, from 0 to 1.
    fn relative_error(&self, rank: usize) -> f64 {
        self.values.relative_error(rank)
    }

    fn __len__(&self) -> usize {
        self.values.known()
    }

    #[pyo3(signature = (dtype = None, copy = None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if copy == Some(false) {
            return Err(pyo3::exceptions::PyValueError::new_err("the values of a spectrum are always copied"));
        }
        let values = self.values(py);
        match dtype {
            Some(dtype) => values.call_method1("astype", (dtype,)),
            None => Ok(values.as_untyped().clone().into_any()),
        }
    }

    fn __repr__(&self) -> String {
        let values = self.values.values();
        let ends = values
            .first()
            .zip(values.last())
            .map_or_else(String::new, |(first, last)| format!(", {first:.4} to {last:.4}"));
        format!("Spectrum({} of {}: {} values{ends})", self.name, self.shape, values.len())
    }
}
