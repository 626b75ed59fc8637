//! Which samples run together.

use std::num::NonZeroUsize;
use std::ops::Range;

use calabi_api::{RunError, Tensor};

use crate::inputs::Input;

/// The most samples that run at once where the model leaves it open.
const MOST_SAMPLES: usize = 32;
/// The most values of one input that run at once where the model leaves it open, unless one sample has more.
const MOST_VALUES: usize = 4096;

/// Samples that run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Which they are.
    pub(crate) samples: Range<usize>,
    /// How many the model is given: the last one repeated where it wants more than there are. At least one.
    pub(crate) size: usize,
}

/// All samples, batch by batch.
pub(crate) struct Batches {
    next: usize,
    count: usize,
    size: NonZeroUsize,
    fixed: bool,
}

impl Batches {
    /// The batches of these tensors, one for each input of the model.
    pub(crate) fn new(inputs: &[Input], tensors: &[&Tensor]) -> Result<Self, RunError> {
        let count = count(inputs, tensors)?;
        let fixed = fixed(inputs)?;
        Ok(Self { next: 0, count, size: fixed.unwrap_or_else(|| free(tensors)), fixed: fixed.is_some() })
    }

    /// The next samples, no more than `most` of them (but at least one) where the model does not fix their number.
    pub(crate) fn take_most(&mut self, most: usize) -> Option<Batch> {
        let size = if self.fixed { self.size.get() } else { self.size.get().min(most.max(1)) };
        let samples = self.next..self.count.min(self.next.saturating_add(size));
        self.next = samples.end;
        let size = if self.fixed { size } else { samples.len() };
        (!samples.is_empty()).then_some(Batch { samples, size })
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        self.take_most(usize::MAX)
    }
}

/// The number of samples: the same for every input, and not zero.
fn count(inputs: &[Input], tensors: &[&Tensor]) -> Result<usize, RunError> {
    let count = |tensor: &Tensor| tensor.shape().first().copied().unwrap_or_default();
    let Some(first) = tensors.first().map(|tensor| count(tensor)) else {
        return Err(RunError::Failed("it has no inputs, so that no sample reaches it".to_owned()));
    };
    match inputs.iter().zip(tensors).find(|(_, tensor)| count(tensor) != first || first == 0) {
        Some((input, _)) if first == 0 => Err(input.refuse("given are no samples")),
        Some((input, tensor)) => {
            let problem = format!("given are {} samples, of the first input {first}", count(tensor));
            Err(input.refuse(problem))
        }
        None => Ok(first),
    }
}

/// The number of samples that the model's inputs agree on, where they fix one.
fn fixed(inputs: &[Input]) -> Result<Option<NonZeroUsize>, RunError> {
    let mut fixed = None;
    for input in inputs {
        match (fixed, input.batch()?) {
            (Some(former), Some(size)) if former != size => {
                let problem =
                    format!("another input wants {former} along the first axis: it cannot be that of samples");
                return Err(input.refuse(problem));
            }
            (_, size) => fixed = fixed.or(size),
        }
    }
    Ok(fixed)
}

/// A number of samples that follows from their shapes alone.
fn free(tensors: &[&Tensor]) -> NonZeroUsize {
    let values = |tensor: &&Tensor| tensor.shape().iter().skip(1).product::<usize>();
    let largest = tensors.iter().map(values).max().unwrap_or_default();
    let size = (MOST_VALUES / largest.max(1)).min(MOST_SAMPLES);
    NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN)
}
