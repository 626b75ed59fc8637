//! Looks at the spectra of a model: which share of the rank holds which share of the energy.
//!
//! `cargo run -p calabi --example spectra [MODEL]`

use std::error::Error;
use std::path::PathBuf;

use calabi::api::Rank;
use calabi::rank::Fixed;
use calabi::{Pipeline, RunOptions, Silent};

fn main() -> Result<(), Box<dyn Error>> {
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.onnx");
    let model = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(ours), PathBuf::from);

    // The rule does not matter for spectra, and no output is written.
    let pipeline = Pipeline::new(model, "unused", Fixed { rank: Rank::ONE });
    let (plan, spectra) = calabi::spectra(&pipeline, &RunOptions::default(), true, &Silent)?;
    for (planned, spectrum) in plan.layers.iter().zip(&spectra) {
        let Some(spectrum) = spectrum else { continue };
        let layer = &planned.layer;
        let rank_for = |share: f64| {
            spectrum.rank_for_loss((1.0 - share) * spectrum.energy()).map_or(layer.shape.full_rank(), |rank| rank)
        };
        println!(
            "{} ({}): half of the energy at rank {}, 90 % at {}, 99 % at {}; break-even at {}",
            layer.name,
            layer.shape,
            rank_for(0.5),
            rank_for(0.9),
            rank_for(0.99),
            layer.shape.break_even()
        );
    }
    Ok(())
}
