//! Half precision becomes `f32` for the length of one product.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// Values that one task converts.
const CHUNK: usize = 1 << 15;

/// The same values as `f32` where they are in half precision; other tensors as they are.
pub(super) fn widened(tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 if tensor.device().is_cpu() => tensor.contiguous()?.apply_op1(Widen),
        DType::F16 | DType::BF16 => tensor.to_dtype(DType::F32),
        _ => Ok(tensor.clone()),
    }
}

/// Converts by slices, which takes the processor's own instruction, where candle converts value by value.
struct Widen;

impl CustomOp1 for Widen {
    fn name(&self) -> &'static str {
        "widen"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("only contiguous values are widened") };
        let wide = match storage {
            CpuStorage::F16(values) => values.get(start..end).map(converted),
            CpuStorage::BF16(values) => values.get(start..end).map(converted),
            _ => bail!("only half precision is widened"),
        };
        let Some(wide) = wide else { bail!("a tensor is shorter than its layout") };
        Ok((CpuStorage::F32(wide), layout.shape().clone()))
    }

    fn bwd(&self, narrow: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.to_dtype(narrow.dtype()).map(Some)
    }
}

fn converted<H: Sync>(values: &[H]) -> Vec<f32>
where
    [H]: HalfFloatSliceExt,
{
    let mut wide = vec![0.0; values.len()];
    wide.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(to, from)| from.convert_to_f32_slice(to));
    wide
}
