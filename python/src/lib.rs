//! calabi for Python: the extension module `calabi._engine`. The package around it is in `python/calabi`.

mod arrays;
mod errors;
mod function;
mod matrices;
mod observer;
mod pipelines;
mod rules;
mod spectrum;
mod work;

use std::ffi::OsString;

use pyo3::prelude::*;

/// The program `calabi-cli` on these arguments, the first of which is its name: its exit code.
#[pyfunction]
fn program(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| calabi_cli::exit_code(args))
}

#[pymodule]
mod _engine {
    #[pymodule_export]
    use super::matrices::{allocate, decompose, factorize, select, spectrum};
    #[pymodule_export]
    use super::pipelines::{layers, run};
    #[pymodule_export]
    use super::program;
    #[pymodule_export]
    use super::rules::{plugins, shares_budget};
    #[pymodule_export]
    use super::spectrum::Spectrum;

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
