//! Linear maps. Unlike candle's product, the gradient of what is fixed is not computed, and a bias costs no pass of its
//! own.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{lend, part, rows_a_task, tensor};

/// Rows whose share of a bias' gradient is summed as one.
const ROWS_A_SUM: usize = 64;

/// `x · weightᵀ + bias`: `x` is rows × `n`, `weight` is `m × n` in any layout of a matrix, `bias` is `m`.
///
/// # Errors
/// Where the shapes do not fit, or the tensors are not `f32` on the CPU.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let ((_, n), (m, width)) = (x.dims2()?, weight.dims2()?);
    if n != width || bias.is_some_and(|bias| bias.dims() != [m]) {
        bail!("a weight of {:?} with a bias of {:?} maps {:?}", weight.shape(), bias.map(Tensor::shape), x.shape())
    }
    let x = x.contiguous()?;
    match bias {
        None => x.apply_op2(weight, Product),
        Some(bias) => x.apply_op3(weight, &bias.contiguous()?, Product),
    }
}

struct Product;

/// `x · weightᵀ`.
pub(super) fn product(
    x: &CpuStorage,
    x_layout: &Layout,
    weight: &CpuStorage,
    layout: &Layout,
) -> Result<(CpuStorage, Shape)> {
    let ((rows, n), (m, _)) = (x_layout.shape().dims2()?, layout.shape().dims2()?);
    let made = x.matmul(weight, (1, rows, m, n), x_layout, &layout.transpose(0, 1)?)?;
    Ok((made, Shape::from((rows, m))))
}

impl Product {
    fn backward(x: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_x = x.track_op().then(|| gradient.matmul(weight)).transpose()?;
        let of_weight = weight.track_op().then(|| gradient.t()?.matmul(x)).transpose()?;
        Ok((of_x, of_weight))
    }
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        product(x, x_layout, weight, layout)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Self::backward(x, weight, gradient)
    }
}

impl CustomOp3 for Product {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let bias = part(bias, bias_layout)?;
        let (made, shape) = product(x, x_layout, weight, layout)?;
        let CpuStorage::F32(mut made) = made else { bail!("a linear map is not f32") };
        if !bias.is_empty() {
            made.par_chunks_mut(bias.len() * rows_a_task(bias.len())).for_each(|rows| {
                for row in rows.chunks_exact_mut(bias.len()) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            });
        }
        Ok((CpuStorage::F32(made), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (of_x, of_weight) = Self::backward(x, weight, gradient)?;
        let of_bias = bias.track_op().then(|| tensor(lend(gradient, |g| Ok(column_sums(g, bias.elem_count())))?, bias));
        Ok((of_x, of_weight, of_bias.transpose()?))
    }
}

fn column_sums(values: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    if width == 0 {
        return total;
    }
    let parts: Vec<Vec<f32>> = values
        .par_chunks(ROWS_A_SUM * width)
        .map(|rows| {
            let mut sums = vec![0.0; width];
            for row in rows.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            sums
        })
        .collect();
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}
