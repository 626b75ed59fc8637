//! The samples that a checkpoint is fed: token numbers, which of them are padding, and which sentence they are in.

use std::sync::Arc;

use calabi_api::{InputSpec, RunError, Samples, Tensor};

use super::architecture::Architecture;
use crate::text;

const IDS: &str = "input_ids";
const MASK: &str = "attention_mask";
const SEGMENTS: &str = "token_type_ids";

/// The inputs that a model takes.
pub(super) fn inputs(model: &Architecture) -> Vec<InputSpec> {
    let segments = model.names.segments.map(|_| SEGMENTS);
    [Some(IDS), Some(MASK), segments].into_iter().flatten().map(spec).collect()
}

fn spec(name: &str) -> InputSpec {
    let dims = vec!["samples".to_owned(), "sequence".to_owned()];
    InputSpec { name: name.to_owned(), dtype: "int64".to_owned(), dims }
}

/// Samples, each as many tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) samples: usize,
    /// Of each sample.
    pub(super) length: usize,
    ids: Vec<usize>,
    mask: Option<Vec<bool>>,
    segments: Option<Vec<usize>>,
}

impl Tokens {
    /// Checks samples against the model.
    pub(super) fn read(model: &Architecture, samples: &Samples) -> Result<Self, RunError> {
        Self::read_after(model, samples, 0)
    }

    /// Checks samples that continue so many tokens.
    pub(super) fn read_after(model: &Architecture, samples: &Samples, before: usize) -> Result<Self, RunError> {
        let known = inputs(model);
        if let Some((name, tensor)) = samples.inputs.iter().find(|(name, _)| known.iter().all(|k| k.name != *name)) {
            return Err(unknown(name, tensor, &known));
        }
        let ids = given(samples, IDS)?.ok_or_else(|| refuse(IDS, "it is not given"))?;
        let &[count, length] = ids.shape() else {
            return Err(refuse(IDS, &format!("given is shape {}", text::shape(ids.shape()))));
        };
        if count == 0 || length == 0 {
            return Err(refuse(IDS, "given are no tokens"));
        }
        let all = before.saturating_add(length);
        if let Some(longest) = model.longest.filter(|&longest| all > longest) {
            return Err(refuse(IDS, &format!("{all} tokens are more than the {longest} positions it has")));
        }
        let whole = |name, limit| match given(samples, name)? {
            Some(tensor) if tensor.shape() != ids.shape() => {
                let (mine, theirs) = (text::shape(tensor.shape()), text::shape(ids.shape()));
                Err(refuse(name, &format!("its shape is {mine}, that of {IDS} {theirs}")))
            }
            Some(tensor) => numbers(tensor, name, limit).map(Some),
            None => Ok(None),
        };
        let mask = whole(MASK, 2)?.map(|mask| mask.into_iter().map(|n| n == 1).collect());
        let numbers = numbers(ids, IDS, model.vocabulary)?;
        Ok(Self { samples: count, length, ids: numbers, mask, segments: whole(SEGMENTS, usize::MAX)? })
    }

    /// The token numbers of a sample.
    pub(super) fn ids(&self, sample: usize) -> &[usize] {
        part(&self.ids, sample, self.length)
    }

    /// The sentence of each token of a sample: the first where nothing is given.
    pub(super) fn segments(&self, sample: usize) -> Option<&[usize]> {
        self.segments.as_deref().map(|all| part(all, sample, self.length))
    }

    /// Which tokens of a sample are no padding; none where none is padding.
    pub(super) fn mask(&self, sample: usize) -> Option<Arc<[bool]>> {
        let mask = self.mask.as_deref().map(|all| part(all, sample, self.length))?;
        mask.contains(&false).then(|| Arc::from(mask))
    }
}

fn part<T>(all: &[T], sample: usize, length: usize) -> &[T] {
    all.get(sample * length..(sample + 1) * length).unwrap_or_default()
}

fn given<'a>(samples: &'a Samples, name: &str) -> Result<Option<&'a Tensor>, RunError> {
    let mut given = samples.inputs.iter().filter(|(other, _)| other == name).map(|(_, tensor)| tensor);
    match (given.next(), given.next()) {
        (tensor, None) => Ok(tensor),
        _ => Err(refuse(name, "it is given twice")),
    }
}

/// Whole numbers from 0 up to `limit`, which they do not reach.
fn numbers(tensor: &Tensor, name: &str, limit: usize) -> Result<Vec<usize>, RunError> {
    let number = |value: i64| {
        let number = usize::try_from(value).ok().filter(|&n| n < limit);
        number.ok_or_else(|| refuse(name, &format!("{value} is not among its {limit} values")))
    };
    match tensor {
        Tensor::I64(values) => values.iter().map(|&value| number(value)).collect(),
        Tensor::I32(values) => values.iter().map(|&value| number(i64::from(value))).collect(),
        Tensor::U8(values) => values.iter().map(|&value| number(i64::from(value))).collect(),
        _ => Err(refuse(name, "given is floating point: give integers")),
    }
}

fn unknown(name: &str, tensor: &Tensor, known: &[InputSpec]) -> RunError {
    let names: Vec<_> = known.iter().map(|spec| spec.name.as_str()).collect();
    RunError::Input {
        name: text::shown(name),
        dtype: "unknown".to_owned(),
        dims: format!("given as {}", text::shape(tensor.shape())),
        problem: format!("the model takes {}: take it out of the data", names.join(", ")),
    }
}

fn refuse(name: &str, problem: &str) -> RunError {
    let InputSpec { name, dtype, dims } = spec(name);
    RunError::Input { name, dtype, dims: text::dims(&dims), problem: problem.to_owned() }
}
