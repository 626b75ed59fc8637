//! What this crate registers, and how its settings look in a pipeline file.

use calabi_api::schemars::SchemaGenerator;
use calabi_api::toml::de::DeTable;
use calabi_api::{ConfigError, RankRule, Settings, registry};
use calabi_rank as _;

#[test]
fn the_kinds_are_these() {
    let kinds: Vec<_> = registry::all::<RankRule>().expect("no clash").iter().map(|plugin| plugin.kind()).collect();
    let known = [
        "budget",
        "combined",
        "effective-rank",
        "energy",
        "fixed",
        "fraction",
        "hard-threshold",
        "max-error",
        "spectral-gap",
    ];
    assert_eq!(kinds, known);
}

fn build(kind: &str, settings: &str) -> Result<Box<RankRule>, ConfigError> {
    let table = DeTable::parse(settings).expect("a table");
    registry::find::<RankRule>(kind)?.build(Settings::new(table))
}

#[test]
fn settings_are_parsed() {
    for (kind, settings) in [
        ("energy", "threshold = 0.95"),
        ("max-error", "epsilon = 0.1"),
        ("spectral-gap", ""),
        ("spectral-gap", "window = [0, 0.5]\ndeviations = 6\notherwise = 'largest'"),
        ("spectral-gap", "otherwise = { energy = 0.95 }"),
        ("combined", "energy = 0.9\nwindow = 0.2\ndeviations = 4"),
        ("fraction", "keep = 1"),
        ("fixed", "rank = 64"),
        ("hard-threshold", ""),
        ("effective-rank", ""),
        ("budget", "keep = 0.6"),
        ("budget", "keep = 0.6\nunit = 'bytes'\nof = 'model'\nfloor = 0"),
        ("budget", "keep = 0.6\nsensitivity = 'off'"),
        ("budget", "keep = 0.6\nsensitivity = 'measured'"),
        ("budget", "keep = 0.6\nsensitivity = 'file:of this model.toml'"),
    ] {
        build(kind, settings).unwrap_or_else(|error| panic!("{kind}: {settings}: {error}"));
    }
}

#[test]
fn wrong_settings_are_refused_where_they_stand() {
    for (kind, settings, wrong, message) in [
        ("energy", "threshold = 1.5", "1.5", "larger than 0 and at most 1"),
        ("energy", "treshold = 0.9", "treshold", "unknown field `treshold`"),
        ("max-error", "epsilon = 1.0", "1.0", "between 0 and 1"),
        ("spectral-gap", "window = [0.8, 0.2]", "[0.8, 0.2]", "is no window"),
        ("spectral-gap", "otherwise = 'sparse'", "'sparse'", "unknown variant `sparse`"),
        ("spectral-gap", "otherwise = { energy = 2 }", "{ energy = 2 }", "larger than 0 and at most 1"),
        ("fixed", "rank = 0", "0", "nonzero"),
        ("budget", "keep = 0.6\nunit = 'floats'", "'floats'", "unknown variant `floats`"),
        ("budget", "keep = 0.6\nsensitivity = 'on'", "'on'", "expected \"off\", \"measured\" or \"file:PATH\""),
        ("budget", "keep = 0.6\nsensitivity = 'file:'", "'file:'", "expected \"off\", \"measured\" or \"file:PATH\""),
        ("budget", "keep = 0.6\nsensitivity = true", "true", "expected \"off\", \"measured\" or \"file:PATH\""),
        ("hard-threshold", "noise = 1", "noise", "unknown field `noise`"),
    ] {
        let error = build(kind, settings).expect_err(settings);
        let place = error.span().map(|span| &settings[span]);
        assert!(error.message().contains(message), "{error}");
        assert_eq!(place, Some(wrong), "{error}");
    }
}

#[test]
fn every_setting_is_described() {
    for plugin in registry::all::<RankRule>().expect("no clash") {
        let schema = plugin.schema(&mut SchemaGenerator::default());
        assert!(schema.get("description").is_some(), "{}", plugin.kind());
        let settings = schema.get("properties").and_then(|properties| properties.as_object());
        for (name, setting) in settings.into_iter().flatten() {
            assert!(setting.get("description").is_some(), "{}: {name}", plugin.kind());
        }
    }
}

#[test]
fn defaults_are_shown() {
    let schema =
        |kind| registry::find::<RankRule>(kind).expect("known").schema(&mut SchemaGenerator::default()).to_value();
    let default = |kind, setting: &str| schema(kind)["properties"][setting]["default"].clone();
    assert_eq!(default("budget", "floor"), 0.4);
    assert_eq!(default("budget", "unit"), "parameters");
    assert_eq!(default("budget", "of"), "selected");
    assert_eq!(default("budget", "sensitivity"), "off");
    assert_eq!(default("combined", "window"), 0.1);
    assert_eq!(default("spectral-gap", "deviations"), 10.0);
    assert_eq!(default("spectral-gap", "otherwise"), "dense");
    assert_eq!(default("spectral-gap", "window").to_string(), "[0.05,0.8]");
}
