//! Watched values: how many fit at once, and their rows without padding.

use std::collections::BTreeMap;

use calabi_api::{RunError, Tensor, Watch};
use ndarray::{ArrayView2, Axis, CowArray, Ix2};
use rten::Value;
use rten_tensor::Layout;

use super::patches;
use super::sources::{Source, Watched};
use crate::batches::Batch;
use crate::text::{self, shown};

/// Values that are kept at once, in bytes; more of them take several passes, or smaller batches.
pub(crate) const BOUND: usize = 256 << 20;

/// What a value takes, as far as it is known: of one sample.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    known: BTreeMap<String, usize>,
    most_rows: usize,
}

impl Sizes {
    /// Learns from the value of a batch of so many samples.
    pub(crate) fn learn(&mut self, name: &str, value: &Value, samples: usize) {
        let features = value.shape().last().copied().unwrap_or(1).max(1);
        let entries = value.shape().iter().product::<usize>() / samples.max(1);
        self.known.insert(name.to_owned(), entries.saturating_mul(4));
        self.most_rows = self.most_rows.max(entries / features);
    }

    /// The bytes of a value; of one that was not seen: that it has no more rows than the others.
    fn of(&self, value: &Watched) -> Option<usize> {
        let guess = (self.most_rows > 0).then(|| self.most_rows.saturating_mul(value.features()).saturating_mul(4));
        self.known.get(&value.value).copied().or(guess)
    }

    /// How many samples may run at once so that all these values fit.
    pub(crate) fn samples(&self, values: &[Watched]) -> usize {
        let bytes = values.iter().try_fold(0, |sum: usize, value| sum.checked_add(self.of(value)?));
        bytes.map_or(1, |bytes| BOUND / bytes.max(1)).max(1)
    }

    /// How many of these values, from the first, fit at once for so many samples: at least one.
    pub(crate) fn fitting(&self, values: &[Watched], samples: usize) -> usize {
        let mut bytes = 0_usize;
        let fits = |value: &&Watched| {
            bytes = bytes.saturating_add(self.of(value).unwrap_or(BOUND).saturating_mul(samples));
            bytes <= BOUND
        };
        values.iter().take_while(fits).count().max(1)
    }
}

/// A value that was watched, on one batch.
pub(crate) struct Shown<'a> {
    name: &'a str,
    shape: Vec<usize>,
    values: Vec<f32>,
    batch: &'a Batch,
    mask: Option<&'a Tensor>,
}

impl<'a> Shown<'a> {
    pub(crate) fn new(
        name: &'a str,
        value: Value,
        batch: &'a Batch,
        mask: Option<&'a Tensor>,
    ) -> Result<Self, RunError> {
        let shape = value.shape().to_vec();
        match value {
            Value::FloatTensor(values) => Ok(Self { name, shape, values: values.into_data(), batch, mask }),
            other => Err(failed(name, &format!("it is a {}, where layers read f32", other.dtype()))),
        }
    }

    /// Shows what is read of it to a watcher.
    pub(crate) fn to(&self, watch: &mut Watch<'_>, source: &Source) -> Result<(), RunError> {
        let Some(window) = &source.window else {
            let rows = self.rows(source.features)?;
            return if rows.is_empty() { Ok(()) } else { watch(&source.name, rows.view()) };
        };
        let wrong = || self.wrong(source.features);
        let [count, channels, sizes @ ..] = self.shape.as_slice() else { return Err(wrong()) };
        let kernel: usize = window.kernel.iter().product();
        if channels.checked_mul(kernel) != Some(source.features) {
            return Err(wrong());
        }
        // A sample of the batch may be several of the value.
        let each = count.checked_div(self.batch.size).filter(|each| each * self.batch.size == *count);
        let samples = each.ok_or_else(|| failed(self.name, UNEVEN))? * self.batch.samples.len();
        let too_small = || failed(self.name, &format!("a kernel of {window} does not fit its axes {sizes:?}"));
        let axes = patches::axes(window, sizes).ok_or_else(too_small)?;
        patches::show(window, &axes, [samples, *channels], &self.values, |rows| watch(&source.name, rows))
    }

    /// The rows that belong to samples of the batch and are no padding: tokens × features.
    fn rows(&self, features: usize) -> Result<CowArray<'_, f32, Ix2>, RunError> {
        let wrong = || self.wrong(features);
        let (_, lead) = self.shape.split_last().filter(|&(&last, _)| last == features).ok_or_else(wrong)?;
        let count: usize = lead.iter().product();
        let all = ArrayView2::from_shape((count, features), &self.values).map_err(|_| wrong())?;
        let kept = kept(&|problem: &str| failed(self.name, problem), lead, count, self.batch, self.mask)?;
        Ok(kept.map_or_else(|| all.into(), |kept| all.select(Axis(0), &kept).into()))
    }

    fn wrong(&self, features: usize) -> RunError {
        let shape = text::shape(&self.shape);
        failed(self.name, &format!("its shape is {shape} where a layer reads {features} features"))
    }
}

const UNEVEN: &str = "its samples do not lie along its first axis, and the last batch is not full";

fn failed(name: &str, problem: &str) -> RunError {
    RunError::Failed(format!("value {}: {problem}", shown(name)))
}

/// Which rows are kept; none where all are.
fn kept(
    failed: &dyn Fn(&str) -> RunError,
    lead: &[usize],
    count: usize,
    batch: &Batch,
    mask: Option<&Tensor>,
) -> Result<Option<Vec<usize>>, RunError> {
    let given = batch.samples.len();
    let filled = if batch.size == given {
        count
    } else if lead.first().is_some_and(|first| first % batch.size == 0) {
        count / batch.size * given
    } else {
        return Err(failed(UNEVEN));
    };
    let tokens = mask.and_then(|mask| tokens(mask, batch)).filter(|(length, _)| {
        // [batch, sequence, ...], or both as one axis
        lead.get(..2) == Some(&[batch.size, *length]) || (lead.len() == 1 && count == batch.size * length)
    });
    let Some((length, tokens)) = tokens else {
        return Ok((filled < count).then(|| (0..filled).collect()));
    };
    if tokens.iter().all(|&token| token) && filled == count {
        return Ok(None);
    }
    let inner = count / (batch.size * length).max(1);
    Ok(Some((0..filled).filter(|row| tokens.get(row / inner.max(1)).copied().unwrap_or(true)).collect()))
}

/// The sequence's length, and which tokens of the batch's samples are no padding; none where the mask is no matrix.
fn tokens(mask: &Tensor, batch: &Batch) -> Option<(usize, Vec<bool>)> {
    let &[_, length] = mask.shape() else { return None };
    let tokens = match mask.samples(batch.samples.start, batch.samples.end) {
        Tensor::F32(values) => values.iter().map(|&value| value > 0.0).collect(),
        Tensor::I32(values) => values.iter().map(|&value| value != 0).collect(),
        Tensor::I64(values) => values.iter().map(|&value| value != 0).collect(),
        Tensor::U8(values) => values.iter().map(|&value| value != 0).collect(),
        _ => return None,
    };
    Some((length, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: usize = BOUND / 4;

    fn value(shape: &[usize]) -> Value {
        Value::from_shape(shape.to_vec(), vec![0.0_f32; shape.iter().product()]).unwrap()
    }

    fn sources(names: &[&str], features: usize) -> Vec<Watched> {
        let source = |value: String| Source { name: value.clone(), value, features, window: None };
        let watched = |name: &&str| Watched { value: (*name).to_owned(), sources: vec![source((*name).to_owned())] };
        names.iter().map(watched).collect()
    }

    #[test]
    fn sizes_that_nobody_knows_are_learned_one_by_one() {
        let sizes = Sizes::default();
        let all = sources(&["a", "b"], 8);
        assert_eq!((sizes.samples(&all), sizes.fitting(&all, 1)), (1, 1));
    }

    #[test]
    fn as_many_samples_run_at_once_as_fit() {
        let mut sizes = Sizes::default();
        sizes.learn("a", &value(&[2, 16, 8]), 2); // 512 bytes a sample
        let all = sources(&["a", "b"], 8); // b is taken to be as long
        assert_eq!(sizes.samples(&all), BOUND / 1024);
        assert_eq!(sizes.samples(&all[..1]), BOUND / 512);
        assert_eq!(sizes.fitting(&all, BOUND / 1024), 2);
        assert_eq!(sizes.fitting(&all, BOUND / 1024 + 1), 1, "then one value a pass");
    }

    #[test]
    fn passes_hold_what_fits_and_at_least_one_value() {
        let sizes = |each: &[usize]| Sizes {
            known: each.iter().enumerate().map(|(i, &bytes)| (format!("v{i}"), bytes)).collect(),
            most_rows: 1,
        };
        let names = sources(&["v0", "v1", "v2"], 1);
        assert_eq!(sizes(&[2 * QUARTER, 2 * QUARTER, 1]).fitting(&names, 1), 2);
        assert_eq!(sizes(&[1, 2, 3]).fitting(&names, 1), 3);
        assert_eq!(sizes(&[5 * QUARTER, 1, 1]).fitting(&names, 1), 1);
        assert_eq!(sizes(&[5 * QUARTER, 1, 1]).samples(&names), 1);
    }

    #[test]
    fn rows_of_samples_that_only_fill_the_batch_are_left_out() {
        let batch = Batch { samples: 4..6, size: 4 };
        let given = Value::from_shape(vec![8, 1], (0..8_u8).map(f32::from).collect()).unwrap();
        let given = Shown::new("v", given, &batch, None).unwrap();
        assert_eq!(given.rows(1).unwrap().as_slice().unwrap(), [0.0, 1.0, 2.0, 3.0]);
        let uneven = Shown::new("v", value(&[1, 8, 1]), &batch, None).unwrap();
        let error = uneven.rows(1).unwrap_err().to_string();
        assert!(error.contains("value v: its samples do not lie along its first axis"), "{error}");
        assert!(Shown::new("v", Value::from_shape(vec![4, 1], vec![1_i32; 4]).unwrap(), &batch, None).is_err());
    }
}
