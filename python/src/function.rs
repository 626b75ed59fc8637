//! A selector that is a Python function of the spectrum.

use std::sync::{Arc, Mutex, PoisonError};

use calabi::api::{Choice, LayerSpectrum, Rank, RankSelector, SelectError, Shape};
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};

use crate::spectrum::Spectrum;

/// The exception that a function raised, kept as the cause of the one that the call ends with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    fn keep(&self, error: PyErr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// The exception, with what was raised as its cause; what is no error (Ctrl-C) comes out as it is.
    pub(crate) fn cause(&self, py: Python<'_>, error: PyErr) -> PyErr {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(raised) if !raised.is_instance_of::<PyException>(py) => raised,
            Some(raised) => {
                error.set_cause(py, Some(raised));
                error
            }
            None => error,
        }
    }
}

/// A Python function of a spectrum that gives a rank, `None` for a layer that stays dense, or one of these and why.
#[derive(Debug)]
pub(crate) struct Function {
    call: Py<PyAny>,
    name: String,
    raised: Raised,
}

impl Function {
    /// This function; what it raises goes to `raised`.
    pub(crate) fn new(call: &Bound<'_, PyAny>, raised: &Raised) -> Self {
        let name = call.getattr("__name__").or_else(|_| call.get_type().getattr("__name__"));
        let name = name.and_then(|name| name.extract()).unwrap_or_else(|_| "a function".to_owned());
        Self { call: call.clone().unbind(), name, raised: raised.clone() }
    }

    fn called(&self, py: Python<'_>, layer: &LayerSpectrum<'_>) -> PyResult<Given> {
        let given = self.call.bind(py).call1((Spectrum::seen(layer),))?;
        let (rank, because) = match given.cast::<PyTuple>() {
            Ok(pair) => {
                let (rank, because): (Bound<'_, PyAny>, String) = pair.extract()?;
                (rank, because)
            }
            Err(_) => (given, format!("{} says so", self.name)),
        };
        if rank.is_none() {
            return Ok(Given { rank: None, because });
        }
        if rank.is_instance_of::<PyBool>() {
            return Err(PyTypeError::new_err(format!("a rank is a whole number or None, not {rank}")));
        }
        let rank = rank
            .extract()
            .map_err(|_| PyTypeError::new_err(format!("a rank is a whole number or None, not {}", shown(&rank))))?;
        Ok(Given { rank: Some(rank), because })
    }
}

/// What a function gave.
struct Given {
    rank: Option<i64>,
    because: String,
}

fn shown(value: &Bound<'_, PyAny>) -> String {
    value.repr().map_or_else(|_| "this".to_owned(), |text| text.to_string())
}

impl RankSelector for Function {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        let given = Python::attach(|py| {
            self.called(py, layer).map_err(|error| {
                let said = format!("the function {} failed: {error}", self.name);
                self.raised.keep(error);
                SelectError::new(said)
            })
        })?;
        match given.rank {
            None => Ok(Choice::dense(given.because)),
            Some(rank) => Ok(Choice::exactly(checked(&self.name, rank, layer.shape())?, given.because)),
        }
    }
}

fn checked(name: &str, rank: i64, shape: Shape) -> Result<Rank, SelectError> {
    let full = shape.full_rank();
    usize::try_from(rank).ok().and_then(Rank::new).filter(|&rank| rank <= full).ok_or_else(|| {
        SelectError::new(format!("the function {name} gave rank {rank}: the ranks of {shape} run from 1 to {full}"))
    })
}
