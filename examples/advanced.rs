//! Spectra of a model, a check of gradients, and fine-tuning.
//!
//! `cargo run --release -p calabi --example advanced`

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use calabi::api::Rank;
use calabi::api::settings::Fraction;
use calabi::nn::candle_core::{self, Device, Module, Tensor, Var};
use calabi::nn::{LowRankLinear, gradcheck};
use calabi::rank::Fixed;
use calabi::{Compression, FinetuneOptions, Pipeline, RunOptions, Silent, compress_hf_model, finetune};

fn main() -> Result<(), Box<dyn Error>> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../calabi-nn/tests/models/qwen3");
    spectra(&model)?;
    gradients()?;
    tune(&model)
}

/// Which share of the rank holds which share of the energy.
fn spectra(model: &Path) -> Result<(), Box<dyn Error>> {
    // The rule does not matter for spectra, and no output is written.
    let pipeline = Pipeline::new(model, "unused", Fixed { rank: Rank::ONE });
    let (plan, spectra) = calabi::spectra(&pipeline, &RunOptions::default(), true, &Silent)?;
    for (planned, spectrum) in plan.layers.iter().zip(&spectra).take(3) {
        let Some(spectrum) = spectrum else { continue };
        let layer = &planned.layer;
        let all = layer.shape.full_rank();
        let rank_for = |share: f64| spectrum.rank_for_loss((1.0 - share) * spectrum.energy()).unwrap_or(all);
        println!(
            "{} ({}): half of the energy at rank {}, 90 % at {}; break-even at {}",
            layer.name,
            layer.shape,
            rank_for(0.5),
            rank_for(0.9),
            layer.shape.break_even()
        );
    }
    Ok(())
}

/// A layer's gradients beside differences of its outputs.
fn gradients() -> candle_core::Result<()> {
    let noise = |shape: (usize, usize)| Var::rand(-1f32, 1f32, shape, &Device::Cpu);
    let (left, right, x) = (noise((24, 4))?, noise((4, 16))?, noise((3, 16))?);
    let layer = LowRankLinear::new(left.as_tensor().clone(), right.as_tensor().clone(), None)?;
    let variables = [("left", &left), ("right", &right), ("x", &x)];
    for deviation in gradcheck(&variables, || layer.forward(x.as_tensor()))? {
        println!("gradient of {}: below 1e-3 of its largest entry: {}", deviation.name, deviation.relative < 1e-3);
    }
    Ok(())
}

/// What cutting a model lost is won back on token ids; text works the same where the model has a tokenizer.
fn tune(model: &Path) -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("calabi-example-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let small = folder.join("small");
    let half = Compression::keep(Fraction::new(0.5).ok_or("not a share")?);
    compress_hf_model(model, &small, half, &Silent)?;

    let ids: Vec<i64> = (0..40 * 16).map(|i| (i / 16 * 7 + i % 16 * (i / 16 % 3 + 1)) % 80).collect();
    let ids = HashMap::from([("input_ids", Tensor::from_vec(ids, (40, 16), &Device::Cpu)?)]);
    candle_core::safetensors::save(&ids, folder.join("data.safetensors"))?;
    let text = format!(
        "[model]\ninput = '{}'\noutput = \"small\"\n[rank]\nkind = \"budget\"\nkeep = 0.5\n\
         [finetune]\ndata = \"data.safetensors\"\nsteps = 30\nlearning_rate = 0.003\nbatch = 4\nheld_out = 4\n",
        model.display()
    );
    let pipeline = Pipeline::parse("example", &text, &folder, &[]).map_err(|refused| refused.error)?;
    let report = finetune(&pipeline, &FinetuneOptions::default(), &Silent)?;
    let (before, after) = (report.perplexity_before, report.perplexity_after);
    println!("perplexity on what was kept out of the training: {before:.1} -> {after:.1}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
