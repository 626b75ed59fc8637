//! A checkpoint of the Hugging Face kind, end to end: compressed, judged on a text, made dense again.
//!
//! `cargo run --release -p calabi --example hf -- FOLDER CALIBRATION.txt TEST.txt`
//!
//! `FOLDER` may be `hf:org/name`. Without arguments a tiny random checkpoint of this repository is compressed by its weights
//! alone.

use std::error::Error;
use std::path::{Path, PathBuf};

use calabi::api::settings::Fraction;
use calabi::{
    CalibrationSettings, Compression, DensifyOptions, EvalOptions, Outcome, Report, Silent, compress_hf_model, densify,
    evaluate, locate,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let tiny = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../calabi-nn/tests/models/llama");
    let model = locate(&arguments.next().unwrap_or_else(tiny))?;
    let (calibration, test) = (arguments.next(), arguments.next());
    let folder = std::env::temp_dir().join(format!("calabi-example-{}", std::process::id()));
    let (small, dense) = (folder.join("small"), folder.join("dense"));

    let mut compression = Compression::keep(Fraction::new(0.8).ok_or("not a share")?);
    if let Some(text) = calibration {
        compression = compression.with_calibration(CalibrationSettings::of_data(text));
    }
    let report = compress_hf_model(&model, &small, compression, &Silent)?;
    summarize(&report);

    let made = densify(&small, &dense, &DensifyOptions::default())?;
    println!("dense again: {} parameters", made.after.parameters);
    if let Some(text) = test {
        for (name, folder) in [("original", &model), ("compressed", &small), ("dense again", &dense)] {
            let options = EvalOptions { windows: Some(4), ..EvalOptions::default() };
            println!("{name}: perplexity {:.3}", evaluate(folder, &text, &options, &Silent)?.perplexity);
        }
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn summarize(report: &Report) {
    let factorized = report.layers.iter().filter(|layer| layer.outcome == Outcome::Factorized).count();
    println!("{factorized} of {} layers factorized", report.layers.len());
    println!("{} -> {} parameters", report.parameters.before, report.parameters.after);
}
