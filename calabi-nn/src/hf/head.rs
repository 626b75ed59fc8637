//! What follows the last block: the last norm and the map to the vocabulary, or BERT's pooler.

use calabi_api::{Output, RunError};
use candle_core::{Result, Tensor};
use ndarray::{ArrayD, IxDyn};

use super::architecture::Architecture;
use super::failed;
use super::linear::{Linear, Weight};
use super::names::End;
use super::norm::Norm;
use super::pass::Batch;
use super::store::Store;

/// Outputs that are computed at a time: bounds what lies beside the logits.
const PIECE: usize = 4096;

/// The weights behind the last block.
pub(super) enum Head {
    /// Gives logits.
    Language { norm: Norm, map: Linear, softcap: Option<f64> },
    /// Gives the states, and the first token's through the pooler.
    Encoder { pooler: Option<Linear>, hidden: usize },
}

impl Head {
    /// Reads the head.
    pub(super) fn load(store: &Store, model: &Architecture, prefix: &str) -> std::result::Result<Self, RunError> {
        let hidden = model.hidden;
        match model.names.end {
            End::Language { norm, head } => {
                let map = if is_tied(store, model) {
                    let weight = Weight::Dense(store.matrix(&format!("{prefix}{}.weight", model.names.embedding))?);
                    Linear { name: head.to_owned(), weight, bias: None, own_bias: None }
                } else {
                    store.linear(head, (None, hidden), false)?
                };
                let norm = store.norm(&format!("{prefix}{norm}"), model.norm, hidden)?;
                Ok(Self::Language { norm, map, softcap: model.softcap })
            }
            End::Encoder { pooler } => {
                let name = format!("{prefix}{pooler}");
                let pooler = store.has_linear(&name).then(|| store.linear(&name, (Some(hidden), hidden), false));
                Ok(Self::Encoder { pooler: pooler.transpose()?, hidden })
            }
        }
    }

    /// What flows into the head's linear map.
    pub(super) fn input(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        match self {
            Self::Language { norm, .. } => norm.forward(x),
            Self::Encoder { hidden, .. } => first_tokens(x, batch, *hidden),
        }
    }

    /// The model's outputs for a batch that leaves the last block.
    pub(super) fn outputs(&self, x: &Tensor, batch: &Batch) -> std::result::Result<Vec<Output>, RunError> {
        match self {
            Self::Language { norm, map, softcap } => {
                let x = norm.forward(x).map_err(failed)?;
                Ok(vec![logits(&x, map, *softcap, batch)?])
            }
            Self::Encoder { pooler, hidden } => {
                let mut outputs = vec![output("last_hidden_state", x, vec![batch.samples, batch.tokens, *hidden])?];
                if let Some(pooler) = pooler {
                    let pooled = first_tokens(x, batch, *hidden).and_then(|x| pooler.forward(&x)?.tanh());
                    outputs.push(output("pooler_output", &pooled.map_err(failed)?, vec![batch.samples, *hidden])?);
                }
                Ok(outputs)
            }
        }
    }
}

/// Whether the head is the embedding table again.
pub(super) fn is_tied(store: &Store, model: &Architecture) -> bool {
    match model.names.end {
        End::Language { head, .. } => model.tied.unwrap_or_else(|| !store.has_linear(head)),
        End::Encoder { .. } => false,
    }
}

fn logits(x: &Tensor, map: &Linear, softcap: Option<f64>, batch: &Batch) -> std::result::Result<Output, RunError> {
    let (rows, vocabulary) = (batch.samples * batch.tokens, map.outputs().map_err(failed)?);
    let mut values = vec![0.0; rows * vocabulary];
    for start in (0..vocabulary).step_by(PIECE) {
        let width = PIECE.min(vocabulary - start);
        let piece = map.part(start, width).and_then(|map| map.forward(x)).and_then(|y| capped(y, softcap));
        let piece: Vec<f32> = piece.and_then(|y| y.flatten_all()?.to_vec1()).map_err(failed)?;
        for (row, piece) in values.chunks_mut(vocabulary).zip(piece.chunks(width)) {
            row.iter_mut().skip(start).zip(piece).for_each(|(to, from)| *to = *from);
        }
    }
    shaped("logits", values, vec![batch.samples, batch.tokens, vocabulary])
}

fn capped(y: Tensor, softcap: Option<f64>) -> Result<Tensor> {
    softcap.map_or(Ok(y.clone()), |cap| (y / cap)?.tanh()? * cap)
}

/// The rows of the first tokens.
fn first_tokens(x: &Tensor, batch: &Batch, hidden: usize) -> Result<Tensor> {
    x.reshape((batch.samples, batch.tokens, hidden))?.narrow(1, 0, 1)?.contiguous()?.reshape((batch.samples, hidden))
}

fn output(name: &str, values: &Tensor, shape: Vec<usize>) -> std::result::Result<Output, RunError> {
    shaped(name, values.flatten_all().and_then(|values| values.to_vec1()).map_err(failed)?, shape)
}

fn shaped(name: &str, values: Vec<f32>, shape: Vec<usize>) -> std::result::Result<Output, RunError> {
    let values = ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(|e| RunError::Failed(e.to_string()))?;
    Ok(Output { name: name.to_owned(), values })
}
