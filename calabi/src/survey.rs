//! Plans layers from metadata: which ones take part, by name and shape, and which rule decides about each.

use calabi_api::{ConfigError, Layer, LayerSource, Name, Role, SensitivitySource};

use crate::choose::choose_by_shape;
use crate::metric::Objective;
use crate::metrics::brings_bias;
use crate::sensitivity::wanted;
use crate::{Decision, Error, Pattern, Pipeline, Plan, PlannedLayer, Rule, Sited};

/// The plan of a model before any weight is read.
pub(crate) fn survey(pipeline: &Pipeline, source: &dyn LayerSource) -> Result<Plan, Error> {
    check_patterns(pipeline, source)?;
    let layers = source
        .layers()
        .iter()
        .map(|layer| {
            let bias = brings_bias(pipeline, source, layer)?;
            let cost = source.cost(layer, &pipeline.model.write_options());
            let layer = &with_cost_of(bias, &Layer { cost, ..layer.clone() });
            let rule = rule(pipeline, &layer.name);
            let decision = match skipped(pipeline, layer) {
                Some(why) => Decision::Skipped { why },
                None => choose_by_shape(pipeline, rule, layer)?.map_or(Decision::Open, Decision::from),
            };
            Ok(PlannedLayer { decision, rule, bias, layer: layer.clone() })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Plan { layers, left_alone: source.left_alone().to_vec(), totals: source.totals() })
}

/// A layer with what a bias of its factors costs, where the model has no place for one.
fn with_cost_of(bias: bool, layer: &Layer) -> Layer {
    let mut layer = layer.clone();
    if bias && !layer.bias {
        layer.cost = layer.cost.with_bias(layer.shape.rows(), layer.dtype);
    }
    layer
}

fn skipped(pipeline: &Pipeline, layer: &Layer) -> Option<String> {
    let (settings, name, smaller_side) = (&pipeline.layers, &layer.name, layer.shape.full_rank().get());
    if !settings.include.iter().any(|pattern| pattern.matches(name)) {
        return Some("no pattern of include matches".to_owned());
    }
    if let Some(pattern) = settings.exclude.iter().find(|pattern| pattern.matches(name)) {
        return Some(format!("excluded by \"{}\"", pattern.value));
    }
    let least = settings.min_features.get();
    if smaller_side < least {
        return Some(format!("{smaller_side} features, fewer than min_features = {least}"));
    }
    if layer.role == Role::Embedding && !settings.embeddings {
        return Some("an embedding: `embeddings = true` lets it take part".to_owned());
    }
    let unseen = layer.wiring.unseen.as_deref().filter(|_| runs(pipeline))?;
    Some(format!("{unseen}: its inputs cannot be measured; without [calibration] it takes part"))
}

/// Whether layers are measured in a running model.
fn runs(pipeline: &Pipeline) -> bool {
    let measures = |objective| matches!(objective, Objective::Gram | Objective::Diagonal);
    let calibrated = pipeline.calibration.as_ref().is_some_and(|settings| measures(settings.objective));
    calibrated || wanted(pipeline) == SensitivitySource::Measured
}

/// The last override that matches wins.
fn rule(pipeline: &Pipeline, name: &str) -> Rule {
    pipeline
        .overrides
        .iter()
        .rposition(|o| o.layers.iter().any(|pattern| pattern.matches(name)))
        .map_or(Rule::Main, Rule::Override)
}

/// An include or an override that matches nothing is an error: it does not do what its author thinks.
fn check_patterns(pipeline: &Pipeline, source: &dyn LayerSource) -> Result<(), ConfigError> {
    let overrides = pipeline.overrides.iter().flat_map(|o| &o.layers);
    for pattern in pipeline.layers.include.iter().chain(overrides) {
        if !source.layers().iter().any(|layer| pattern.matches(&layer.name)) {
            return Err(matches_nothing(pattern, source));
        }
    }
    Ok(())
}

fn matches_nothing(pattern: &Sited<Pattern>, source: &dyn LayerSource) -> ConfigError {
    let alone = source.left_alone().iter().find(|matrix| pattern.matches(&matrix.name));
    let help = match (alone, source.layers().first()) {
        (Some(matrix), _) => format!("it matches {}, which is left alone: {}", Name::new(&matrix.name), matrix.why),
        (None, Some(layer)) => {
            format!(
                "a pattern matches whole names, such as {}; `calabi-cli inspect` prints them all",
                Name::new(&layer.name)
            )
        }
        (None, None) => "this model has no layer that can be factorized; `calabi-cli inspect` says why".to_owned(),
    };
    ConfigError::new(format!("\"{}\" matches no layer", pattern.value)).with_help(help).at(pattern.span.clone())
}
