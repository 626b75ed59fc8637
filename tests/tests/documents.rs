//! What is written about calabi stays true: the reference, the schema, the example pipelines.

use std::fs;
use std::path::Path;

use calabi::Pipeline;
use calabi_tests::{Workplace, root};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

/// `UPDATE_REFERENCE=1 cargo test -p calabi-tests --test documents` (or `just reference`) writes it.
#[cfg(not(feature = "lapack"))]
#[test]
fn the_reference_is_what_the_registry_says() {
    let path = root().join("REFERENCE.md");
    let page = calabi::reference().unwrap();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap_or_default() == page, "REFERENCE.md is old: run `just reference`");
}

#[test]
fn every_example_pipeline_is_valid() {
    let folder = root().join("examples/pipelines");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if let Err(refused) = Pipeline::load(&path, &[]) {
            panic!("{}: {}", path.display(), refused.error);
        }
        checked += 1;
    }
    assert!(checked >= 4);
}

#[test]
fn the_pipeline_of_the_readme_is_valid() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let pipelines: Vec<_> = blocks.filter(|block| block.contains("[model]")).collect();
    assert!(!pipelines.is_empty());
    for pipeline in pipelines {
        if let Err(refused) = Pipeline::parse("README.md", pipeline, Path::new(""), &[]) {
            panic!("{}\n{pipeline}", refused.error);
        }
    }
}

#[test]
fn the_schema_knows_every_kind_with_its_settings() {
    let schema = Workplace::new(PROGRAM).run(&["schema"]).json();
    let rules = schema.pointer("/properties/rank/oneOf").and_then(Value::as_array).unwrap();
    let energy = rules.iter().find(|rule| rule["properties"]["kind"]["const"] == "energy").unwrap();
    assert_eq!(energy["properties"]["threshold"]["maximum"], 1);
    assert_eq!(energy["required"], serde_json::json!(["kind", "threshold"]));
    assert_eq!(energy["additionalProperties"], false);
    assert!(schema.pointer("/properties/decomposer/oneOf").is_some());
    let overriding =
        schema.pointer("/properties/override/items/properties/rank/oneOf").and_then(Value::as_array).unwrap();
    assert!(
        overriding.iter().all(|rule| rule["properties"]["kind"]["const"] != "budget"),
        "an allocator is no override"
    );
    assert_eq!(overriding.len() + 1, rules.len());
}

#[test]
fn plugins_are_listed_with_summaries_and_origins() {
    let work = Workplace::new(PROGRAM);
    let list = work.run(&["plugins"]).stdout();
    for word in ["energy", "budget", "faer", "safetensors", "onnx", concat!("calabi-rank ", env!("CARGO_PKG_VERSION"))]
    {
        assert!(list.contains(word), "{word} is missing:\n{list}");
    }
    let one = work.run(&["plugins", "energy"]).stdout();
    assert!(one.contains("threshold") && one.contains("must be set") && one.contains("at most 1"), "{one}");
    assert!(work.run(&["plugins", "layers"]).stdout().contains("break_even"));
    let json = work.run(&["plugins", "budget", "--format", "json"]).json();
    assert_eq!(json[0]["kind"], "budget");
}
