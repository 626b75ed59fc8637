//! Times greedy writing by a checkpoint folder: what `benches/peers/generate_hf.py` sets beside transformers.
//!
//! `generate FOLDER IDS COUNT`: IDS holds the prompt as little-endian `u32` tokens; COUNT tokens are written behind it. A
//! line of JSON says how long the prompt took and the tokens behind it, which they are, and the peak memory of the process.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use calabi_nn::Generator;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [folder, ids, count] = arguments.as_slice() else {
        return Err("usage: generate FOLDER IDS COUNT".into());
    };
    let prompt: Vec<_> = std::fs::read(ids)?.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let count: usize = count.parse()?;
    let start = Instant::now();
    let mut model = Generator::open(Path::new(folder))?;
    let loaded = start.elapsed().as_secs_f64();
    // What the first pass makes ready (threads, pages) is not measured.
    model.greedy(prompt.get(..prompt.len().min(8)).unwrap_or_default(), 2)?;
    model.forget();
    let start = Instant::now();
    let mut written = model.greedy(&prompt, 1)?;
    let prefill = start.elapsed().as_secs_f64();
    let start = Instant::now();
    written.extend(model.greedy(&written.clone(), count.saturating_sub(1))?);
    let decode = start.elapsed().as_secs_f64();
    println!(
        "{{\"load\": {loaded}, \"prefill\": {prefill}, \"decode\": {decode}, \"tokens\": {written:?}, \"peak_mib\": {}}}",
        peak_mib()?
    );
    Ok(())
}

/// The most memory that the process has had, in MiB.
fn peak_mib() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
