//! Decomposers and formats are plugins as selectors are: one of each, defined here, takes part in a pipeline.

use std::path::Path;

use calabi::api::ndarray::ArrayView2;
use calabi::api::{
    Basis, DecomposeError, Decomposer, Decomposition, FormatError, LayerFormat, LayerSource, Plugin, Rank, Settings,
    Spectrum, Vectors, registry,
};
use calabi::{Outcome, Pipeline, RunOptions, Silent};
use knee as _;

/// The default decomposer with a motto.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    /// Becomes the remark on every layer.
    motto: String,
}

#[derive(Debug)]
struct WithMotto<'a>(Box<dyn Decomposition + 'a>, String);

impl Decomposer for Wrapped {
    fn svd<'a>(&self, a: ArrayView2<'a, f32>, limit: Rank) -> Result<Box<dyn Decomposition + 'a>, DecomposeError> {
        Ok(Box::new(WithMotto(calabi::svd::Faer::default().svd(a, limit)?, self.motto.clone())))
    }

    fn eigh(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        calabi::svd::Faer::default().eigh(s, limit)
    }
}

impl Decomposition for WithMotto<'_> {
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
        let plugin = registry::find::<dyn LayerFormat>("safetensors").expect("it is registered");
        plugin.build(Settings::empty()).expect("it has no settings").open(path)
    }
}

calabi::api::submit! { Plugin::decomposer::<Wrapped>("wrapped", "faer with a motto") }
calabi::api::submit! { Plugin::format::<Renamed>("renamed", "safetensors by another name") }

#[test]
fn both_take_part_in_a_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../quickstart/digits.safetensors");
    std::fs::copy(model, folder.path().join("digits.renamed")).unwrap();
    let text = "[model]\ninput = \"digits.renamed\"\noutput = \"small.renamed\"\n\
                [decomposer]\nkind = \"wrapped\"\nmotto = \"less is more\"\n\
                [rank]\nkind = \"knee\"\nat_least = 0.1\n";
    let pipeline = Pipeline::parse("p.toml", text, folder.path(), &[]).unwrap();
    let report = calabi::run(&pipeline, &RunOptions::default(), &Silent).unwrap();
    let factorized: Vec<_> = report.layers.iter().filter(|layer| layer.outcome == Outcome::Factorized).collect();
    assert!(!factorized.is_empty());
    assert!(factorized.iter().all(|layer| layer.remark.as_deref() == Some("less is more")));
    let written = std::fs::metadata(folder.path().join("small.renamed")).unwrap().len();
    assert_eq!(report.bytes.after, written);
    assert!(written < report.bytes.before);
}
