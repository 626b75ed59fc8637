//! Language models that write: all weights in memory, and the keys and values of what was read.

use std::path::Path;

use calabi_api::{RunError, Samples, Tensor as Values};
use ndarray::{Array1, Array2};

use super::attention::Past;
use super::block::Block;
use super::embed::Embedding;
use super::failed;
use super::head::Head;
use super::pass::{Batch, unwatched};
use super::runner::HfRunner;
use super::store::tensor_of;
use super::tokens::Tokens;

/// A language model of a checkpoint folder, dense or factorized by calabi, that reads token after token.
///
/// Unlike [`HfRuntime`](crate::HfRuntime), it holds all weights in memory in `f32`, beside the keys and values of the
/// tokens that it has read.
///
/// # Examples
/// ```
/// use calabi_nn::Generator;
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/llama");
/// let mut model = Generator::open(folder.as_ref())?;
/// let written = model.greedy(&[3, 1, 4], 5)?;
/// model.forget();
/// model.read(&[3])?;
/// let logits = model.read(&[1, 4])?; // of what follows 3, 1, 4
/// assert!(logits.iter().all(|&logit| logit <= logits[written[0] as usize] + 1e-4));
/// # Ok::<(), calabi_api::RunError>(())
/// ```
pub struct Generator {
    runner: HfRunner,
    blocks: Vec<Block>,
    head: Head,
    pasts: Vec<Past>,
    read: usize,
}

impl Generator {
    /// Reads a checkpoint folder.
    ///
    /// # Errors
    /// Where it cannot be read, or [`HfRuntime`](crate::HfRuntime) does not run it, or it predicts no tokens.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        let runner = HfRunner::open(path)?;
        let (store, model, prefix) = (&runner.store, &runner.model, runner.prefix);
        let head = Head::load(store, model, prefix)?;
        if matches!(head, Head::Encoder { .. }) {
            let problem = "it predicts no tokens".to_owned();
            return Err(RunError::Load { path: path.to_owned(), problem });
        }
        let blocks = (0..model.blocks.len()).map(|number| Block::load(store, model, prefix, number));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let pasts = blocks.iter().map(|_| Past::default()).collect();
        Ok(Self { runner, blocks, head, pasts, read: 0 })
    }

    /// Reads tokens that follow those read so far, at least one; gives the logits of what follows the last, one for each
    /// token of the vocabulary.
    ///
    /// # Errors
    /// Where a token is not in the vocabulary, or there are more than the model has positions for: nothing is read then.
    /// After any other error all is forgotten.
    pub fn read(&mut self, tokens: &[u32]) -> Result<Array1<f32>, RunError> {
        let checked = Tokens::read_after(&self.runner.model, &sample(tokens), self.read)?;
        let logits = self.read_checked(tokens, &checked);
        if logits.is_err() {
            self.forget();
        }
        logits
    }

    fn read_checked(&mut self, tokens: &[u32], checked: &Tokens) -> Result<Array1<f32>, RunError> {
        let (model, positions) = (&self.runner.model, self.read..self.read + tokens.len());
        let embedding = Embedding::load(&self.runner.store, model, self.runner.prefix, positions.clone())?;
        let states = embedding.sample(checked, 0)?;
        let batch = Batch::continued(model, positions.clone())?;
        let mut x = tensor_of(states.into_raw_vec_and_offset().0, (tokens.len(), model.hidden))?;
        for (block, past) in self.blocks.iter().zip(&mut self.pasts) {
            let y = block.forward_after(&x, &batch, Some(past), &mut unwatched)?;
            x = y.ok_or_else(|| RunError::Failed("a block stopped before its end".to_owned()))?;
        }
        self.read = positions.end;
        let last = x.narrow(0, tokens.len() - 1, 1).map_err(failed)?;
        let outputs = self.head.outputs(&last, &Batch { tokens: 1, ..batch })?;
        let logits = outputs.into_iter().next().map(|output| output.values.flatten().to_owned());
        logits.ok_or_else(|| RunError::Failed("the head gives no logits".to_owned()))
    }

    /// Reads `prompt`, then `count` times the likeliest next token; gives those.
    ///
    /// # Errors
    /// As [`Generator::read`].
    pub fn greedy(&mut self, prompt: &[u32], count: usize) -> Result<Vec<u32>, RunError> {
        let mut written = Vec::with_capacity(count);
        while written.len() < count {
            let logits = self.read(written.last().map_or(prompt, std::slice::from_ref))?;
            written.push(likeliest(&logits));
        }
        Ok(written)
    }

    /// Forgets what was read: the next token is the first.
    pub fn forget(&mut self) {
        self.pasts.fill_with(Past::default);
        self.read = 0;
    }
}

fn sample(tokens: &[u32]) -> Samples {
    let ids = Array2::from_shape_fn((1, tokens.len()), |(_, i)| tokens.get(i).copied().map_or(-1, i64::from));
    Samples { inputs: vec![("input_ids".to_owned(), Values::I64(ids.into_dyn()))] }
}

/// The place of the largest value, the first of equals.
fn likeliest(logits: &Array1<f32>) -> u32 {
    let best = logits.iter().enumerate().fold(
        (0, f32::NEG_INFINITY),
        |best, (i, &logit)| {
            if logit > best.1 { (i, logit) } else { best }
        },
    );
    u32::try_from(best.0).unwrap_or(u32::MAX)
}
