//! A language model, all of it in memory: from windows of tokens to a loss, and back through the blocks.
//!
//! On the way back a block is run once more, from the rows that entered it, unless what it computed was held: what is held
//! is bounded, whatever the number of blocks.

use std::path::Path;
use std::sync::Arc;

use calabi_api::RunError;
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use crate::hf::block::Block;
use crate::hf::embed::Embedding;
use crate::hf::failed;
use crate::hf::head::Head;
use crate::hf::linear::{Linear, Weight};
use crate::hf::norm::Norm;
use crate::hf::ops::{self, CrossEntropy, Slopes, Vocabulary, Wanted};
use crate::hf::pass::{Batch, unwatched};
use crate::hf::runner::HfRunner;
use crate::hf::store::tensor_of;
use crate::hf::tokens::Tokens;

/// What blocks compute is held up to so many bytes.
const HELD: usize = 2 << 30;

/// A checkpoint and its weights.
pub(super) struct Network {
    pub(super) runner: HfRunner,
    pub(super) whole: Whole,
}

/// The weights of a language model behind its embedding.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Norm,
    pub(super) map: Linear,
    softcap: Option<f64>,
    /// Bytes of what blocks compute that are held for the way back.
    pub(super) held: usize,
}

/// Variables, or their gradients: of each block, and of what stands behind the last.
pub(super) type OfParts<T> = Vec<Vec<T>>;

impl Network {
    /// Reads a language model.
    pub(super) fn open(path: &Path) -> std::result::Result<Self, RunError> {
        let runner = HfRunner::open(path)?;
        let (store, model, prefix) = (&runner.store, &runner.model, runner.prefix);
        let Head::Language { norm, map, softcap } = Head::load(store, model, prefix)? else {
            let problem = "it predicts no tokens, and only language models are trained".to_owned();
            return Err(RunError::Load { path: path.to_owned(), problem });
        };
        let blocks = (0..model.blocks.len()).map(|number| Block::load(store, model, prefix, number));
        let whole = Whole { blocks: blocks.collect::<std::result::Result<_, _>>()?, norm, map, softcap, held: HELD };
        Ok(Self { runner, whole })
    }

    /// The rows that enter the first block for these windows.
    pub(super) fn entering(
        &self,
        tokens: &Tokens,
        windows: &[usize],
    ) -> std::result::Result<(Tensor, Batch), RunError> {
        let HfRunner { store, model, prefix, .. } = &self.runner;
        let embedding = Embedding::load(store, model, prefix, 0..tokens.length)?;
        let (mut values, mut mask) = (Vec::new(), Vec::new());
        for &window in windows {
            values.extend(embedding.sample(tokens, window)?);
            match tokens.mask(window) {
                Some(tokens) => mask.extend_from_slice(&tokens),
                None => mask.resize(mask.len() + tokens.length, true),
            }
        }
        let mask = mask.contains(&false).then(|| Arc::from(mask));
        let rows = (windows.len() * tokens.length, model.hidden);
        Ok((tensor_of(values, rows)?, Batch::new(model, windows.len(), tokens.length, mask)?))
    }
}

impl Whole {
    /// The rows that leave the last block, without what leads back.
    pub(super) fn behind_blocks(&self, x: &Tensor, batch: &Batch) -> std::result::Result<Tensor, RunError> {
        self.blocks.iter().try_fold(x.clone(), |x, block| Ok(through(block, &x, batch)?.detach()))
    }

    /// What meets the map to the vocabulary, for rows that leave the last block.
    pub(super) fn features(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(x)?;
        match &self.map.weight {
            Weight::Dense(_) => Ok(x),
            Weight::LowRank { right, .. } => ops::linear(&x, right, None),
        }
    }

    /// The map to the vocabulary, fixed.
    pub(super) fn vocabulary(&self) -> Result<Vocabulary> {
        let weight = match &self.map.weight {
            Weight::Dense(weight) => weight,
            Weight::LowRank { left, .. } => left,
        };
        let bias = self.map.bias.as_ref().map(|bias| bias.detach().to_vec1()).transpose()?;
        #[allow(clippy::cast_possible_truncation)] // the models cap in f32
        let softcap = self.softcap.map(|cap| cap as f32);
        Ok(Vocabulary { weight: weight.detach(), bias, softcap })
    }

    /// The sum of the losses of these rows.
    pub(super) fn loss(&self, x: &Tensor, batch: &Batch, wanted: &Wanted<'_>) -> std::result::Result<f64, RunError> {
        let x = self.behind_blocks(x, batch)?;
        let made =
            self.features(&x).and_then(|x| ops::cross_entropy(&self.vocabulary()?, &x.detach(), wanted, Slopes::None));
        made.map(|made| made.sum).map_err(failed)
    }

    /// The sum of the losses of these rows, and the gradients of `share` times that sum by these variables, which are
    /// placed in this model.
    pub(super) fn gradients(
        &self,
        vars: &OfParts<Var>,
        (x, batch): (&Tensor, &Batch),
        wanted: &Wanted<'_>,
        share: f32,
    ) -> std::result::Result<(f64, OfParts<Vec<f32>>), RunError> {
        let first_held = self.blocks.len() - self.held(x.dim(0).map_err(failed)?);
        let (mut x, mut passed) = (x.clone(), Vec::new());
        for (number, block) in self.blocks.iter().enumerate() {
            let input = Var::from_tensor(&x).map_err(failed)?;
            let y = through(block, input.as_tensor(), batch)?;
            x = y.detach();
            passed.push((block, input, (number >= first_held).then_some(y)));
        }
        let end = vars.get(self.blocks.len()).map_or(&[][..], Vec::as_slice);
        let (sum, of_end, mut slope) = self.end_gradients(end, &x, wanted, share).map_err(failed)?;
        let mut all = vec![of_end];
        let mut of_blocks = vars.iter().take(self.blocks.len()).rev();
        while let (Some((block, input, held)), Some(vars)) = (passed.pop(), of_blocks.next()) {
            let y = held.map_or_else(|| through(block, input.as_tensor(), batch), Ok)?;
            let gradients = backward(&y, &slope).map_err(failed)?;
            all.push(of_vars(&gradients, vars).map_err(failed)?);
            slope = gradients.get(&input).cloned().map_or_else(|| input.zeros_like(), Ok).map_err(failed)?;
        }
        all.reverse();
        Ok((sum, all))
    }

    /// The sum of the losses, the gradients behind the last block, and the slopes by the rows that leave it.
    fn end_gradients(
        &self,
        vars: &[Var],
        x: &Tensor,
        wanted: &Wanted<'_>,
        share: f32,
    ) -> Result<(f64, Vec<Vec<f32>>, Tensor)> {
        let input = Var::from_tensor(x)?;
        let features = self.features(input.as_tensor())?;
        let left = match &self.map.weight {
            Weight::LowRank { left, .. } if left.is_variable() => Some(left),
            _ => None,
        };
        let slopes = if left.is_some() { Slopes::OfRowsAndWeight { share } } else { Slopes::OfRows { share } };
        let CrossEntropy { sum, of_rows, of_weight } =
            ops::cross_entropy(&self.vocabulary()?, &features.detach(), wanted, slopes)?;
        let of_rows = of_rows.map_or_else(|| features.zeros_like(), Ok)?;
        let mut gradients = backward(&features, &of_rows)?;
        if let (Some(left), Some(of_weight)) = (left, of_weight) {
            gradients.insert(left, of_weight);
        }
        let of_input = gradients.get(&input).cloned().map_or_else(|| input.zeros_like(), Ok)?;
        Ok((sum, of_vars(&gradients, vars)?, of_input))
    }

    /// The number of blocks, from the last on, of which all that they compute for so many rows can be held.
    fn held(&self, rows: usize) -> usize {
        let bytes =
            |block: &Block| 4 * rows * block.clone().linears_mut().into_iter().map(|layer| width(layer)).sum::<usize>();
        let mut sum = 0;
        let fits = self.blocks.iter().rev().map(bytes).take_while(|bytes| {
            sum += bytes;
            sum <= self.held
        });
        fits.count()
    }
}

/// Numbers a row that a layer, and what follows it, computes: about twice its outputs.
fn width(layer: &Linear) -> usize {
    let rank = match &layer.weight {
        Weight::Dense(_) => 0,
        Weight::LowRank { right, .. } => right.dim(0).unwrap_or_default(),
    };
    2 * layer.outputs().unwrap_or_default() + rank
}

fn through(block: &Block, x: &Tensor, batch: &Batch) -> std::result::Result<Tensor, RunError> {
    let y = block.forward(x, batch, &mut unwatched)?;
    y.ok_or_else(|| RunError::Failed("a block stopped before its end".to_owned()))
}

/// Gradients of `Σ y · slope`: the slopes of what follows are handed on.
fn backward(y: &Tensor, slope: &Tensor) -> Result<GradStore> {
    (y * slope.detach())?.sum_all()?.backward()
}

fn of_vars(gradients: &GradStore, vars: &[Var]) -> Result<Vec<Vec<f32>>> {
    let gradient = |var: &Var| match gradients.get(var) {
        Some(gradient) => gradient.flatten_all()?.to_vec1(),
        None => Ok(vec![0.0; var.elem_count()]),
    };
    vars.iter().map(gradient).collect()
}
