//! The runtime that runs a model, found by looking at it.

use std::path::Path;

use calabi_api::{ConfigError, Runtime, Settings, registry};

/// The runtime of this program that runs a model; `purpose` is who asks, such as `[verify]`.
///
/// # Errors
/// Where there is none.
pub(crate) fn runtime_for(model: &Path, purpose: &str) -> Result<Box<dyn Runtime>, ConfigError> {
    let plugins = registry::all::<dyn Runtime>()?;
    if plugins.is_empty() {
        return Err(ConfigError::new(format!("{purpose} needs a runtime, and this program has none"))
            .with_help(format!("build it with the feature `runtimes`, or do without {purpose}")));
    }
    for plugin in &plugins {
        let runtime = plugin.build(Settings::empty())?;
        if runtime.detect(model) {
            return Ok(runtime);
        }
    }
    let kinds: Vec<_> = plugins.iter().map(|plugin| plugin.kind()).collect();
    let problem = format!("{purpose} cannot run {}", model.display());
    Err(ConfigError::new(problem)
        .with_help(format!("the runtimes of this program are {}: do without {purpose}", kinds.join(", "))))
}
