//! Attention in one operator: scores, softmax and the values' sums by blocks of queries, so that no sample's scores are
//! ever whole in memory and what a mask hides is not computed. Its gradient computes the scores again.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};
use rayon::prelude::*;

use super::softmax::{Mask, softmax_row};
use super::sums::sum2;
use super::{lend, like, part, tensor};

/// Queries that are treated at a time.
const QUERIES: usize = 64;

/// `softmax(scale · q kᵀ) v` of every head, over the keys that the mask lets a query see; a query that sees none gives 0.
/// `q` is batch × sequence × heads × dim; `k` and `v` are batch × sequence × key heads × dim, each key head serving
/// `heads / key heads` heads in a row. Where there are more keys than queries, the queries are those of the last of them.
///
/// # Errors
/// Where the shapes do not fit, or the tensors are not `f32` on the CPU.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: &Mask) -> Result<Tensor> {
    let (batch, queries, heads, dim) = q.dims4()?;
    let (key_batch, keys, key_heads, key_dim) = k.dims4()?;
    let fits = (key_batch, key_dim) == (batch, dim) && keys >= queries && k.dims() == v.dims();
    if !fits || key_heads == 0 || heads % key_heads != 0 || q.elem_count() == 0 {
        bail!("attention of {:?} to {:?} and {:?}", q.shape(), k.shape(), v.shape())
    }
    if mask.tokens.as_ref().is_some_and(|tokens| tokens.len() != batch * keys) {
        bail!("a mask of tokens does not fit {batch} samples of {keys}")
    }
    #[allow(clippy::cast_possible_truncation)]
    let scale = scale as f32;
    let op = Attention { scale, mask: mask.clone(), queries, sequence: keys, heads, key_heads, dim };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

struct Attention {
    scale: f32,
    mask: Mask,
    queries: usize,
    /// Of keys.
    sequence: usize,
    heads: usize,
    key_heads: usize,
    dim: usize,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let given = [part(q, q_layout)?, part(k, k_layout)?, part(v, v_layout)?];
        Ok(like(self.forward(given)?, q_layout))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        made: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [of_q, of_k, of_v] = lend(q, |q| {
            lend(k, |k| lend(v, |v| lend(made, |made| lend(gradient, |g| self.backward([q, k, v, made, g])))))
        })?;
        Ok((Some(tensor(of_q, q)?), Some(tensor(of_k, k)?), Some(tensor(of_v, v)?)))
    }
}

impl Attention {
    fn forward(&self, given: [&[f32]; 3]) -> Result<Vec<f32>> {
        let wide = self.heads * self.dim;
        let mut made = vec![0.0; given[0].len()];
        let samples = made.par_chunks_mut(self.queries * wide).enumerate();
        let tasks = samples.flat_map(|(sample, made)| {
            made.par_chunks_mut(QUERIES * wide).enumerate().map(move |(block, made)| (sample, block * QUERIES, made))
        });
        tasks.try_for_each(|(sample, first, made)| self.forward_block(given, sample, first, made))?;
        Ok(made)
    }

    /// What all heads give for a block of queries.
    fn forward_block(&self, [q, k, v]: [&[f32]; 3], sample: usize, first: usize, made: &mut [f32]) -> Result<()> {
        let (wide, narrow) = (self.heads * self.dim, self.key_heads * self.dim);
        let (start, rows) = (sample * self.sequence, made.len() / wide);
        let place = self.sequence - self.queries + first;
        let visible = self.mask.visible(place..place + rows, self.sequence);
        let q = &q[(sample * self.queries + first) * wide..][..rows * wide];
        let keys = (start + visible.start) * narrow..(start + visible.end) * narrow;
        let mut room = vec![0.0; rows * visible.len()];
        for head in 0..self.heads {
            let key_head = head * self.key_heads / self.heads;
            let k = self.head(&k[keys.clone()], key_head, self.key_heads)?;
            let v = self.head(&v[keys.clone()], key_head, self.key_heads)?;
            let shares = self.shares(self.head(q, head, self.heads)?, k, (sample, place, visible.start), &mut room)?;
            general_mat_mul(1.0, &shares, &v, 0.0, &mut self.head_mut(made, head, self.heads)?);
        }
        Ok(())
    }

    /// The softmax of the scores of a block of queries, in `room`.
    fn shares<'a>(
        &self,
        q: ArrayView2<'_, f32>,
        k: ArrayView2<'_, f32>,
        (sample, first_query, first_key): (usize, usize, usize),
        room: &'a mut [f32],
    ) -> Result<ArrayView2<'a, f32>> {
        let (rows, keys) = (q.nrows(), k.nrows());
        let mut scores = matrix_mut(&mut room[..rows * keys], (rows, keys))?;
        general_mat_mul(1.0, &q, &k.t(), 0.0, &mut scores);
        let tokens = self.mask.tokens_of(sample, self.sequence).map(|tokens| &tokens[first_key..first_key + keys]);
        for (i, row) in room[..rows * keys].chunks_exact_mut(keys).enumerate() {
            let query = first_query + i;
            let visible = self.mask.visible(query..query + 1, self.sequence);
            softmax_row(row, self.scale, visible.start - first_key..visible.end - first_key, tokens);
        }
        matrix(&room[..rows * keys], (rows, keys))
    }

    /// The gradients of queries, keys and values.
    fn backward(&self, [q, k, v, made, gradient]: [&[f32]; 5]) -> Result<[Vec<f32>; 3]> {
        if self.queries != self.sequence {
            bail!("attention to keys of earlier passes has no gradient")
        }
        let tasks = q.len() / (self.sequence * self.heads * self.dim) * self.key_heads;
        let heads: Vec<[Vec<f32>; 3]> = (0..tasks)
            .into_par_iter()
            .map(|task| self.backward_head([q, k, v, made, gradient], task / self.key_heads, task % self.key_heads))
            .collect::<Result<_>>()?;
        let group = self.heads / self.key_heads * self.dim;
        let [mut of_q, mut of_k, mut of_v] = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]];
        self.interleave(&heads, 0, group, &mut of_q);
        self.interleave(&heads, 1, self.dim, &mut of_k);
        self.interleave(&heads, 2, self.dim, &mut of_v);
        Ok([of_q, of_k, of_v])
    }

    /// Puts what every key head has made, sequence × `width`, side by side.
    fn interleave(&self, heads: &[[Vec<f32>; 3]], which: usize, width: usize, whole: &mut [f32]) {
        whole.par_chunks_mut(self.key_heads * width).enumerate().for_each(|(token, row)| {
            let (sample, at) = (token / self.sequence, token % self.sequence * width);
            for (head, row) in row.chunks_exact_mut(width).enumerate() {
                row.copy_from_slice(&heads[sample * self.key_heads + head][which][at..at + width]);
            }
        });
    }

    /// The gradients of one key head of a sample: of its group of queries (sequence × group · dim), its keys and its
    /// values (sequence × dim). With shares `p` and their gradients `h = gradient vᵀ`, the gradient of the scores is
    /// `p (h - Σ gradient · made)`.
    fn backward_head(&self, given: [&[f32]; 5], sample: usize, key_head: usize) -> Result<[Vec<f32>; 3]> {
        let [q, k, v, made, gradient] = given;
        let (wide, narrow) = (self.heads * self.dim, self.key_heads * self.dim);
        let (group, dim, start) = (self.heads / self.key_heads, self.dim, sample * self.sequence);
        let mut of_q = vec![0.0; self.sequence * group * dim];
        let [mut of_k, mut of_v] = [vec![0.0; self.sequence * dim], vec![0.0; self.sequence * dim]];
        let mut room = [vec![0.0; QUERIES * self.sequence], vec![0.0; QUERIES * self.sequence]];
        for first in (0..self.sequence).step_by(QUERIES) {
            let queries = first..(first + QUERIES).min(self.sequence);
            let visible = self.mask.visible(queries.clone(), self.sequence);
            let keys = (start + visible.start) * narrow..(start + visible.end) * narrow;
            let rows = (start + queries.start) * wide..(start + queries.end) * wide;
            let k = self.head(&k[keys.clone()], key_head, self.key_heads)?;
            let v = self.head(&v[keys], key_head, self.key_heads)?;
            let [room, slopes] = &mut room;
            for i in 0..group {
                let head = key_head * group + i;
                let q = self.head(&q[rows.clone()], head, self.heads)?;
                let gradient = self.head(&gradient[rows.clone()], head, self.heads)?;
                let made = self.head(&made[rows.clone()], head, self.heads)?;
                let shares = self.shares(q, k, (sample, first, visible.start), room)?;
                let slopes = &mut slopes[..queries.len() * visible.len()];
                let mut slopes = matrix_mut(slopes, (queries.len(), visible.len()))?;
                general_mat_mul(1.0, &gradient, &v.t(), 0.0, &mut slopes);
                self.slopes_of_scores(shares, gradient, made, &mut slopes);
                let of_keys = visible.start * dim..visible.end * dim;
                let mut of_v = matrix_mut(&mut of_v[of_keys.clone()], (visible.len(), dim))?;
                general_mat_mul(1.0, &shares.t(), &gradient, 1.0, &mut of_v);
                let mut of_k = matrix_mut(&mut of_k[of_keys], (visible.len(), dim))?;
                general_mat_mul(1.0, &slopes.t(), &q, 1.0, &mut of_k);
                let of_q = &mut of_q[queries.start * group * dim..queries.end * group * dim];
                general_mat_mul(1.0, &slopes, &k, 0.0, &mut strided_mut(of_q, i * dim, group * dim, dim)?);
            }
        }
        Ok([of_q, of_k, of_v])
    }

    /// Turns the gradients of shares into those of scores.
    fn slopes_of_scores(
        &self,
        shares: ArrayView2<'_, f32>,
        gradient: ArrayView2<'_, f32>,
        made: ArrayView2<'_, f32>,
        slopes: &mut ArrayViewMut2<'_, f32>,
    ) {
        let rows = slopes.rows_mut().into_iter().zip(shares.rows());
        for ((mut slopes, shares), (gradient, made)) in rows.zip(gradient.rows().into_iter().zip(made.rows())) {
            let level = match (gradient.as_slice(), made.as_slice()) {
                (Some(gradient), Some(made)) => sum2(gradient, made, |g, y| g * y),
                _ => gradient.dot(&made),
            };
            slopes.zip_mut_with(&shares, |slope, &share| *slope = self.scale * share * (*slope - level));
        }
    }

    fn head<'a>(&self, tokens: &'a [f32], head: usize, heads: usize) -> Result<ArrayView2<'a, f32>> {
        let rows = tokens.len() / (heads * self.dim);
        let shape = (rows, self.dim).strides((heads * self.dim, 1));
        ArrayView2::from_shape(shape, &tokens[head * self.dim..]).map_err(candle_core::Error::wrap)
    }

    fn head_mut<'a>(&self, tokens: &'a mut [f32], head: usize, heads: usize) -> Result<ArrayViewMut2<'a, f32>> {
        strided_mut(tokens, head * self.dim, heads * self.dim, self.dim)
    }
}

/// The columns from `first` up to `first + width` of rows that are `stride` long.
fn strided_mut(values: &mut [f32], first: usize, stride: usize, width: usize) -> Result<ArrayViewMut2<'_, f32>> {
    let rows = values.len() / stride;
    ArrayViewMut2::from_shape((rows, width).strides((stride, 1)), &mut values[first..])
        .map_err(candle_core::Error::wrap)
}

fn matrix(values: &[f32], shape: (usize, usize)) -> Result<ArrayView2<'_, f32>> {
    ArrayView2::from_shape(shape, values).map_err(candle_core::Error::wrap)
}

fn matrix_mut(values: &mut [f32], shape: (usize, usize)) -> Result<ArrayViewMut2<'_, f32>> {
    ArrayViewMut2::from_shape(shape, values).map_err(candle_core::Error::wrap)
}
