//! From TOML to a pipeline, in two phases: `kind` is taken out, the rest goes to the plugin's own `Deserialize`, so that
//! every error points at its place in the file.

use std::sync::Arc;

use calabi_api::registry::{self, Registered};
use calabi_api::{ConfigError, Decomposer, LayerFormat, RankRule, RankSelector, Settings};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{LayerSettings, Override, Pipeline, ReportSettings};
use crate::metric::Objective;
use crate::{Pattern, Sited, search};

/// The sections of a pipeline file.
pub(super) const SECTIONS: [&str; 11] = [
    "model",
    "layers",
    "calibration",
    "decomposer",
    "rank",
    "override",
    "refine",
    "finetune",
    "verify",
    "search",
    "report",
];

/// Parses a pipeline file. Paths stay as they are written.
pub(super) fn pipeline(text: &str) -> Result<Pipeline, ConfigError> {
    let mut root = DeTable::parse(text)?.into_inner();
    if let Some(unknown) = root.keys().find(|key| !SECTIONS.contains(&key.get_ref().as_ref())) {
        let name = unknown.get_ref();
        let error = ConfigError::new(format!("unknown section `{name}`")).with_known(name, &SECTIONS);
        return Err(error.at(unknown.span()));
    }
    let mut section = |name: &str| root.remove(name);
    let model = settings("model", section("model").ok_or_else(|| missing("model", "names the input and the output"))?)?;
    let layers =
        section("layers").map(|value| settings("layers", value)).transpose()?.unwrap_or_else(LayerSettings::default);
    let decomposer = match section("decomposer") {
        Some(value) => Arc::from(plugin_box::<dyn Decomposer>(value)?.value),
        None => Arc::new(calabi_svd::Faer::default()) as Arc<dyn Decomposer>,
    };
    let rank = section("rank").ok_or_else(|| missing("rank", "says how ranks are chosen"))?;
    let rank = plugin_box::<RankRule>(rank)?;
    let overrides = section("override").map(overrides).transpose()?.unwrap_or_default();
    let calibration = section("calibration").map(|value| sited_settings("calibration", value)).transpose()?;
    let refine = section("refine").map(|value| sited_settings("refine", value)).transpose()?;
    let finetune = section("finetune").map(|value| sited_settings("finetune", value)).transpose()?;
    let verify = section("verify").map(|value| sited_settings("verify", value)).transpose()?;
    let search = section("search").map(|value| sited_settings("search", value)).transpose()?;
    let report =
        section("report").map(|value| settings("report", value)).transpose()?.unwrap_or_else(ReportSettings::default);
    let pipeline = Pipeline {
        model,
        layers,
        decomposer,
        rank: Sited { value: *rank.value, span: rank.span },
        overrides,
        calibration,
        refine,
        finetune,
        verify,
        search,
        report,
        base: std::path::PathBuf::new(),
        source: None,
    };
    check(&pipeline)?;
    Ok(pipeline)
}

/// A rank rule of the settings that would stand in `[rank]`, `kind` among them.
///
/// ```
/// use calabi::{api::RankRule, parse_rule};
///
/// assert!(matches!(parse_rule("kind = 'energy'\nthreshold = 0.95")?, RankRule::Selector(_)));
/// assert!(parse_rule("kind = 'energy'\nthreshold = 95").is_err());
/// # Ok::<(), calabi::api::ConfigError>(())
/// ```
///
/// # Errors
/// Where no rule has that kind, or its settings are wrong.
pub fn parse_rule(text: &str) -> Result<RankRule, ConfigError> {
    plugin_text(text).map(|rule| *rule)
}

/// A decomposer of the settings that would stand in `[decomposer]`, `kind` among them.
///
/// ```
/// assert!(calabi::parse_decomposer("kind = 'faer'").is_ok());
/// let unknown = calabi::parse_decomposer("kind = 'fear'").unwrap_err();
/// assert!(unknown.help().is_some_and(|help| help.contains("did you mean `faer`?")));
/// ```
///
/// # Errors
/// Where no decomposer has that kind, or its settings are wrong.
pub fn parse_decomposer(text: &str) -> Result<Arc<dyn Decomposer>, ConfigError> {
    plugin_text(text).map(Arc::from)
}

fn plugin_text<T: Registered + ?Sized>(text: &str) -> Result<Box<T>, ConfigError> {
    let table = DeTable::parse(text)?;
    let value = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    plugin_box::<T>(value).map(|found| found.value)
}

/// What no section can see alone.
fn check(pipeline: &Pipeline) -> Result<(), ConfigError> {
    if let Some(format) = &pipeline.model.format {
        registry::find::<dyn LayerFormat>(format).map_err(|error| error.at(format.span.clone()))?;
    }
    check_calibration(pipeline)?;
    if let Some(verify) = &pipeline.verify {
        verify.check().map_err(|error| error.at(verify.span.clone()))?;
        if let Some(data) = verify.data.as_ref().filter(|data| data.as_os_str().is_empty()) {
            return Err(ConfigError::new("`data` is empty").at(data.span.clone()));
        }
    }
    search::check(pipeline)
}

/// Settings of `[calibration]` and `[refine]` that contradict each other.
fn check_calibration(pipeline: &Pipeline) -> Result<(), ConfigError> {
    let sequential = pipeline.calibration.as_ref().filter(|settings| settings.sequential);
    if let Some(refine) = pipeline.refine.as_ref().filter(|_| sequential.is_none()) {
        return Err(ConfigError::new("[refine] tunes the blocks that `sequential` goes through, and that is not on")
            .with_help("write [calibration] sequential = true")
            .at(refine.span.clone()));
    }
    if let Some(settings) = sequential.filter(|settings| settings.objective != Objective::Gram) {
        return Err(ConfigError::new("`sequential` fits layers to the Gram matrices of their inputs")
            .with_help("write objective = \"gram\", or leave `sequential` out")
            .at(settings.span.clone()));
    }
    Ok(())
}

fn missing(section: &str, purpose: &str) -> ConfigError {
    ConfigError::new(format!("the section [{section}] is missing: it {purpose}"))
        .with_help("`calabi-cli init MODEL` writes a whole pipeline; `calabi-cli plugins` lists what can stand in it")
}

/// Parses a section that belongs to no plugin.
fn settings<T: DeserializeOwned>(name: &str, value: Spanned<DeValue<'_>>) -> Result<T, ConfigError> {
    let section = table(value).map_err(|error| error.with_help(format!("write [{name}] and its settings below")))?;
    Settings::new(section).parse().map_err(|error| with_reference(error, name))
}

fn sited_settings<T: DeserializeOwned>(name: &str, value: Spanned<DeValue<'_>>) -> Result<Sited<T>, ConfigError> {
    let span = Some(value.span());
    Ok(Sited { value: settings(name, value)?, span })
}

fn table(value: Spanned<DeValue<'_>>) -> Result<Spanned<DeTable<'_>>, ConfigError> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Ok(Spanned::new(span, table)),
        other => {
            Err(ConfigError::new(format!("expected a section, found a value of type {}", other.type_str())).at(span))
        }
    }
}

/// Builds the plugin that a section names by its `kind`.
fn plugin_box<T: Registered + ?Sized>(value: Spanned<DeValue<'_>>) -> Result<Sited<Box<T>>, ConfigError> {
    let section = table(value)
        .map_err(|error| error.with_help("write a section with a `kind`, such as [rank] kind = \"energy\""))?;
    let span = section.span();
    let mut section = section.into_inner();
    let Some(kind) = section.remove("kind") else {
        let kinds: Vec<_> = registry::all::<T>()?.iter().map(|plugin| plugin.kind()).collect();
        return Err(ConfigError::new(format!("the {} has no `kind`", T::NOUN))
            .with_help(format!("known are {}", kinds.join(", ")))
            .at(span));
    };
    let kind_span = kind.span();
    let Some(kind) = kind.get_ref().as_str() else {
        return Err(ConfigError::new("`kind` must be a text, such as \"energy\"").at(kind_span));
    };
    let plugin = registry::find::<T>(kind).map_err(|error| error.at(kind_span.clone()))?;
    let settings = Settings::new(Spanned::new(span.clone(), section));
    let value = plugin.build(settings).map_err(|error| with_reference(error, kind).at(kind_span))?;
    Ok(Sited { value, span: Some(span) })
}

/// Points at the list of a plugin's settings where the error has no better way out.
fn with_reference(error: ConfigError, kind: &str) -> ConfigError {
    if error.help().is_some() {
        error
    } else {
        error.with_help(format!("`calabi-cli plugins {kind}` lists its settings"))
    }
}

fn overrides(value: Spanned<DeValue<'_>>) -> Result<Vec<Override>, ConfigError> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Array(items) => items.into_iter().map(one_override).collect(),
        _ => Err(ConfigError::new("`override` is a list of sections").with_help("write [[override]]").at(span)),
    }
}

fn one_override(value: Spanned<DeValue<'_>>) -> Result<Override, ConfigError> {
    /// What is left of an override once its rule is taken out.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rest {
        layers: Vec<Sited<Pattern>>,
    }
    let section = table(value)?;
    let span = section.span();
    let mut section = section.into_inner();
    let rank = section.remove("rank").ok_or_else(|| {
        ConfigError::new("the override has no `rank`")
            .with_help("write rank = { kind = \"fixed\", rank = 64 }")
            .at(span.clone())
    })?;
    let rank = selector(plugin_box::<RankRule>(rank)?)?;
    let rest: Rest = Settings::new(Spanned::new(span.clone(), section)).parse()?;
    if rest.layers.is_empty() {
        return Err(ConfigError::new("the override names no layers").at(span));
    }
    Ok(Override { layers: rest.layers, rank })
}

fn selector(rule: Sited<Box<RankRule>>) -> Result<Sited<Box<dyn RankSelector>>, ConfigError> {
    match *rule.value {
        RankRule::Selector(selector) => Ok(Sited { value: selector, span: rule.span }),
        RankRule::Allocator(_) => {
            Err(ConfigError::new("an override chooses layer by layer, and this rule shares a budget")
                .with_help("name a selector here, and the allocator in [rank]")
                .at(rule.span))
        }
    }
}
