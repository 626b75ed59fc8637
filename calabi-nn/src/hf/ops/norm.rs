//! Layer normalisations over the last dimension.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::sums::{sum, sum2};
use super::{lend, like, part, rows_a_task, tensor};

/// Rows whose share of a weight's gradient is summed as one.
const ROWS_A_SUM: usize = 64;

/// `x / √(mean(x²) + eps) · weight`, over the last dimension, which is as long as `weight`.
///
/// # Errors
/// Where the lengths differ, or the tensors are not `f32` on the CPU.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    fits(x, weight)?;
    x.contiguous()?.apply_op2(&weight.contiguous()?, Rms { eps })
}

/// `(x - mean(x)) / √(var(x) + eps) · weight + bias`, over the last dimension, which is as long as `weight` and `bias`.
///
/// # Errors
/// Where the lengths differ, or the tensors are not `f32` on the CPU.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    fits(x, weight)?;
    fits(x, bias)?;
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Centred { eps })
}

fn fits(x: &Tensor, weight: &Tensor) -> Result<()> {
    match (x.dims().last(), weight.dims()) {
        (Some(n), [m]) if n == m && *n > 0 => Ok(()),
        _ => bail!("a norm of {:?} is applied to {:?}", weight.shape(), x.shape()),
    }
}

struct Rms {
    eps: f64,
}

impl CustomOp2 for Rms {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (part(x, layout)?, part(weight, weight_layout)?);
        let made = by_rows(x, weight.len(), |x, made| {
            let (_, scale) = moments::<false>(x, self.eps);
            for ((made, &x), &w) in made.iter_mut().zip(x).zip(weight) {
                *made = x * scale * w;
            }
        });
        Ok(like(made, layout))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [of_x, of_weight, _] = backward::<false>(x, weight, gradient, self.eps)?;
        Ok((Some(tensor(of_x, x)?), Some(tensor(of_weight, weight)?)))
    }
}

struct Centred {
    eps: f64,
}

impl CustomOp3 for Centred {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (part(x, layout)?, part(weight, weight_layout)?, part(bias, bias_layout)?);
        let made = by_rows(x, weight.len(), |x, made| {
            let (mean, scale) = moments::<true>(x, self.eps);
            for ((made, &x), (&w, &b)) in made.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                *made = (x - mean) * scale * w + b;
            }
        });
        Ok(like(made, layout))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [of_x, of_weight, of_bias] = backward::<true>(x, weight, gradient, self.eps)?;
        Ok((Some(tensor(of_x, x)?), Some(tensor(of_weight, weight)?), Some(tensor(of_bias, bias)?)))
    }
}

/// The mean (0 where the norm does not centre), and one over the deviation.
#[allow(clippy::cast_possible_truncation)]
fn moments<const CENTRED: bool>(x: &[f32], eps: f64) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = if CENTRED { (f64::from(sum(x, |x| x)) / n) as f32 } else { 0.0 };
    let squares = sum(x, |x| (x - mean) * (x - mean));
    (mean, (1.0 / (f64::from(squares) / n + eps).sqrt()) as f32)
}

/// A result made row by row.
fn by_rows(x: &[f32], width: usize, row: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
    let mut made = vec![0.0; x.len()];
    let size = width * rows_a_task(width);
    made.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(made, x)| {
        for (made, x) in made.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            row(x, made);
        }
    });
    made
}

/// The gradients of the values, of the weight and of the bias.
fn backward<const CENTRED: bool>(x: &Tensor, weight: &Tensor, gradient: &Tensor, eps: f64) -> Result<[Vec<f32>; 3]> {
    lend(x, |x| lend(weight, |w| lend(gradient, |g| Ok(backward_of::<CENTRED>(x, w, g, eps)))))
}

fn backward_of<const CENTRED: bool>(x: &[f32], weight: &[f32], gradient: &[f32], eps: f64) -> [Vec<f32>; 3] {
    let width = weight.len();
    let size = width * ROWS_A_SUM;
    let mut of_x = vec![0.0; x.len()];
    let tasks = of_x.par_chunks_mut(size).zip(x.par_chunks(size)).zip(gradient.par_chunks(size));
    let sums: Vec<[Vec<f32>; 2]> = tasks
        .map(|((of_x, x), gradient)| {
            let mut sums = [vec![0.0; width], vec![0.0; width]];
            let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
            for (of_x, (x, gradient)) in of_x.chunks_exact_mut(width).zip(rows) {
                backward_row::<CENTRED>(x, weight, gradient, eps, of_x, &mut sums);
            }
            sums
        })
        .collect();
    let mut total = [vec![0.0; width], vec![0.0; width]];
    for part in sums {
        for (total, part) in total.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    }
    let [of_weight, of_bias] = total;
    [of_x, of_weight, of_bias]
}

/// With `y = (x - mean) · scale` and `h = gradient · weight`: `scale · (h - mean(h) - y · mean(h y))`, where a norm that
/// does not centre has no `mean(h)`.
fn backward_row<const CENTRED: bool>(
    x: &[f32],
    weight: &[f32],
    gradient: &[f32],
    eps: f64,
    of_x: &mut [f32],
    [of_weight, of_bias]: &mut [Vec<f32>; 2],
) {
    let n = x.len() as f32;
    let (mean, scale) = moments::<CENTRED>(x, eps);
    for (h, (&g, &w)) in of_x.iter_mut().zip(gradient.iter().zip(weight)) {
        *h = g * w;
    }
    let along = sum2(of_x, x, |h, x| h * (x - mean) * scale) / n;
    let level = if CENTRED { sum(of_x, |h| h) / n } else { 0.0 };
    for (of_x, &x) in of_x.iter_mut().zip(x) {
        *of_x = scale * (*of_x - level - (x - mean) * scale * along);
    }
    for ((sum, &x), &g) in of_weight.iter_mut().zip(x).zip(gradient) {
        *sum += g * (x - mean) * scale;
    }
    if CENTRED {
        of_bias.iter_mut().zip(gradient).for_each(|(sum, &g)| *sum += g);
    }
}
