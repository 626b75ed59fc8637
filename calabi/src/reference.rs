//! Every plugin with its settings, read off the registry: what `calabi-cli plugins` and REFERENCE.md show.

use std::fmt::Write as _;

use calabi_api::registry::{self, Registered};
use calabi_api::{ConfigError, Decomposer, LayerFormat, RankRule, Runtime};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;

use crate::pipeline::{
    CalibrationSettings, FinetuneSettings, LayerSettings, ModelSettings, RefineSection, ReportSettings, SearchSettings,
    VerifySettings,
};

/// A plugin, or a section of the pipeline file, with its settings.
///
/// ```
/// let entries = calabi::catalogue()?;
/// let budget = entries.iter().find(|entry| entry.kind == "budget").ok_or("no such plugin")?;
/// assert_eq!((budget.noun, budget.missing), ("rank rule", None));
/// assert!(budget.settings.iter().any(|setting| setting.name == "keep"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct PluginEntry {
    /// Where it stands: "rank rule", "decomposer", "section".
    pub noun: &'static str,
    /// The kind, or the name of the section.
    pub kind: String,
    /// What it does, in a line.
    pub summary: String,
    /// The crate it comes from, with its version.
    pub origin: String,
    /// Why this program lacks it, and the way out.
    pub missing: Option<&'static str>,
    /// Its settings.
    pub settings: Vec<SettingEntry>,
}

/// A setting.
///
/// ```
/// let entries = calabi::catalogue()?;
/// let settings = entries.iter().filter(|entry| entry.kind == "budget").flat_map(|entry| &entry.settings);
/// let keep = settings.into_iter().find(|setting| setting.name == "keep").ok_or("no such setting")?;
/// assert_eq!((keep.accepts.as_str(), &keep.default), ("number, larger than 0, at most 1", &None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct SettingEntry {
    /// Its key.
    pub name: String,
    /// Its type and range: "number, larger than 0, at most 1".
    pub accepts: String,
    /// What it is without being set; none where it must be.
    pub default: Option<String>,
    /// What it means.
    pub description: String,
}

/// Every section and plugin of this program, by registry and kind.
///
/// ```
/// let kinds: Vec<String> = calabi::catalogue()?.into_iter().map(|entry| entry.kind).collect();
/// assert!(["verify", "energy", "faer", "safetensors"].iter().all(|kind| kinds.iter().any(|known| known == kind)));
/// # Ok::<(), calabi::api::ConfigError>(())
/// ```
///
/// # Errors
/// Where two plugins clash.
pub fn catalogue() -> Result<Vec<PluginEntry>, ConfigError> {
    let mut entries = sections();
    entries.extend(of_registry::<RankRule>()?);
    entries.extend(of_registry::<dyn Decomposer>()?);
    entries.extend(of_registry::<dyn LayerFormat>()?);
    entries.extend(of_registry::<dyn Runtime>()?);
    Ok(entries)
}

fn of_registry<T: Registered + ?Sized>() -> Result<Vec<PluginEntry>, ConfigError> {
    let mut generator = flat_generator();
    let plugins = registry::all::<T>()?;
    Ok(plugins
        .into_iter()
        .map(|plugin| PluginEntry {
            noun: T::NOUN,
            kind: plugin.kind().to_owned(),
            summary: plugin.summary().to_owned(),
            origin: plugin.origin().to_owned(),
            missing: plugin.missing(),
            settings: settings(plugin.schema(&mut generator).as_value()),
        })
        .collect())
}

/// The sections that belong to no plugin.
fn sections() -> Vec<PluginEntry> {
    fn entry<T: JsonSchema>(kind: &str) -> PluginEntry {
        let schema = T::json_schema(&mut flat_generator());
        let summary = text(schema.as_value(), "description").to_owned();
        let origin = concat!("calabi ", env!("CARGO_PKG_VERSION")).to_owned();
        let settings = settings(schema.as_value());
        PluginEntry { noun: "section", kind: kind.to_owned(), summary, origin, missing: None, settings }
    }
    vec![
        entry::<ModelSettings>("model"),
        entry::<LayerSettings>("layers"),
        entry::<CalibrationSettings>("calibration"),
        entry::<RefineSection>("refine"),
        entry::<FinetuneSettings>("finetune"),
        entry::<VerifySettings>("verify"),
        entry::<SearchSettings>("search"),
        entry::<ReportSettings>("report"),
    ]
}

/// Schemas without references: everything a setting accepts stands at the setting.
pub(crate) fn flat_generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator()
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn settings(schema: &Value) -> Vec<SettingEntry> {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(name, property)| SettingEntry {
            name: name.clone(),
            accepts: accepts(property),
            default: (!required.contains(&name.as_str())).then(|| match property.get("default") {
                None | Some(Value::Null) => "none".to_owned(),
                Some(default) => default.to_string(),
            }),
            description: text(property, "description").replace('\n', " "),
        })
        .collect()
}

/// What a setting accepts, in words.
fn accepts(schema: &Value) -> String {
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().filter(|v| !v.is_null()).map(Value::to_string).collect::<Vec<_>>().join(" or ");
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(choices) = schema.get(key).and_then(Value::as_array) {
            let words = choices.iter().filter(|c| text(c, "type") != "null").map(accepts);
            return words.collect::<Vec<_>>().join(" or ");
        }
    }
    let types = match schema.get("type") {
        Some(Value::String(one)) => one.clone(),
        Some(Value::Array(several)) => {
            several.iter().filter_map(Value::as_str).filter(|t| *t != "null").collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".to_owned(),
    };
    if types == "object" {
        let keys = settings(schema).into_iter().map(|setting| format!("{} = {}", setting.name, setting.accepts));
        return format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "));
    }
    if types == "array" {
        let items = schema.get("items").map_or_else(|| "anything".to_owned(), accepts);
        return format!("list of {items}");
    }
    format!("{types}{}", range(schema))
}

fn range(schema: &Value) -> String {
    let bounds = [
        ("exclusiveMinimum", "larger than"),
        ("minimum", "at least"),
        ("exclusiveMaximum", "smaller than"),
        ("maximum", "at most"),
    ];
    bounds.into_iter().filter_map(|(key, words)| Some(format!(", {words} {}", schema.get(key)?))).collect()
}

/// REFERENCE.md: every section and plugin with its settings.
///
/// ```
/// let page = calabi::reference()?;
/// assert!(page.starts_with("# Reference") && page.contains("### `budget`"));
/// # Ok::<(), calabi::api::ConfigError>(())
/// ```
///
/// # Errors
/// Where two plugins clash.
pub fn reference() -> Result<String, ConfigError> {
    let mut page = String::from(
        "# Reference\n\nEvery section and plugin of a pipeline file. Made from the registry (`just reference`), and a test \
         keeps it true.\n",
    );
    let mut noun = "";
    for entry in catalogue()? {
        if noun != entry.noun {
            noun = entry.noun;
            let _ = write!(page, "\n## {}\n", heading(noun));
        }
        write_entry(&mut page, &entry);
    }
    Ok(page)
}

fn heading(noun: &str) -> &'static str {
    match noun {
        "section" => "Sections",
        "rank rule" => "Rank rules: `[rank] kind`, and selectors in `[[override]] rank`",
        "decomposer" => "Decomposers: `[decomposer] kind`",
        "format" => "Formats: `[model] format`",
        _ => "Runtimes: what `[verify]` runs on",
    }
}

fn write_entry(page: &mut String, entry: &PluginEntry) {
    let _ = write!(page, "\n### `{}`\n\n{}\n", entry.kind, entry.summary.replace('\n', " "));
    if entry.settings.is_empty() {
        page.push_str("\nNo settings.\n");
        return;
    }
    page.push_str("\n| setting | accepts | default | |\n|---|---|---|---|\n");
    for setting in &entry.settings {
        let default = setting.default.as_deref().unwrap_or("must be set");
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            setting.name,
            setting.accepts.replace('|', "\\|"),
            default,
            setting.description.replace('|', "\\|")
        );
    }
}
