//! Samples with their labels, as `[verify]` names them.

use std::collections::BTreeMap;
use std::path::Path;

use calabi_api::{RunError, Samples, Tensor, nearest};
use ndarray::ArrayD;

use crate::{read_npz, text};

/// What a model is fed, and what it should answer.
///
/// ```
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/held-out.npz").as_ref();
/// let calabi_nn::Labelled { samples, labels } = calabi_nn::read_samples(file, Some("labels"))?;
/// assert_eq!(labels.map(|labels| labels.len()), Some(samples.count()));
/// # Ok::<(), calabi_api::RunError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// The model's inputs, in the order of their names.
    pub samples: Samples,
    /// The right class of each sample; samples along the first axis.
    pub labels: Option<ArrayD<i64>>,
}

/// Reads samples from an `.npz` file: every array is an input of its name, all but the one named `labels`.
///
/// ```
/// use calabi_nn::read_samples;
///
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/held-out.npz").as_ref();
/// let read = read_samples(file, Some("labels"))?;
/// let names: Vec<_> = read.samples.inputs.iter().map(|(name, _)| name.as_str()).collect();
/// assert_eq!((names, read.samples.count(), read.labels.is_some()), (vec!["image"], 360, true));
/// assert!(read_samples(file, Some("classes")).is_err());
/// # Ok::<(), calabi_api::RunError>(())
/// ```
///
/// # Errors
/// [`RunError::Data`] as [`read_npz`], and where there is no array of that name, the labels are no integers, arrays
/// differ in their number of samples, or there are no samples.
pub fn read_samples(path: &Path, labels: Option<&str>) -> Result<Labelled, RunError> {
    labelled(read_npz(path)?, labels).map_err(|problem| RunError::Data { path: path.to_owned(), problem })
}

/// Arrays as samples, with the labels apart.
pub(crate) fn labelled(mut arrays: BTreeMap<String, Tensor>, labels: Option<&str>) -> Result<Labelled, String> {
    let labels = labels.map(|name| split_off(&mut arrays, name)).transpose()?;
    let samples = Samples { inputs: arrays.into_iter().collect() };
    same_count(&samples, labels.as_ref())?;
    Ok(Labelled { samples, labels })
}

/// Takes the labels out of the arrays.
fn split_off(arrays: &mut BTreeMap<String, Tensor>, name: &str) -> Result<ArrayD<i64>, String> {
    let Some(labels) = arrays.remove(name) else {
        let known: Vec<_> = arrays.keys().map(|known| text::shown(known)).collect();
        let near = nearest(name, arrays.keys().map(String::as_str));
        let hint = near.map(|near| format!("; did you mean {}?", text::shown(near))).unwrap_or_default();
        return Err(format!("it has no array {} of labels; it has {}{hint}", text::shown(name), known.join(", ")));
    };
    match labels {
        Tensor::I64(labels) => Ok(labels),
        Tensor::I32(labels) => Ok(labels.mapv(i64::from)),
        Tensor::U8(labels) => Ok(labels.mapv(i64::from)),
        _ => Err(format!("{}: labels are integers, the numbers of classes", text::shown(name))),
    }
}

/// Checks that all arrays have the same number of samples, and that there are some.
fn same_count(samples: &Samples, labels: Option<&ArrayD<i64>>) -> Result<(), String> {
    let inputs = samples.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.shape()));
    let all: Vec<_> = inputs.chain(labels.map(|labels| ("the array of labels", labels.shape()))).collect();
    let mut counts = Vec::with_capacity(all.len());
    for &(name, shape) in &all {
        let name = text::shown(name);
        let count = *shape.first().ok_or_else(|| format!("{name} is a single number: samples need a first axis"))?;
        counts.push((name, count));
    }
    match counts.as_slice() {
        _ if samples.inputs.is_empty() => Err("it holds no inputs".to_owned()),
        [(name, 0), ..] => Err(format!("{name} holds no samples")),
        [(first, count), rest @ ..] => match rest.iter().find(|(_, other)| other != count) {
            Some((name, other)) => Err(format!("{first} holds {count} samples, {name} {other}")),
            None => Ok(()),
        },
        [] => Ok(()),
    }
}
