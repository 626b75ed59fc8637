//! The exact list of registered plugins, and a plugin of another crate. (A decomposer and a format of another workspace are
//! tested in examples/custom-selector.)

use std::path::Path;

use calabi::api::registry;
use calabi::api::{
    Choice, Decomposer, LayerFormat, LayerSpectrum, Plugin, Rank, RankRule, RankSelector, Runtime, SelectError,
};
use calabi::{Pipeline, RunOptions, Silent};
use calabi_tests::{Workplace, decaying, matrices};
use safetensors::tensor::Dtype;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

fn kinds<T: registry::Registered + ?Sized>() -> Vec<&'static str> {
    registry::all::<T>().unwrap().into_iter().map(Plugin::kind).collect()
}

/// Keeps as many dimensions as the name of the layer has letters.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Letters {
    /// Added to the number of letters.
    plus: usize,
}

impl RankSelector for Letters {
    fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        assert_eq!(layer.weight()?.dim(), (layer.shape().rows(), layer.shape().cols()));
        Ok(Choice::exactly(Rank::clamped(layer.name().len() + self.plus, layer.shape()), "letters"))
    }
}

calabi_api::submit! { Plugin::selector::<Letters>("letters", "as many as the name has letters") }

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
    assert_eq!(kinds::<dyn Decomposer>(), ["faer", "lapack", "randomized"]);
    assert_eq!(kinds::<dyn LayerFormat>(), ["onnx", "safetensors"]);
    assert_eq!(kinds::<dyn Runtime>(), ["hf", "onnx"]);
    let origin = registry::find::<RankRule>("letters").unwrap().origin();
    assert_eq!(origin, concat!("calabi-tests ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_selector_of_this_crate_takes_part_in_a_pipeline() {
    let work = Workplace::new(PROGRAM);
    let weights = [("abc.weight", decaying(30, 40, 0.9, 1)), ("abcdefg.weight", decaying(40, 30, 0.9, 2))];
    work.model("m.safetensors", Dtype::F32, &weights);
    let text = "[model]\ninput = \"m.safetensors\"\noutput = \"s.safetensors\"\n[rank]\nkind = \"letters\"\nplus = 1\n";
    let pipeline = Pipeline::parse("p.toml", text, &work.path(""), &[]).unwrap();
    let report = calabi::run(&pipeline, &RunOptions::default(), &Silent).unwrap();
    assert_eq!(report.layers.iter().map(|l| l.rank.unwrap()).collect::<Vec<_>>(), [4, 8]);
    assert_eq!(matrices(&work.path("s.safetensors"))["abcdefg.left.weight"].dim(), (40, 8));
}

#[test]
fn a_plugins_own_settings_are_checked_at_their_place() {
    let text = "[model]\ninput = \"m\"\noutput = \"s\"\n[rank]\nkind = \"letters\"\nplsu = 1\n";
    let refused = Pipeline::parse("p.toml", text, Path::new(""), &[]).unwrap_err();
    assert_eq!(refused.error.help(), Some("did you mean `plus`?"));
    assert_eq!(refused.error.span().map(|span| &text[span]), Some("plsu"));
}

#[cfg(not(feature = "lapack"))]
#[test]
fn a_backend_that_is_not_compiled_in_names_its_feature() {
    let text = "[model]\ninput = \"m\"\noutput = \"s\"\n[decomposer]\nkind = \"lapack\"\n[rank]\nkind = \"letters\"\nplus = 1\n";
    let refused = Pipeline::parse("p.toml", text, Path::new(""), &[]).unwrap_err();
    assert!(refused.error.help().unwrap().contains("--features lapack"), "{refused:?}");
}
