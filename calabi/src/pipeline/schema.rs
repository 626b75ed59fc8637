//! A JSON schema of the whole pipeline file, from the same registrations that parse it.

use calabi_api::registry::{self, Registered};
use calabi_api::{ConfigError, Decomposer, Plugin, RankRule};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use super::calibration::{CalibrationSettings, RefineSection};
use super::finetune::FinetuneSettings;
use super::sections::{LayerSettings, ModelSettings, ReportSettings, SearchSettings, VerifySettings};
use crate::reference::flat_generator;

/// The JSON schema (draft 2020-12) of a pipeline file, with every plugin of this program.
///
/// ```
/// let schema = calabi::pipeline_schema()?;
/// assert_eq!(schema["required"][1], "rank");
/// assert!(schema["properties"]["verify"]["properties"]["max_kl"].is_object());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Where two plugins clash.
pub fn pipeline_schema() -> Result<Value, ConfigError> {
    let generator = &mut flat_generator();
    let rank = choice::<RankRule>(generator, |_| true)?;
    Ok(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "calabi pipeline",
        "type": "object",
        "properties": {
            "model": section::<ModelSettings>(generator),
            "layers": section::<LayerSettings>(generator),
            "decomposer": choice::<dyn Decomposer>(generator, |_| true)?,
            "rank": rank,
            "override": {
                "type": "array",
                "description": "Rules of their own for some layers; the last that matches wins.",
                "items": {
                    "type": "object",
                    "properties": {
                        "layers": {
                            "type": "array",
                            "items": { "type": "string" },
                            "minItems": 1,
                            "description": "Patterns over whole layer names.",
                        },
                        "rank": choice::<RankRule>(generator, |plugin| !plugin.shares_budget())?,
                    },
                    "required": ["layers", "rank"],
                    "additionalProperties": false,
                },
            },
            "calibration": section::<CalibrationSettings>(generator),
            "refine": section::<RefineSection>(generator),
            "finetune": section::<FinetuneSettings>(generator),
            "verify": section::<VerifySettings>(generator),
            "search": section::<SearchSettings>(generator),
            "report": section::<ReportSettings>(generator),
        },
        "required": ["model", "rank"],
        "additionalProperties": false,
    }))
}

fn section<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    T::json_schema(generator).to_value()
}

/// A table whose `kind` is one of the registry's.
fn choice<T: Registered + ?Sized>(
    generator: &mut SchemaGenerator,
    may_stand_here: fn(&Plugin<T>) -> bool,
) -> Result<Value, ConfigError> {
    let plugins = registry::all::<T>()?;
    let branches: Vec<Value> = plugins
        .into_iter()
        .filter(|plugin| may_stand_here(plugin))
        .map(|plugin| with_kind(plugin.schema(generator).to_value(), plugin.kind(), plugin.summary()))
        .collect();
    Ok(json!({ "type": "object", "required": ["kind"], "oneOf": branches }))
}

/// A plugin's own schema, with its `kind` among the properties.
fn with_kind(mut schema: Value, kind: &str, summary: &str) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    object.insert("description".to_owned(), summary.into());
    object.insert("additionalProperties".to_owned(), false.into());
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert("kind".to_owned(), json!({ "const": kind }));
    }
    let required = object.entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut() {
        required.insert(0, "kind".into());
    }
    schema
}
