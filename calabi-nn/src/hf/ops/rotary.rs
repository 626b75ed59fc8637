//! Rotary position embedding.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{lend, like, part, rows_a_task, tensor};

/// Turns the pairs `(x[i], x[i + dim/2])` of every head by the angle of their position (the half-split order of Hugging
/// Face's `rotate_half`). `x` is batch × sequence × heads × dim, `cos` and `sin` are sequence × dim/2.
///
/// # Errors
/// Where the shapes do not fit, or the tensors are not `f32` on the CPU.
pub(crate) fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (_, sequence, _, dim) = x.dims4()?;
    if dim == 0 || dim % 2 != 0 || cos.dims() != [sequence, dim / 2] || sin.dims() != cos.dims() {
        bail!("angles of {:?} and {:?} turn {:?}", cos.shape(), sin.shape(), x.shape())
    }
    x.contiguous()?.apply_op1(Rotary { cos: cos.contiguous()?, sin: sin.contiguous()? })
}

struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// Turns by the angles, or back by them.
    fn turned(&self, x: &[f32], heads: usize, sign: f32) -> Result<Vec<f32>> {
        lend(&self.cos, |cos| lend(&self.sin, |sin| Ok(turned(x, cos, sin, (heads, self.cos.dims2()?.1), sign))))
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, _, heads, _) = layout.shape().dims4()?;
        Ok(like(self.turned(part(storage, layout)?, heads, 1.0)?, layout))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, heads, _) = x.dims4()?;
        tensor(lend(gradient, |gradient| self.turned(gradient, heads, -1.0))?, x).map(Some)
    }
}

fn turned(x: &[f32], cos: &[f32], sin: &[f32], (heads, half): (usize, usize), sign: f32) -> Vec<f32> {
    let mut made = vec![0.0; x.len()];
    let token = heads * 2 * half;
    let positions = cos.len() / half;
    let tokens_a_task = rows_a_task(token);
    let size = token * tokens_a_task;
    made.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(task, (made, x))| {
        for (i, (made, x)) in made.chunks_exact_mut(token).zip(x.chunks_exact(token)).enumerate() {
            let angle = (task * tokens_a_task + i) % positions * half;
            let (cos, sin) = (&cos[angle..angle + half], &sin[angle..angle + half]);
            for (made, x) in made.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                turn(made.split_at_mut(half), x.split_at(half), cos, sin, sign);
            }
        }
    });
    made
}

fn turn(made: (&mut [f32], &mut [f32]), x: (&[f32], &[f32]), cos: &[f32], sin: &[f32], sign: f32) {
    let given = x.0.iter().zip(x.1).zip(cos.iter().zip(sin));
    for ((first, second), ((&x, &y), (&cos, &sin))) in made.0.iter_mut().zip(made.1).zip(given) {
        *first = x * cos - y * (sign * sin);
        *second = y * cos + x * (sign * sin);
    }
}
