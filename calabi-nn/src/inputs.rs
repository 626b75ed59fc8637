//! What a model wants, and tensors made to fit it.

use std::num::NonZeroUsize;

use calabi_api::{InputSpec, RunError, Samples, Tensor};
use ndarray::ArrayD;
use rten::{DataType, Dimension, Value};

use crate::text;

/// Whole numbers up to here are the same in `f32`.
const EXACT: u64 = 1 << 24;

/// An input of a model. What the model leaves open is none.
pub(crate) struct Input {
    pub(crate) name: String,
    dtype: Option<DataType>,
    dims: Option<Vec<Dimension>>,
}

impl Input {
    /// An input of this name.
    pub(crate) fn new(name: String, dtype: Option<DataType>, dims: Option<Vec<Dimension>>) -> Self {
        Self { name, dtype, dims }
    }

    /// Name, type and dimensions, for messages and for those who make samples.
    pub(crate) fn spec(&self) -> InputSpec {
        let dtype = self.dtype.map_or_else(|| "any type".to_owned(), |dtype| dtype.to_string());
        let dims = match &self.dims {
            Some(dims) => dims.iter().map(dimension).collect(),
            None => vec!["...".to_owned()],
        };
        InputSpec { name: self.name.clone(), dtype, dims }
    }

    /// The number of samples that the model wants at once; none where it is free.
    pub(crate) fn batch(&self) -> Result<Option<NonZeroUsize>, RunError> {
        match self.dims.as_deref().map(<[_]>::first) {
            Some(None) => Err(self.refuse("it has no axis along which samples could lie")),
            Some(Some(Dimension::Fixed(size))) => {
                NonZeroUsize::new(*size).map(Some).ok_or_else(|| self.refuse("its first axis has no room for samples"))
            }
            _ => Ok(None),
        }
    }

    /// Checks type, rank and all dimensions but the first.
    pub(crate) fn check(&self, tensor: &Tensor) -> Result<(), RunError> {
        let given = tensor.shape();
        if matches!(tensor, Tensor::F32(_)) && self.dtype.is_some_and(|dtype| dtype != DataType::Float) {
            return Err(self.refuse(format!("given are f32 values of shape {}: give integers", text::shape(given))));
        }
        let wanted = self.dims.as_deref().unwrap_or_default();
        let known = self.dims.is_some();
        let fits = |(want, &size): (&Dimension, &usize)| !matches!(want, Dimension::Fixed(want) if *want != size);
        let rank_fits = !given.is_empty() && (!known || wanted.len() == given.len());
        if rank_fits && wanted.iter().zip(given).skip(1).all(fits) {
            Ok(())
        } else {
            Err(self.refuse(format!("given is shape {}", text::shape(given))))
        }
    }

    /// These samples as the model wants them, the last one repeated until there are `batch` of them.
    pub(crate) fn value(&self, samples: &Tensor, batch: usize) -> Result<Value, RunError> {
        let shape: Vec<_> = std::iter::once(batch).chain(samples.shape().iter().skip(1).copied()).collect();
        let entries = samples.shape().iter().skip(1).product();
        let value = match (samples, self.dtype.unwrap_or_else(|| natural(samples))) {
            (Tensor::F32(values), _) => Value::from_shape(shape, padded(flat(values), entries, batch)).ok(),
            (_, DataType::Float) => Value::from_shape(shape, padded(self.floats(samples)?, entries, batch)).ok(),
            (_, DataType::Int8) => Value::from_shape(shape, padded(self.narrow::<i8>(samples)?, entries, batch)).ok(),
            (_, DataType::UInt8) => Value::from_shape(shape, padded(self.narrow::<u8>(samples)?, entries, batch)).ok(),
            (_, DataType::Int32) => Value::from_shape(shape, padded(self.narrow::<i32>(samples)?, entries, batch)).ok(),
            _ => None,
        };
        value.ok_or_else(|| self.refuse("samples cannot be given as this type"))
    }

    /// Integers as the model's narrower ones.
    fn narrow<T: TryFrom<i64>>(&self, samples: &Tensor) -> Result<Vec<T>, RunError> {
        let narrow = |value: i64| T::try_from(value).map_err(|_| self.refuse(format!("{value} is out of its range")));
        self.integers(samples)?.into_iter().map(narrow).collect()
    }

    /// Integers as `f32`, where it holds them exactly.
    fn floats(&self, samples: &Tensor) -> Result<Vec<f32>, RunError> {
        let float = |value: i64| match value {
            #[allow(clippy::cast_possible_truncation)] // exact up to here
            value if value.unsigned_abs() <= EXACT => Ok(value as f32),
            _ => Err(self.refuse(format!("given is the integer {value}, which f32 does not hold exactly"))),
        };
        self.integers(samples)?.into_iter().map(float).collect()
    }

    fn integers(&self, samples: &Tensor) -> Result<Vec<i64>, RunError> {
        match samples {
            Tensor::I32(values) => Ok(values.iter().map(|&value| i64::from(value)).collect()),
            Tensor::I64(values) => Ok(flat(values)),
            Tensor::U8(values) => Ok(values.iter().map(|&value| i64::from(value)).collect()),
            _ => Err(self.refuse("given are no integers")),
        }
    }

    /// The error that names this input, what it wants, and what is wrong.
    pub(crate) fn refuse(&self, problem: impl Into<String>) -> RunError {
        let InputSpec { name, dtype, dims } = self.spec();
        RunError::Input { name: text::shown(&name), dtype, dims: text::dims(&dims), problem: problem.into() }
    }
}

/// The tensor of each input, in the model's order.
pub(crate) fn matched<'a>(inputs: &[Input], samples: &'a Samples) -> Result<Vec<&'a Tensor>, RunError> {
    if let Some((name, tensor)) = samples.inputs.iter().find(|(name, _)| inputs.iter().all(|i| i.name != *name)) {
        return Err(unknown(name, tensor, inputs));
    }
    inputs.iter().map(|input| only(input, samples)).collect()
}

fn only<'a>(input: &Input, samples: &'a Samples) -> Result<&'a Tensor, RunError> {
    let mut given = samples.inputs.iter().filter(|(name, _)| *name == input.name).map(|(_, tensor)| tensor);
    match (given.next(), given.next()) {
        (Some(tensor), None) => input.check(tensor).map(|()| tensor),
        (Some(_), Some(_)) => Err(input.refuse("it is given twice")),
        (None, _) => Err(input.refuse(format!("it is not given; given are {}", names(&samples.inputs)))),
    }
}

fn names(inputs: &[(String, Tensor)]) -> String {
    let names: Vec<_> = inputs.iter().map(|(name, _)| text::shown(name)).collect();
    if names.is_empty() { "no inputs at all".to_owned() } else { names.join(", ") }
}

fn unknown(name: &str, tensor: &Tensor, inputs: &[Input]) -> RunError {
    let wants = |input: &Input| {
        format!("{} ({}, {})", text::shown(&input.name), input.spec().dtype, text::dims(&input.spec().dims))
    };
    let wanted: Vec<_> = inputs.iter().map(wants).collect();
    RunError::Input {
        name: text::shown(name),
        dtype: "unknown".to_owned(),
        dims: format!("given as {}", text::shape(tensor.shape())),
        problem: format!(
            "the model has no such input, it has {}; take it out of the data, or name it in `labels` if that is what it is",
            wanted.join(", ")
        ),
    }
}

fn dimension(dim: &Dimension) -> String {
    match dim {
        Dimension::Fixed(size) => size.to_string(),
        Dimension::Symbolic(name) => name.clone(),
    }
}

/// The engine's type that holds a tensor where the model names none.
fn natural(samples: &Tensor) -> DataType {
    match samples {
        Tensor::F32(_) => DataType::Float,
        Tensor::U8(_) => DataType::UInt8,
        _ => DataType::Int32,
    }
}

fn flat<T: Copy>(values: &ArrayD<T>) -> Vec<T> {
    values.iter().copied().collect()
}

/// The last `entries` values repeated until there are `batch` times as many.
fn padded<T: Copy>(mut values: Vec<T>, entries: usize, batch: usize) -> Vec<T> {
    let last = values.len().saturating_sub(entries)..values.len();
    while values.len() < entries.saturating_mul(batch) {
        values.extend_from_within(last.clone());
    }
    values
}
