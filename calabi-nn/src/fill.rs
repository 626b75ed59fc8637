//! Inputs that follow from the others: masks, positions, an empty key-value cache.

use calabi_api::{InputSpec, RunError, Samples, Tensor};
use ndarray::{ArrayD, IxDyn};

use crate::text;

/// The input that token numbers go to.
pub(crate) const IDS: &str = "input_ids";
/// The input that tells tokens from padding.
pub(crate) const MASK: &str = "attention_mask";

/// Adds the inputs that the model wants and the samples lack, by their names.
///
/// # Errors
/// [`RunError::Input`] where an input is missing that cannot be made.
pub(crate) fn fill(mut samples: Samples, inputs: &[InputSpec]) -> Result<Samples, RunError> {
    for input in inputs {
        if samples.inputs.iter().all(|(name, _)| *name != input.name) {
            let made = made(input, &samples)?;
            samples.inputs.push((input.name.clone(), made));
        }
    }
    Ok(samples)
}

fn made(input: &InputSpec, samples: &Samples) -> Result<Tensor, RunError> {
    let count = samples.count();
    match input.name.as_str() {
        MASK => tokens(input, samples, |_| 1),
        "position_ids" => tokens(input, samples, |position| position),
        "token_type_ids" => tokens(input, samples, |_| 0),
        "use_cache_branch" => Ok(Tensor::U8(ArrayD::zeros(IxDyn(&[count])))),
        name if name.starts_with("past_key_values") => empty(input, count),
        _ => Err(refused(input, &missing(samples))),
    }
}

/// A number for every token, from its position.
fn tokens(input: &InputSpec, samples: &Samples, number: impl Fn(i64) -> i64) -> Result<Tensor, RunError> {
    let ids = samples.inputs.iter().find(|(name, _)| name == IDS).map(|(_, ids)| ids.shape());
    match ids {
        Some(&[count, length]) if input.dims.len() == 2 || input.dims == ["..."] => {
            let numbers = (0_i64..).take(length).map(number).collect::<Vec<_>>();
            let array = ArrayD::from_shape_vec(IxDyn(&[count, length]), numbers.repeat(count));
            array.map(Tensor::I64).map_err(|error| refused(input, &error.to_string()))
        }
        _ => Err(refused(
            input,
            &format!("{}; it can be made for `{IDS}` of [samples, sequence] only", missing(samples)),
        )),
    }
}

/// A cache of samples, without tokens: no length along the axis of past tokens.
fn empty(input: &InputSpec, count: usize) -> Result<Tensor, RunError> {
    let free: Vec<_> = (1..input.dims.len()).filter(|&axis| size(input, axis).is_none()).collect();
    let &[past] = free.as_slice() else {
        return Err(refused(input, "it is not given, and which of its axes is that of past tokens cannot be told"));
    };
    if size(input, 0).is_some_and(|size| size != 1) {
        return Err(refused(input, "it is not given, and its first axis is not that of samples"));
    }
    let dim = |axis| match axis {
        0 => count,
        axis if axis == past => 0,
        axis => size(input, axis).unwrap_or_default(),
    };
    let shape: Vec<_> = (0..input.dims.len()).map(dim).collect();
    let values =
        ArrayD::from_shape_vec(IxDyn(&shape), Vec::new()).map_err(|error| refused(input, &error.to_string()))?;
    Ok(Tensor::F32(values))
}

/// The size of an axis, if the model fixes it.
fn size(input: &InputSpec, axis: usize) -> Option<usize> {
    input.dims.get(axis).and_then(|dim| dim.parse().ok())
}

fn missing(samples: &Samples) -> String {
    let given: Vec<_> = samples.inputs.iter().map(|(name, _)| text::shown(name)).collect();
    format!("it is not given; given are {}", given.join(", "))
}

pub(crate) fn refused(input: &InputSpec, problem: &str) -> RunError {
    RunError::Input {
        name: text::shown(&input.name),
        dtype: input.dtype.clone(),
        dims: text::dims(&input.dims),
        problem: problem.to_owned(),
    }
}
