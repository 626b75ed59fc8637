//! Whole models: a pipeline, of a file or of settings as JSON, run to its report.

use std::path::PathBuf;

use calabi::api::{ConfigError, RankSelector};
use calabi::{Assignment, Pipeline, RunOptions};
use calabi_cli::{report_text, reported};
use pyo3::prelude::*;

use crate::errors::{of_failure, of_run, of_settings};
use crate::function::Raised;
use crate::observer::Watcher;
use crate::rules::{rule, selector, toml_of};
use crate::work::away;

/// What a run is told besides its pipeline.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Options {
    force: bool,
    work: Option<PathBuf>,
    memory: Option<String>,
    threads: Option<usize>,
    set: Vec<String>,
    progress: Option<Py<PyAny>>,
    /// Whether the layers that map hidden states to the vocabulary are left alone.
    spare_heads: bool,
    /// A rule in the place of the pipeline's.
    rank: Option<Py<PyAny>>,
    /// Functions in the place of the rules of the overrides, by their place in the list.
    overrides: Vec<(usize, Py<PyAny>)>,
}

/// Runs the pipeline of a file, or that of settings as JSON: whether its gates are met, the report as JSON and as the table that the
/// program prints.
#[pyfunction]
pub(crate) fn run(
    py: Python<'_>,
    file: Option<PathBuf>,
    json: Option<&str>,
    options: Options,
) -> PyResult<(bool, String, String)> {
    let raised = Raised::default();
    let pipeline = pipeline(py, file.as_ref(), json, &options, &raised)?;
    let run_options = run_options(py, file, &options)?;
    let watcher = Watcher::new(options.progress);
    let result = away(py, || watcher.cancel(), || reported(&pipeline, &run_options, &watcher))?;
    if let Some(error) = watcher.raised() {
        return Err(error);
    }
    let report = result.map_err(|failure| raised.cause(py, of_failure(py, failure)))?;
    let json = serde_json::to_string(&report).map_err(|error| {
        pyo3::exceptions::PyRuntimeError::new_err(format!("the report cannot be written as JSON: {error}"))
    })?;
    Ok((report.passed(), json, report_text(&report)))
}

/// The names of the layers of a model that can have factors.
#[pyfunction]
pub(crate) fn layers(py: Python<'_>, model: PathBuf) -> PyResult<Vec<String>> {
    let source = calabi::open_model(&model, None).map_err(|error| of_run(py, error.into()))?;
    Ok(source.layers().iter().map(|layer| layer.name.clone()).collect())
}

fn pipeline(
    py: Python<'_>,
    file: Option<&PathBuf>,
    json: Option<&str>,
    options: &Options,
    raised: &Raised,
) -> PyResult<Pipeline> {
    let changes: Result<Vec<_>, String> = options.set.iter().map(|change| change.parse::<Assignment>()).collect();
    let changes = changes.map_err(|problem| of_settings(py, ConfigError::new(problem)))?;
    let loaded = match (file, json) {
        (Some(file), _) => Pipeline::load(file, &changes),
        (None, json) => {
            let text = toml_of(json.unwrap_or("{}")).map_err(|error| of_settings(py, error))?;
            Pipeline::parse("the pipeline", &text, "".as_ref(), &changes)
        }
    };
    let mut pipeline = loaded.map_err(|error| of_run(py, error))?;
    if options.spare_heads {
        let heads = calabi::heads(&pipeline.model.input).map_err(|error| of_run(py, error.into()))?;
        pipeline.layers.exclude.extend(heads.into_iter().map(Into::into));
    }
    if let Some(given) = &options.rank {
        pipeline.rank = rule(given.bind(py), raised)?.into();
    }
    for (place, function) in &options.overrides {
        if let Some(changed) = pipeline.overrides.get_mut(*place) {
            let selector: Box<dyn RankSelector> = selector(function.bind(py), raised)?;
            changed.rank = selector.into();
        }
    }
    Ok(pipeline)
}

fn run_options(py: Python<'_>, file: Option<PathBuf>, options: &Options) -> PyResult<RunOptions> {
    let memory = options.memory.as_ref().map(|size| size.parse()).transpose();
    Ok(RunOptions {
        threads: options.threads,
        force: options.force,
        work: options.work.clone(),
        memory: memory.map_err(|problem| of_settings(py, ConfigError::new(problem)))?,
        reads: file.into_iter().collect(),
        ..RunOptions::default()
    })
}
