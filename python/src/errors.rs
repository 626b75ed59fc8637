//! Errors of the engine as exceptions of `calabi.errors`, with the message that the program prints.

use calabi::api::ConfigError;
use calabi::{Error, PipelineError};
use calabi_cli::Failure;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// The exception for a matrix.
pub(crate) fn of_matrix(py: Python<'_>, error: Error) -> PyErr {
    match error {
        // A matrix is in no pipeline that could exclude it.
        Error::Decompose { layer, source } => {
            exception(py, "DecomposeError", &format!("{layer} cannot be decomposed: {source}"), None)
        }
        other => of_run(py, other.into()),
    }
}

/// The exception for a run.
pub(crate) fn of_run(py: Python<'_>, error: PipelineError) -> PyErr {
    let class = class(&error.error);
    let help = error.error.help().map(str::to_owned);
    exception(py, class, &Failure::from(error).explain(), help.as_deref())
}

/// The exception for settings.
pub(crate) fn of_settings(py: Python<'_>, error: ConfigError) -> PyErr {
    of_run(py, Error::from(error).into())
}

/// The exception for a failure of a command.
pub(crate) fn of_failure(py: Python<'_>, failure: Failure) -> PyErr {
    match failure {
        Failure::Engine(error) => of_run(py, *error),
        other => exception(py, "CalabiError", &other.explain(), None),
    }
}

fn class(error: &Error) -> &'static str {
    match error {
        Error::Decompose { .. } => "DecomposeError",
        Error::Select { .. } => "SelectError",
        error if error.refuses_input() => "InputError",
        error if error.refuses_settings() => "ConfigError",
        _ => "CalabiError",
    }
}

/// An exception of `calabi.errors`.
pub(crate) fn exception(py: Python<'_>, class: &str, text: &str, help: Option<&str>) -> PyErr {
    let made =
        py.import("calabi.errors").and_then(|errors| errors.getattr(class)).and_then(|class| class.call1((text, help)));
    match made {
        Ok(value) => PyErr::from_value(value),
        Err(error) => error,
    }
}

/// A panic of the engine: a defect of ours, which ends no interpreter.
pub(crate) fn of_panic(panic: &(dyn std::any::Any + Send)) -> PyErr {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    PyRuntimeError::new_err(format!("calabi panicked, a defect: {}", said.unwrap_or("without a message")))
}
