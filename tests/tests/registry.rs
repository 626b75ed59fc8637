//! The exact list of registered plugins, and plugins that are defined outside the workspace's own crates.

use std::path::Path;

use calabi::api::registry;
use calabi::api::{
    Basis, Choice, DecomposeError, Decomposer, Decomposition, FormatError, LayerFormat, LayerSource, LayerSpectrum,
    Plugin, Rank, RankRule, RankSelector, Runtime, SelectError, Spectrum, Vectors,
};
use calabi::{Pipeline, RunOptions, Silent};
use calabi_tests::{Workplace, decaying, matrices};
use ndarray::ArrayView2;
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

fn kinds<T: registry::Registered + ?Sized>() -> Vec<&'static str> {
    registry::all::<T>().unwrap().into_iter().map(Plugin::kind).collect()
}

/// Keeps as many dimensions as the name of the layer has letters.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Letters {}

impl RankSelector for Letters {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        assert_eq!(layer.weight()?.dim(), (layer.shape().rows(), layer.shape().cols()));
        Ok(Choice::exactly(Rank::clamped(layer.name().len(), layer.shape()), "letters"))
    }
}

/// The default decomposer, under another name.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    /// Written into every remark.
    motto: String,
}

#[derive(Debug)]
struct WithMotto(Box<dyn Decomposition>, String);

impl Decomposer for Wrapped {
    fn svd(&self, a: ArrayView2<'_, f32>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        Ok(Box::new(WithMotto(calabi::svd::Faer::default().svd(a, limit)?, self.motto.clone())))
    }

    fn eigh(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        calabi::svd::Faer::default().eigh(s, limit)
    }
}

impl Decomposition for WithMotto {
    fn spectrum(&self) -> &Spectrum {
        self.0.spectrum()
    }

    fn vectors(&self, r: Rank) -> Result<Vectors, DecomposeError> {
        self.0.vectors(r)
    }

    fn basis(&self, r: Rank) -> Result<Basis, DecomposeError> {
        self.0.basis(r)
    }

    fn remark(&self) -> Option<&str> {
        Some(&self.1)
    }
}

/// Opens `NAME.renamed` as the safetensors file that it is.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Renamed {}

impl LayerFormat for Renamed {
    fn detect(&self, path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "renamed")
    }

    fn open(&self, path: &Path) -> Result<Box<dyn LayerSource>, FormatError> {
        let plugin = registry::find::<dyn LayerFormat>("safetensors").unwrap();
        plugin.build(calabi::api::Settings::empty()).unwrap().open(path)
    }
}

calabi_api::submit! { Plugin::selector::<Letters>("letters", "as many as the name has letters") }
calabi_api::submit! { Plugin::decomposer::<Wrapped>("wrapped", "faer with a motto") }
calabi_api::submit! { Plugin::format::<Renamed>("renamed", "safetensors by another name") }

#[test]
fn exactly_these_plugins_are_registered() {
    let rules = [
        "budget",
        "combined",
        "effective-rank",
        "energy",
        "fixed",
        "fraction",
        "hard-threshold",
        "letters",
        "max-error",
        "spectral-gap",
    ];
    assert_eq!(kinds::<RankRule>(), rules);
    assert_eq!(kinds::<dyn Decomposer>(), ["faer", "lapack", "randomized", "wrapped"]);
    assert_eq!(kinds::<dyn LayerFormat>(), ["onnx", "renamed", "safetensors"]);
    assert_eq!(kinds::<dyn Runtime>(), ["onnx"]);
    let origin = registry::find::<RankRule>("letters").unwrap().origin();
    assert_eq!(origin, concat!("calabi-tests ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn plugins_from_outside_take_part_in_a_pipeline() {
    let work = Workplace::new(PROGRAM);
    let weights = [("abc.weight", decaying(30, 40, 0.9, 1)), ("abcdefg.weight", decaying(40, 30, 0.9, 2))];
    work.model("m.renamed", Dtype::F32, &weights);
    let text = "[model]\ninput = \"m.renamed\"\noutput = \"s.renamed\"\n[decomposer]\nkind = \"wrapped\"\nmotto = \"less is more\"\n\
                [rank]\nkind = \"letters\"\n";
    let pipeline = Pipeline::parse("p.toml", text, &work.path(""), &[]).unwrap();
    let report = calabi::run(&pipeline, &RunOptions::default(), &Silent).unwrap();
    assert_eq!(report.layers.iter().map(|l| l.rank.unwrap()).collect::<Vec<_>>(), [3, 7]);
    assert_eq!(report.layers[0].remark.as_deref(), Some("less is more"));
    assert_eq!(matrices(&work.path("s.renamed"))["abcdefg.left.weight"].dim(), (40, 7));
}

#[test]
fn a_plugins_own_settings_are_checked_at_their_place() {
    let text = "[model]\ninput = \"m\"\noutput = \"s\"\n[decomposer]\nkind = \"wrapped\"\nmoto = \"x\"\n[rank]\nkind = \"letters\"\n";
    let refused = Pipeline::parse("p.toml", text, Path::new(""), &[]).unwrap_err();
    assert_eq!(refused.error.help(), Some("did you mean `motto`?"));
    assert_eq!(refused.error.span().map(|span| &text[span]), Some("moto"));
}

#[cfg(not(feature = "lapack"))]
#[test]
fn a_backend_that_is_not_compiled_in_names_its_feature() {
    let text = "[model]\ninput = \"m\"\noutput = \"s\"\n[decomposer]\nkind = \"lapack\"\n[rank]\nkind = \"letters\"\n";
    let refused = Pipeline::parse("p.toml", text, Path::new(""), &[]).unwrap_err();
    assert!(refused.error.help().unwrap().contains("--features lapack"), "{refused:?}");
}
