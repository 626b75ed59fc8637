//! One layer, then one model.
//!
//! `cargo run -p calabi --example basic`

use std::error::Error;
use std::path::Path;

use calabi::api::settings::Fraction;
use calabi::nn::LowRankLinear;
use calabi::nn::candle_core::{Device, Module, Tensor};
use calabi::nn::candle_nn::Linear;
use calabi::rank::Energy;
use calabi::svd::Faer;
use calabi::{Compression, Outcome, Silent, compress_model};

fn main() -> Result<(), Box<dyn Error>> {
    layer()?;
    model()
}

/// A dense layer of 96 outputs by 64 inputs becomes two factors, that are run and never multiplied out.
fn layer() -> Result<(), Box<dyn Error>> {
    // A smooth weight, so that few directions carry it.
    let weight: Vec<f32> = (0..96 * 64).map(|i| ((i / 64 * (i % 64)) as f32 / 500.0).sin()).collect();
    let dense = Linear::new(Tensor::from_vec(weight, (96, 64), &Device::Cpu)?, None);

    let rule = Energy { threshold: Fraction::new(0.99).ok_or("not a share")? };
    let compressed = LowRankLinear::compress(&dense, &Faer::default(), &rule)?;
    println!("rank {} of 64, below break-even: {}", compressed.report.rank, compressed.report.pays());
    println!("relative error of the weight: {:.4}", compressed.report.relative_error);

    let x = Tensor::ones((8, 64), calabi::nn::candle_core::DType::F32, &Device::Cpu)?;
    println!("{:?} -> {:?}", x.dims(), compressed.layer.forward(&x)?.dims());
    Ok(())
}

/// All layers of a model share one budget: half of their parameters.
fn model() -> Result<(), Box<dyn Error>> {
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/digits.safetensors");
    let output = std::env::temp_dir().join(format!("calabi-example-{}.safetensors", std::process::id()));

    let half = Fraction::new(0.5).ok_or("not a share")?;
    let report = compress_model((input.as_path(), output.as_path()), Compression::keep(half), &Silent)?;
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
