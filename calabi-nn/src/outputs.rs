//! Outputs of several batches, joined.

use calabi_api::{Output, RunError};
use ndarray::{ArrayD, IxDyn};
use rten::Value;
use rten_tensor::{AsView, Layout};

use crate::batches::Batch;
use crate::text;

/// An output as it grows.
pub(crate) struct Joined {
    name: String,
    /// Of one sample; none before the first batch.
    shape: Option<Vec<usize>>,
    count: usize,
    values: Vec<f32>,
}

impl Joined {
    /// An output of this name, without samples.
    pub(crate) fn new(name: String) -> Self {
        Self { name, shape: None, count: 0, values: Vec::new() }
    }

    /// Adds the samples of a batch, without those that fill it up.
    pub(crate) fn push(&mut self, value: &Value, batch: &Batch) -> Result<(), RunError> {
        let (size, count) = (batch.size, batch.samples.len());
        let shape = value.shape().to_vec();
        let Some((_, sample)) = shape.split_first().filter(|&(&first, _)| first == size) else {
            return Err(self.failed(&format!(
                "its shape is {} for {size} samples, which have to lie along its first axis",
                text::shape(&shape)
            )));
        };
        if self.shape.get_or_insert_with(|| sample.to_vec()) != sample {
            return Err(self.failed("its shape depends on the values of the samples: outputs cannot be compared"));
        }
        let values =
            floats(value).ok_or_else(|| self.failed(&format!("it is a {}, no tensor of numbers", value.dtype())))?;
        self.values.extend(values.iter().take(values.len() / size * count));
        self.count += count;
        Ok(())
    }

    /// The output of all samples.
    pub(crate) fn finish(self) -> Result<Output, RunError> {
        let failed = self.failed("its values do not fill its shape");
        let sample = self.shape.unwrap_or_default();
        let shape: Vec<_> = std::iter::once(self.count).chain(sample).collect();
        let values = ArrayD::from_shape_vec(IxDyn(&shape), self.values).map_err(|_| failed)?;
        Ok(Output { name: self.name, values })
    }

    fn failed(&self, problem: &str) -> RunError {
        RunError::Failed(format!("output {}: {problem}", text::shown(&self.name)))
    }
}

/// The values as `f32`: integers beyond 2^24 are rounded. None for what is no tensor.
fn floats(value: &Value) -> Option<Vec<f32>> {
    match value {
        Value::FloatTensor(values) => Some(values.to_vec()),
        Value::Int32Tensor(values) => Some(values.iter().map(|&value| value as f32).collect()),
        Value::Int8Tensor(values) => Some(values.iter().map(|&value| f32::from(value)).collect()),
        Value::UInt8Tensor(values) => Some(values.iter().map(|&value| f32::from(value)).collect()),
        _ => None,
    }
}
