//! Compresses one matrix: its spectrum, a rank, two factors, and their error.
//!
//! `cargo run -p calabi --example compress_matrix`

use std::error::Error;

use calabi::api::settings::Fraction;
use calabi::api::{Decomposer, Kept, LayerSpectrum, RankSelector, Shape};
use calabi::rank::Energy;
use calabi::svd::Faer;
use ndarray::Array2;

fn main() -> Result<(), Box<dyn Error>> {
    // A weight of 96 outputs by 64 inputs that is smooth, so that few directions carry it.
    let weight = Array2::from_shape_fn((96, 64), |(i, j)| ((i * j) as f32 / 500.0).sin());
    let shape = Shape::of(weight.view()).ok_or("the matrix is empty")?;

    let decomposition = Faer::default().svd(weight.view(), shape.full_rank())?;
    let spectrum = decomposition.spectrum();
    let rule = Energy { threshold: Fraction::new(0.99).ok_or("not a share")? };
    let choice = rule.select(&LayerSpectrum::new("example", shape, spectrum))?;
    let Kept::Rank(rank) = choice.kept else { return Err("the rule left the matrix dense".into()) };
    println!("rank {rank} of {}: {}", shape.full_rank(), choice.because);

    // left = U_r, right = U_rᵀ W: the best factors of this rank.
    let left = decomposition.vectors(rank)?.u;
    let right = left.t().dot(&weight);
    let lost = (&weight - &left.dot(&right)).mapv(|v| v * v).sum() / weight.mapv(|v| v * v).sum();
    println!("entries: {} -> {}", weight.len(), left.len() + right.len());
    println!("relative error: predicted {:.4}, measured {:.4}", spectrum.relative_error(rank.get()), lost.sqrt());
    Ok(())
}
