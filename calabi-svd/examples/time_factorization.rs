//! Times the factorization of one matrix: spectrum, basis, projection. `benches/peers/decompose.py` runs it beside its peers.
//!
//! ```text
//! time_factorization KIND ROWS COLS RANK [FILE]
//! ```
//! `KIND` is `faer`, `full`, `randomized` or `lapack`, or `whitened` and `halved`: `faer` in the metric of the
//! weight's own rows, by a root of it or by one half. `FILE` holds `ROWS × COLS` little-endian `f32`, row by row; without it
//! the matrix is made from a seed. Each line on standard input starts one round, a number one on so many threads; each round prints a line of JSON.

use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

use calabi_api::{Basis, DType, Decomposer, Factors, Rank, Side};
use calabi_svd::dense::project;
use calabi_svd::whitening::{Halved, Triangle, energy, left_vectors};
use calabi_svd::{Accuracy, Faer, Lapack, Randomized, inside};
use ndarray::{Array2, ArrayView2};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, rows, cols, rank, file @ ..] = args.as_slice() else {
        return Err("usage: time_factorization KIND ROWS COLS RANK [FILE]".into());
    };
    let weight = weight((rows.parse()?, cols.parse()?), file.first())?;
    let rank = Rank::new(rank.parse()?).ok_or("a rank is at least 1")?;
    let in_metric = ["whitened", "halved"].contains(&kind.as_str());
    let decomposer = decomposer(if in_metric { "faer" } else { kind })?;
    let metric = if in_metric { metric_of(&weight) } else { Array2::zeros((0, 0)) };
    let round = || {
        let done = match kind.as_str() {
            "whitened" => round_in_metric(|| by_root(&*decomposer, metric.view(), weight.view(), rank)),
            "halved" => round_in_metric(|| by_half(&*decomposer, metric.view(), weight.view(), rank)),
            _ => round(&*decomposer, weight.view(), rank),
        };
        done.map_err(|error| error.to_string())
    };
    for line in std::io::stdin().lock().lines() {
        let said = match line?.trim().parse() {
            Ok(threads) => rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| inside(round)),
            Err(_) => round(),
        };
        println!("{}", said?);
    }
    Ok(())
}

/// `Aᵀ A + I`, a metric that is far from the identity.
fn metric_of(weight: &Array2<f32>) -> Array2<f64> {
    let wide = weight.mapv(f64::from);
    wide.t().dot(&wide) + Array2::<f64>::eye(weight.ncols())
}

fn decomposer(kind: &str) -> Result<Box<dyn Decomposer>, Box<dyn Error>> {
    Ok(match kind {
        "faer" => Box::new(Faer::default()),
        "full" => Box::new(Faer { accuracy: Accuracy::Full }),
        "randomized" => Box::new(Randomized::default()),
        "lapack" => lapack(Lapack::default())?,
        other => return Err(format!("unknown decomposer `{other}`").into()),
    })
}

#[cfg(feature = "lapack")]
#[allow(clippy::unnecessary_wraps)] // it is an error without the feature
fn lapack(lapack: Lapack) -> Result<Box<dyn Decomposer>, Box<dyn Error>> {
    Ok(Box::new(lapack))
}

#[cfg(not(feature = "lapack"))]
fn lapack(_: Lapack) -> Result<Box<dyn Decomposer>, Box<dyn Error>> {
    Err("rebuild with --features lapack".into())
}

fn weight(shape: (usize, usize), file: Option<&String>) -> Result<Array2<f32>, Box<dyn Error>> {
    let Some(file) = file else {
        let mut state = 1_u32;
        return Ok(Array2::from_shape_simple_fn(shape, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 32768.0 - 1.0
        }));
    };
    let bytes = std::fs::read(file)?;
    Ok(Array2::from_shape_vec(shape, DType::F32.decode(&bytes).collect())?)
}

/// One factorization: what it took and how far it is from the weight.
fn round(decomposer: &dyn Decomposer, weight: ArrayView2<'_, f32>, rank: Rank) -> Result<String, Box<dyn Error>> {
    let begun = started();
    let decomposition = decomposer.svd(weight, rank)?;
    let Factors { left, right, .. } = project(weight, decomposition.basis(rank)?)?;
    let took = since(begun);
    let norm = |a: &Array2<f32>| a.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let error = norm(&(&weight - &left.dot(&right))) / norm(&weight.to_owned());
    Ok(said(took, error, decomposition.remark().unwrap_or_default()))
}

/// The same in a metric: factors, what they lose, and of how much.
fn round_in_metric(lost: impl FnOnce() -> Result<[f64; 2], Box<dyn Error>>) -> Result<String, Box<dyn Error>> {
    let begun = started();
    let [lost, whole] = lost()?;
    Ok(said(since(begun), (lost / whole).sqrt(), ""))
}

/// A root of the metric, images, their singular values.
fn by_root(
    decomposer: &dyn Decomposer,
    metric: ArrayView2<'_, f64>,
    weight: ArrayView2<'_, f32>,
    rank: Rank,
) -> Result<[f64; 2], Box<dyn Error>> {
    let root = Triangle::of(metric).ok_or("the metric is not positive definite")?;
    let images = root.images(weight)?;
    let Basis { side, vectors } = decomposer.svd(images.view(), rank)?.basis(rank)?;
    let left = if side == Side::Left { vectors } else { left_vectors(images.view(), vectors.view())? };
    let factors = project(weight, Basis { side: Side::Left, vectors: left })?;
    Ok([root.lost(images.view(), &factors)?, energy(images.view())])
}

/// One half of the metric, outputs, their eigenvalues.
fn by_half(
    decomposer: &dyn Decomposer,
    metric: ArrayView2<'_, f64>,
    weight: ArrayView2<'_, f32>,
    rank: Rank,
) -> Result<[f64; 2], Box<dyn Error>> {
    let halved = Halved::of(metric).ok_or("the metric is out of range")?;
    let images = halved.images(weight)?;
    let outputs = halved.outputs(weight, images.view())?;
    if halved.rounding(metric, weight, outputs.view())? > outputs.diag().sum() {
        return Err("the outputs are rounding".into());
    }
    let factors = project(weight, decomposer.eigh_for_losses(outputs.view(), rank)?.basis(rank)?)?;
    Ok([halved.lost(metric, weight, images.view(), &factors)?.weighed, outputs.diag().sum()])
}

/// When a round begins, by the clock of the wall and of this thread.
fn started() -> (Instant, f64) {
    (Instant::now(), cpu_seconds())
}

/// What it took since then, in seconds of this thread and of the wall.
fn since((wall, cpu): (Instant, f64)) -> [f64; 2] {
    [cpu_seconds() - cpu, wall.elapsed().as_secs_f64()]
}

fn said([cpu, wall]: [f64; 2], error: f64, remark: &str) -> String {
    format!(r#"{{"cpu": {cpu:.6}, "wall": {wall:.6}, "error": {error:.6}, "remark": "{remark}"}}"#)
}

/// What this thread has run, in seconds. Everything timed here runs on one thread.
fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + 1e-9 * now.tv_nsec as f64
}
