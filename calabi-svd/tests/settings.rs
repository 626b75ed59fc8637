//! Settings as the pipeline file holds them.

use calabi_api::toml::Spanned;
use calabi_api::toml::de::DeTable;
use calabi_api::{ConfigError, Decomposer, Settings, registry};
use calabi_svd as _;

fn built(kind: &str, settings: &str) -> Result<Box<dyn Decomposer>, ConfigError> {
    let table: Spanned<DeTable<'_>> = DeTable::parse(settings)?;
    registry::find::<dyn Decomposer>(kind)?.build(Settings::new(table))
}

#[test]
fn every_setting_has_a_default() {
    for kind in ["faer", "randomized"] {
        built(kind, "").unwrap();
    }
}

#[test]
fn settings_are_read() {
    assert!(format!("{:?}", built("faer", "accuracy = 'full'").unwrap()).contains("Full"));
    let randomized =
        built("randomized", "oversampling = 3\npower_steps = 2\nmax_steps = 9\ntolerance = 1e-3\nseed = 7");
    let text = format!("{:?}", randomized.unwrap());
    assert!(text.contains("oversampling: 3") && text.contains("seed: 7"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (kind, settings) in [
        ("faer", "accuracy = 'best'"),
        ("faer", "acuracy = 'full'"),
        ("randomized", "tolerance = 0"),
        ("randomized", "power_steps = 0"),
        ("randomized", "oversampling = -1"),
    ] {
        let error = built(kind, settings).unwrap_err();
        assert!(error.span().is_some(), "{kind} {settings}: {error}");
    }
}
