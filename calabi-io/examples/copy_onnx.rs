//! Writes ONNX models with nothing replaced, through the same writer as compressed ones.
//!
//! `copy_onnx` reads lines of an input's and an output's path, divided by a tab, and answers each with a line of JSON:
//! how many layers the model has, what is left alone and why, or the error.

use std::io::{BufRead, stdin};
use std::path::Path;

use calabi_api::{FormatError, LayerFormat, WriteOptions};
use calabi_io::Onnx;
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    for line in stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once('\t') {
            Some((input, output)) => copy(Path::new(input), Path::new(output)),
            None => Ok(json!({ "error": "no tab between two paths" })),
        };
        println!("{}", answer.unwrap_or_else(|error| json!({ "error": error.to_string() })));
    }
    Ok(())
}

fn copy(input: &Path, output: &Path) -> Result<Value, FormatError> {
    let source = Onnx::default().open(input)?;
    source.create(output, &[], &WriteOptions::default())?.finish()?;
    Ok(json!({ "layers": source.layers().len(), "left_alone": source.left_alone() }))
}
