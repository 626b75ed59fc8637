//! Cross-entropy behind a linear map to a vocabulary, a few rows at a time: logits of all rows are never in memory, and
//! the slopes by the rows come out of the same pass.

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::exp::exp;
use super::linear::product;
use super::sums::{largest, sum};

/// Rows whose logits are in memory at once.
const ROWS: usize = 64;

/// A linear map to a vocabulary.
#[derive(Debug, Clone)]
pub(crate) struct Vocabulary {
    /// Vocabulary × features.
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Vec<f32>>,
    /// Logits are `cap · tanh(logits / cap)`.
    pub(crate) softcap: Option<f32>,
}

/// What rows are to predict. Rows without a token, or a place, do not count.
pub(crate) enum Wanted<'a> {
    /// These tokens.
    Tokens(&'a [Option<usize>]),
    /// The probabilities that another model gives: the map, its rows, and which rows count. The loss is then the
    /// Kullback-Leibler divergence from them.
    Probabilities(&'a Vocabulary, &'a Tensor, &'a [Option<usize>]),
}

/// A loss, and its slopes where they were asked for.
#[derive(Debug)]
pub(crate) struct CrossEntropy {
    /// The sum over the rows that count, in nats.
    pub(crate) sum: f64,
    /// By the rows.
    pub(crate) of_rows: Option<Tensor>,
    /// By the weight.
    pub(crate) of_weight: Option<Tensor>,
}

/// Which slopes are wanted, and what the sum is multiplied by before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Slopes {
    None,
    OfRows { share: f32 },
    OfRowsAndWeight { share: f32 },
}

impl Slopes {
    fn share(self) -> Option<f32> {
        match self {
            Self::None => None,
            Self::OfRows { share } | Self::OfRowsAndWeight { share } => Some(share),
        }
    }
}

/// The cross-entropy of what `map` makes of `rows` (rows × features) with what is wanted.
///
/// # Errors
/// Where the shapes do not fit, or the tensors are not `f32` on the CPU.
pub(crate) fn cross_entropy(
    map: &Vocabulary,
    rows: &Tensor,
    wanted: &Wanted<'_>,
    slopes: Slopes,
) -> Result<CrossEntropy> {
    let (count, vocabulary) = (rows.dim(0)?, map.weight.dim(0)?);
    let targets = match wanted {
        Wanted::Tokens(targets) | Wanted::Probabilities(_, _, targets) => targets,
    };
    let known = |target: &Option<usize>| target.is_none_or(|target| target < vocabulary);
    if targets.len() != count || vocabulary == 0 || !targets.iter().all(known) {
        bail!("{count} rows are to predict {} tokens of {vocabulary}", targets.len())
    }
    let (mut total, mut of_rows, mut of_weight) = (0.0, Vec::new(), None);
    for (start, targets) in (0..count).step_by(ROWS).zip(targets.chunks(ROWS)) {
        let some = rows.narrow(0, start, targets.len())?;
        let mut logits = map.logits(&some)?;
        let losses: Vec<f64> = match wanted {
            Wanted::Tokens(_) => {
                let tasks = logits.par_chunks_mut(vocabulary).zip(targets);
                tasks.map(|(row, target)| of_token(row, *target, map.softcap, slopes.share())).collect()
            }
            Wanted::Probabilities(teacher, rows, _) => {
                let mut taught = teacher.logits(&rows.narrow(0, start, targets.len())?)?;
                if taught.len() != logits.len() {
                    bail!("two models have vocabularies of two sizes")
                }
                let tasks = logits.par_chunks_mut(vocabulary).zip(taught.par_chunks_mut(vocabulary)).zip(targets);
                tasks
                    .map(|((row, taught), target)| {
                        of_probabilities(row, taught, target.is_some(), map.softcap, slopes.share())
                    })
                    .collect()
            }
        };
        total += losses.into_iter().sum::<f64>();
        if slopes != Slopes::None {
            let slope = Tensor::from_vec(logits, (targets.len(), vocabulary), rows.device())?;
            of_rows.push(slope.matmul(&map.weight)?);
            if let Slopes::OfRowsAndWeight { .. } = slopes {
                let added = slope.t()?.matmul(&some)?;
                of_weight = Some(match of_weight {
                    None => added,
                    Some(sum) => (sum + added)?,
                });
            }
        }
    }
    let of_rows = if of_rows.is_empty() { None } else { Some(Tensor::cat(&of_rows, 0)?) };
    Ok(CrossEntropy { sum: total, of_rows, of_weight })
}

impl Vocabulary {
    /// The logits of these rows, before they are capped.
    fn logits(&self, rows: &Tensor) -> Result<Vec<f32>> {
        let (rows, weight) = (rows.contiguous()?, self.weight.contiguous()?);
        let ((x, x_layout), (w, w_layout)) = (rows.storage_and_layout(), weight.storage_and_layout());
        let (Storage::Cpu(x), Storage::Cpu(w)) = (&*x, &*w) else { bail!("logits are computed on the CPU only") };
        let (made, _) = product(x, x_layout, w, w_layout)?;
        let CpuStorage::F32(mut made) = made else { bail!("logits are not f32") };
        if let Some(bias) = &self.bias {
            made.par_chunks_mut(bias.len().max(1)).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
        Ok(made)
    }
}

/// The loss of one row; its logits become its slopes.
fn of_token(row: &mut [f32], target: Option<usize>, softcap: Option<f32>, share: Option<f32>) -> f64 {
    let Some(wanted) = target.and_then(|target| row.get(target).copied()) else {
        row.fill(0.0);
        return 0.0;
    };
    cap(row, softcap);
    let wanted = softcap.map_or(wanted, |cap| cap * (wanted / cap).tanh());
    let (top, total) = normaliser(row);
    if let Some(share) = share {
        let scale = share / total;
        for (place, y) in row.iter_mut().enumerate() {
            let slope = scale * exp(*y - top) - if target == Some(place) { share } else { 0.0 };
            *y = slope * bend(*y, softcap);
        }
    }
    f64::from(total).ln() + f64::from(top) - f64::from(wanted)
}

/// The divergence of one row from the logits of another model, capped as its own; its logits become its slopes.
fn of_probabilities(
    row: &mut [f32],
    taught: &mut [f32],
    counts: bool,
    softcap: Option<f32>,
    share: Option<f32>,
) -> f64 {
    if !counts {
        row.fill(0.0);
        return 0.0;
    }
    cap(row, softcap);
    cap(taught, softcap);
    let ((top, total), (taught_top, taught_total)) = (normaliser(row), normaliser(taught));
    // Both are differences from the row's own normaliser, so that equal logits have a loss of exactly 0.
    let own = f64::from(top) + f64::from(total).ln();
    let teachers = f64::from(taught_top) + f64::from(taught_total).ln();
    let mut loss = 0.0;
    let (scale, taught_scale) = (1.0 / total, 1.0 / taught_total);
    for (y, t) in row.iter_mut().zip(taught) {
        let probability = taught_scale * exp(*t - taught_top);
        loss += f64::from(probability) * ((f64::from(*t) - teachers) - (f64::from(*y) - own));
        if let Some(share) = share {
            *y = share * (scale * exp(*y - top) - probability) * bend(*y, softcap);
        }
    }
    loss
}

fn cap(row: &mut [f32], softcap: Option<f32>) {
    if let Some(cap) = softcap {
        for y in row {
            *y = cap * (*y / cap).tanh();
        }
    }
}

/// What a slope by a capped logit is multiplied by.
fn bend(capped: f32, softcap: Option<f32>) -> f32 {
    softcap.map_or(1.0, |cap| 1.0 - (capped / cap) * (capped / cap))
}

/// The largest value, and the sum of the exponentials relative to it.
fn normaliser(row: &[f32]) -> (f32, f32) {
    let top = largest(row);
    (top, sum(row, |y| exp(y - top)))
}
