//! Arrays of `NumPy` as matrices of the engine, and back.

use calabi::api::ndarray::{Array1, Array2, ArrayView2};
use numpy::{PyArray1, PyArray2, PyReadonlyArray2, ToPyArray};
use pyo3::prelude::*;

/// A weight: `calabi.arrays.matrix` made it `f32`, and contiguous.
pub(crate) type Weight<'py> = PyReadonlyArray2<'py, f32>;

/// The weight, where it lies.
pub(crate) fn view<'a>(weight: &'a Weight<'_>) -> ArrayView2<'a, f32> {
    weight.as_array()
}

/// A matrix, rows one after the other.
pub(crate) fn matrix(py: Python<'_>, values: Array2<f32>) -> Bound<'_, PyArray2<f32>> {
    if values.is_standard_layout() { PyArray2::from_owned_array(py, values) } else { values.to_pyarray(py) }
}

/// A vector.
pub(crate) fn vector<T: numpy::Element>(py: Python<'_>, values: Array1<T>) -> Bound<'_, PyArray1<T>> {
    PyArray1::from_owned_array(py, values)
}
