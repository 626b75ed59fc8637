//! Compresses a model without a pipeline file: a budget for all layers, a rule of its own for some.
//!
//! `cargo run -p calabi --example compress_model`

use std::error::Error;
use std::path::Path;

use calabi::api::Rank;
use calabi::api::settings::Fraction;
use calabi::rank::{Budget, Fixed};
use calabi::{Outcome, Pattern, Pipeline, RunOptions, Silent};

fn main() -> Result<(), Box<dyn Error>> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/digits.safetensors");
    let output = std::env::temp_dir().join(format!("calabi-example-{}.safetensors", std::process::id()));

    let keep = Fraction::new(0.5).ok_or("not a share")?;
    let sixteen = Fixed { rank: Rank::new(16).ok_or("not a rank")? };
    let pipeline = Pipeline::with_allocator(model, &output, Budget::new(keep))
        .with_override(vec![Pattern::new("hidden1")?], sixteen);
    let report = calabi::run(&pipeline, &RunOptions::default(), &Silent)?;

    for layer in &report.layers {
        match (layer.outcome, layer.rank, layer.measured_error) {
            (Outcome::Factorized, Some(rank), Some(error)) => println!("{}: rank {rank}, error {error:.3}", layer.name),
            _ => println!("{}: {}", layer.name, layer.because),
        }
    }
    println!("{:.0} % of the parameters removed", 100.0 * report.removed());
    std::fs::remove_file(output)?;
    Ok(())
}
