//! Rules and decomposers, as Python states them: a function, or settings as JSON.

use std::sync::Arc;

use calabi::api::{ConfigError, Decomposer, RankRule, RankSelector, registry};
use calabi::{Error, PipelineError, Source};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::errors::{of_run, of_settings};
use crate::function::{Function, Raised};

/// Settings in JSON, as a pipeline file would state them.
pub(crate) fn toml_of(json: &str) -> Result<String, ConfigError> {
    let refuse = |problem: String| ConfigError::new(format!("these settings cannot be written as TOML: {problem}"));
    let value: toml::Table = serde_json::from_str(json).map_err(|error| refuse(error.to_string()))?;
    toml::to_string(&value).map_err(|error| refuse(error.to_string()))
}

/// A rule: settings as JSON in a `str`, or a function of a spectrum.
pub(crate) fn rule(rule: &Bound<'_, PyAny>, raised: &Raised) -> PyResult<RankRule> {
    match rule.cast::<PyString>() {
        Ok(json) => parsed(rule.py(), &json.to_cow()?, calabi::parse_rule),
        Err(_) => Ok(RankRule::Selector(Box::new(Function::new(rule, raised)))),
    }
}

/// The same, of one matrix.
pub(crate) fn selector(given: &Bound<'_, PyAny>, raised: &Raised) -> PyResult<Box<dyn RankSelector>> {
    calabi::selector_of(rule(given, raised)?).map_err(|error| of_settings(given.py(), error))
}

/// A decomposer of these settings.
pub(crate) fn decomposer(py: Python<'_>, json: Option<&str>) -> PyResult<Arc<dyn Decomposer>> {
    parsed(py, json.unwrap_or(r#"{"kind": "faer"}"#), calabi::parse_decomposer)
}

/// A plugin of settings; an error shows the line that is wrong.
fn parsed<T>(py: Python<'_>, json: &str, parse: impl Fn(&str) -> Result<T, ConfigError>) -> PyResult<T> {
    let text = toml_of(json).map_err(|error| of_settings(py, error))?;
    parse(&text).map_err(|error| {
        let error = Box::new(Error::from(error));
        of_run(py, PipelineError { error, source: Some(Source { name: "the settings".to_owned(), text }) })
    })
}

/// Each plugin's noun, kind, summary, and settings: their name, what they accept, their default, what they mean.
#[pyfunction]
#[allow(clippy::type_complexity)] // a table
pub(crate) fn plugins(
    py: Python<'_>,
) -> PyResult<Vec<(&'static str, String, String, Vec<(String, String, Option<String>, String)>)>> {
    let entries = calabi::catalogue().map_err(|error| of_settings(py, error))?;
    let settings = |entry: calabi::PluginEntry| {
        let settings = entry.settings.into_iter().map(|s| (s.name, s.accepts, s.default, s.description)).collect();
        (entry.noun, entry.kind, entry.summary, settings)
    };
    Ok(entries.into_iter().map(settings).collect())
}

/// Whether rules of this kind share a budget among layers.
#[pyfunction]
pub(crate) fn shares_budget(kind: &str) -> bool {
    registry::find::<RankRule>(kind).is_ok_and(calabi::api::Plugin::shares_budget)
}

/// A rule that shares a budget.
pub(crate) fn allocator(given: &Bound<'_, PyAny>) -> PyResult<Box<dyn calabi::api::RankAllocator>> {
    match rule(given, &Raised::default())? {
        RankRule::Allocator(allocator) => Ok(allocator),
        RankRule::Selector(_) => {
            let sharing: Vec<_> = registry::all::<RankRule>()
                .map_err(|error| of_settings(given.py(), error))?
                .iter()
                .filter(|plugin| plugin.shares_budget())
                .map(|plugin| plugin.kind())
                .collect();
            let help = format!("those that share a budget are {}; `select` takes the others", sharing.join(", "));
            let error = ConfigError::new("this rule chooses layer by layer, and shares no budget").with_help(help);
            Err(of_settings(given.py(), error))
        }
    }
}
