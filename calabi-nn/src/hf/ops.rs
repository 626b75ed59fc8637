//! Operators of transformer blocks, each one pass over its values, with gradients: what inference and tuning share.
//!
//! All of them take and give `f32` on the CPU. Work is cut into pieces by the shape alone and every sum has one order,
//! so the bits of a result do not depend on the number of threads.

mod activation;
mod attention;
mod cross_entropy;
mod exp;
mod linear;
mod norm;
mod rotary;
mod softmax;
mod sums;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};

pub(crate) use activation::{Activation, activation, gated};
pub(crate) use attention::attention;
pub(crate) use cross_entropy::{CrossEntropy, Slopes, Vocabulary, Wanted, cross_entropy};
pub(crate) use linear::linear;
pub(crate) use norm::{layer_norm, rms_norm};
pub(crate) use rotary::rotary;
pub(crate) use softmax::Mask;

/// Values that one task treats at a time.
const CHUNK: usize = 1 << 14;

/// Rows of so many values that one task treats at a time; at least one.
fn rows_a_task(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// The values of a contiguous `f32` tensor.
pub(super) fn part<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a fused operator wants contiguous values, not {layout:?}")
    };
    match storage.as_slice::<f32>()?.get(start..end) {
        Some(values) => Ok(values),
        None => bail!("a tensor is shorter than its layout"),
    }
}

/// Lends the values of a tensor.
pub(super) fn lend<R>(tensor: &Tensor, use_: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => use_(part(storage, layout)?),
        _ => bail!("a fused operator runs on the CPU only"),
    }
}

/// What an operator gives: values in the shape of its first argument.
fn like(values: Vec<f32>, layout: &Layout) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), layout.shape().clone())
}

pub(super) fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}
