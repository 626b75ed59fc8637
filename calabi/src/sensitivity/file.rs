//! Sensitivities out of the report of an earlier run.

use std::collections::HashMap;
use std::path::Path;

use calabi_api::{ConfigError, Sensitivity};
use serde::Deserialize;

use crate::metric::{Bias, Objective};
use crate::{CalibrationSettings, Plan};

/// The part of a report that is read.
#[derive(Deserialize)]
struct Report {
    calibration: Option<Measured>,
    layers: Vec<Entry>,
}

/// What the losses were measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Measured {
    objective: Objective,
    bias: Bias,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    sensitivity: Option<Figures>,
}

#[derive(Deserialize)]
struct Figures {
    loss: f64,
    divergence: f64,
}

/// The sensitivities of a plan's layers; none where the report has none of a layer.
pub(super) fn read(
    path: &Path,
    plan: &Plan,
    settings: Option<&CalibrationSettings>,
) -> Result<Vec<Option<Sensitivity>>, ConfigError> {
    let refuse = |problem: String| {
        ConfigError::new(format!("{}: no sensitivities can be read: {problem}", path.display()))
            .with_help("it is the file that [report] json = \"...\" writes of a run with sensitivity = \"measured\"")
    };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let report: Report = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    let wanted = settings.map(|settings| Measured { objective: settings.objective, bias: settings.bias });
    if report.calibration != wanted {
        let (then, now) = (report.calibration, wanted);
        return Err(refuse(format!("losses were measured otherwise in that run: {then:?}, here {now:?}")));
    }
    let known: HashMap<_, _> = report.layers.into_iter().filter_map(|e| Some((e.name, e.sensitivity?))).collect();
    if known.is_empty() {
        return Err(refuse("the run did not measure any".to_owned()));
    }
    let of = |name: &str| -> Result<Option<Sensitivity>, ConfigError> {
        let Some(&Figures { loss, divergence }) = known.get(name) else { return Ok(None) };
        if loss.is_finite() && loss >= 0.0 && divergence.is_finite() {
            return Ok(Some(Sensitivity { loss, divergence }));
        }
        Err(refuse(format!("layer {}: loss {loss}, divergence {divergence}", calabi_api::Name::new(name))))
    };
    plan.layers.iter().map(|planned| of(&planned.layer.name)).collect()
}
