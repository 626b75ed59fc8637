//! How far a block's outputs are from those wanted.
//!
//! The plain mean square of hidden states is ruled by a few huge channels. So channels are weighed. Compared behind the norm
//! that the states meet next instead, tuning gained less: `SmolLM2` at 40 % removed, 16 samples, perplexity 57.1 with weighed
//! channels, 58.3 behind the norm, 59.4 behind the norm with weighed channels.

use std::sync::Arc;

use calabi_api::{RunError, States};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::hf::architecture::Architecture;
use crate::hf::blocks::gathered;
use crate::hf::failed;
use crate::hf::ops::{lend, part, tensor};
use crate::hf::pass::Batch;

/// Channels of a variance below this share of the median count as if they had so much.
const LEAST_VARIANCE: f64 = 1e-2;
/// Rows whose differences are summed as one.
const ROWS_A_SUM: usize = 64;

/// A mean square of differences, those of each channel relative to its variance over all tokens.
#[derive(Debug, Clone)]
pub(super) struct Measure {
    weights: Arc<[f32]>,
}

impl Measure {
    /// What is measured behind a block that ought to give these states.
    pub(super) fn of(model: &Architecture, targets: &States) -> std::result::Result<Self, RunError> {
        Ok(Self { weights: weights(&variances(model, targets)?) })
    }

    /// The share of these rows in the mean over so many tokens; padding left out.
    pub(super) fn loss(&self, y: &Tensor, target: &Tensor, batch: &Batch, tokens: usize) -> Result<Tensor> {
        let share = 1.0 / tokens.max(1) as f64;
        let op = Differences { weights: self.weights.clone(), tokens: batch.mask.clone(), share };
        y.apply_op2(target, op)
    }
}

/// One over each channel's variance, over the number of channels: the loss of a guess at the mean is 1.
#[allow(clippy::cast_possible_truncation)]
fn weights(variances: &[f64]) -> Arc<[f32]> {
    let count = variances.len() as f64;
    let mut sorted = variances.to_vec();
    sorted.sort_by(f64::total_cmp);
    let least = (LEAST_VARIANCE * sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)).max(f64::MIN_POSITIVE);
    variances.iter().map(|&variance| (1.0 / (variance.max(least) * count)).min(1e30) as f32).collect()
}

/// The variance of each channel over all tokens.
fn variances(model: &Architecture, states: &States) -> std::result::Result<Vec<f64>, RunError> {
    let (mut count, mut sums) = (0_usize, vec![(0.0_f64, 0.0_f64); model.hidden]);
    for sample in 0..states.count() {
        let (rows, _) = gathered(model, states, std::iter::once(sample))?;
        let tokens = states.tokens(sample);
        lend(&rows, |rows| {
            for (i, row) in rows.chunks_exact(model.hidden).enumerate() {
                if tokens.is_none_or(|tokens| tokens.get(i) == Some(&true)) {
                    count += 1;
                    for ((sum, squares), &x) in sums.iter_mut().zip(row) {
                        *sum += f64::from(x);
                        *squares += f64::from(x) * f64::from(x);
                    }
                }
            }
            Ok(())
        })
        .map_err(failed)?;
    }
    let count = count.max(1) as f64;
    Ok(sums.into_iter().map(|(sum, squares)| (squares / count - (sum / count).powi(2)).max(0.0)).collect())
}

/// `share · Σ weight · (y - target)²` over the rows that are tokens.
struct Differences {
    weights: Arc<[f32]>,
    tokens: Option<Arc<[bool]>>,
    share: f64,
}

impl Differences {
    fn is_token(&self, row: usize) -> bool {
        self.tokens.as_ref().is_none_or(|tokens| tokens.get(row) == Some(&true))
    }

    /// The weighted squares of a row.
    fn squares(&self, y: &[f32], target: &[f32]) -> f32 {
        let squares = y.iter().zip(target).zip(self.weights.iter());
        squares.map(|((y, target), weight)| weight * (y - target) * (y - target)).sum()
    }
}

impl CustomOp2 for Differences {
    fn name(&self) -> &'static str {
        "differences"
    }

    #[allow(clippy::cast_possible_truncation)]
    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        y_layout: &Layout,
        target: &CpuStorage,
        target_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (y, target, width) = (part(y, y_layout)?, part(target, target_layout)?, self.weights.len());
        if y.len() != target.len() || width == 0 || y.len() % width != 0 {
            bail!("states of {:?} are to become {:?}", y_layout.shape(), target_layout.shape())
        }
        let tasks = y.par_chunks(ROWS_A_SUM * width).zip(target.par_chunks(ROWS_A_SUM * width)).enumerate();
        let sums: Vec<f64> = tasks
            .map(|(task, (y, target))| {
                let rows = y.chunks_exact(width).zip(target.chunks_exact(width)).enumerate();
                let tokens = rows.filter(|(row, _)| self.is_token(task * ROWS_A_SUM + row));
                tokens.map(|(_, (y, target))| f64::from(self.squares(y, target))).sum()
            })
            .collect();
        let loss = self.share * sums.into_iter().sum::<f64>();
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    #[allow(clippy::cast_possible_truncation)]
    fn bwd(
        &self,
        y: &Tensor,
        target: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = (2.0 * self.share * f64::from(gradient.to_scalar::<f32>()?)) as f32;
        let width = self.weights.len();
        let slopes = lend(y, |y| {
            lend(target, |target| {
                let mut slopes = vec![0.0; y.len()];
                let rows = y.par_chunks(width).zip(target.par_chunks(width));
                slopes.par_chunks_mut(width).zip(rows).enumerate().for_each(|(row, (slopes, (y, target)))| {
                    if self.is_token(row) {
                        let given = y.iter().zip(target).zip(self.weights.iter());
                        for (slope, ((y, target), weight)) in slopes.iter_mut().zip(given) {
                            *slope = scale * weight * (y - target);
                        }
                    }
                });
                Ok(slopes)
            })
        })?;
        Ok((Some(tensor(slopes, y)?), None))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn differences_are_weighed_and_padding_left_out() {
        let wave = |shift: f32| (0..600).map(|i| ((i as f32) * 0.7 + shift).sin()).collect::<Vec<_>>();
        let y = Var::from_vec(wave(0.0), (200, 3), &Device::Cpu).unwrap();
        let target = Tensor::from_vec(wave(1.0), (200, 3), &Device::Cpu).unwrap();
        let (weights, share) = ([0.5_f32, 0.0, 4.0], 0.25);
        let tokens: Arc<[bool]> = (0..200).map(|row| row % 3 != 0).collect();
        let op = Differences { weights: Arc::from(weights), tokens: Some(tokens.clone()), share };
        let loss = y.apply_op2(&target, op).unwrap();
        let weights = Tensor::new(&weights, &Device::Cpu).unwrap();
        let counted: Vec<f32> = tokens.iter().map(|&token| f32::from(u8::from(token))).collect();
        let counted = Tensor::from_vec(counted, (200, 1), &Device::Cpu).unwrap();
        let squares = (y.as_tensor() - &target).unwrap().sqr().unwrap().broadcast_mul(&weights).unwrap();
        let plain = (squares.broadcast_mul(&counted).unwrap().sum_all().unwrap() * share).unwrap();
        let (a, b) = (loss.to_scalar::<f32>().unwrap(), plain.to_scalar::<f32>().unwrap());
        assert!((a - b).abs() < 1e-5 * b, "{a} {b}");
        let slopes = |loss: &Tensor| {
            let gradients = loss.backward().unwrap();
            gradients.get(&y).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let apart = slopes(&loss).into_iter().zip(slopes(&plain)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-6, "{apart}");
    }

    #[test]
    fn a_guess_at_the_mean_has_a_loss_of_one() {
        let variances = [100.0, 1.0, 4.0, 0.25];
        let weights = weights(&variances);
        let loss: f64 = variances.iter().zip(weights.iter()).map(|(v, w)| v * f64::from(*w)).sum();
        assert!((loss - 1.0).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn a_dead_channel_counts_no_more_than_its_share_of_the_median() {
        let weights = weights(&[0.0, 1.0, 1.0, 1e6]);
        assert!((f64::from(weights[0] / weights[1]) - 1.0 / LEAST_VARIANCE).abs() < 1e-3);
    }
}
