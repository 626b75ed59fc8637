//! Times a checkpoint folder on tokens: what `benches/peers/run_hf.py` sets beside transformers.
//!
//! `hf_speed FOLDER IDS SAMPLES LOGITS`: IDS holds little-endian `i64` tokens, SAMPLES sequences of one length. For every
//! line on stdin the samples run once, logits included, and a line of JSON says how long it took and the mean loss of the
//! next token in nats. The first sample's logits go to the file LOGITS.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use calabi_api::ndarray::{Array1, Array2, ArrayD, ArrayView2, Axis, Ix2};
use calabi_api::{RunError, Runner, Runtime, Samples, Tensor};
use calabi_nn::HfRuntime;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [folder, ids, samples, logits] = arguments.as_slice() else {
        return Err("usage: hf_speed FOLDER IDS SAMPLES LOGITS".into());
    };
    let ids = tokens(Path::new(ids), samples.parse()?)?;
    let mut runner = HfRuntime {}.load(Path::new(folder))?;
    for (round, line) in std::io::stdin().lines().enumerate() {
        line?;
        let (seconds, loss) = run(runner.as_mut(), &ids, (round == 0).then_some(Path::new(logits)))?;
        println!("{{\"seconds\": {seconds}, \"loss\": {loss}}}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn tokens(path: &Path, samples: usize) -> Result<Array2<i64>, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let ids: Vec<_> = bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
    Ok(Array2::from_shape_vec((samples, ids.len() / samples.max(1)), ids)?)
}

/// The seconds of the model alone, and the mean loss.
fn run(runner: &mut dyn Runner, ids: &Array2<i64>, keep: Option<&Path>) -> Result<(f64, f64), RunError> {
    let samples = Samples { inputs: vec![("input_ids".to_owned(), Tensor::I64(ids.clone().into_dyn()))] };
    let (start, mut aside, mut sum) = (Instant::now(), 0.0, 0.0);
    runner.stream(&samples, &mut |first, outputs| {
        let paused = Instant::now();
        for output in &outputs {
            for (i, logits) in output.values.axis_iter(Axis(0)).enumerate() {
                sum += loss(logits.to_owned(), ids.row(first + i).to_owned())?;
            }
            if let Some(path) = keep.filter(|_| first == 0) {
                let bytes: Vec<u8> = output.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                std::fs::write(path, bytes).map_err(|e| RunError::Failed(e.to_string()))?;
            }
        }
        aside += paused.elapsed().as_secs_f64();
        Ok(())
    })?;
    let scored = ids.nrows() * (ids.ncols() - 1);
    Ok((start.elapsed().as_secs_f64() - aside, sum / scored as f64))
}

/// The loss of a sample's tokens but the first, in nats, each from the logits before it.
fn loss(logits: ArrayD<f32>, ids: Array1<i64>) -> Result<f64, RunError> {
    let logits = logits.into_dimensionality::<Ix2>().map_err(|e| RunError::Failed(e.to_string()))?;
    Ok(ids.iter().skip(1).zip(logits.rows()).map(|(&id, row)| row_loss(row.insert_axis(Axis(0)), id)).sum())
}

fn row_loss(row: ArrayView2<'_, f32>, id: i64) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    let of = usize::try_from(id).ok().and_then(|id| row.iter().nth(id));
    sum.ln() - f64::from(of.copied().unwrap_or(f32::NAN) - most)
}
