//! Blocks that the sequential pass has finished.

use std::io::{Read, Write};
use std::path::PathBuf;

use calabi_api::Factors;
use ndarray::ArrayD;

use super::factors::{read_factors, write_factors};
use super::values::{put_f32s, put_f64, put_length, put_text, take_f32s, take_f64, take_length, take_text};
use super::whole::{self, damaged};
use super::{BlockKey, Store};
use crate::report::BlockReport;
use crate::sequential::Fitted;
use crate::{Change, Error};

/// What files of blocks are called after their keys.
pub(super) const BLOCK: &str = "block";

/// What became of a block.
#[derive(Debug, PartialEq)]
pub(crate) struct FinishedBlock {
    /// Of its layers, in the order of the plan.
    pub(crate) layers: Vec<(Factors, Fitted)>,
    /// Other tensors that were tuned, by name.
    pub(crate) amended: Vec<(String, ArrayD<f32>)>,
    /// What tuning did, where there was any.
    pub(crate) report: Option<BlockReport>,
}

impl Store {
    fn block_path(&self, key: &BlockKey) -> PathBuf {
        self.entries.join(format!("{key}.{BLOCK}"))
    }

    /// Whether this block is known; one that is damaged is not.
    pub(crate) fn knows_block(&self, key: &BlockKey) -> bool {
        whole::open(&self.block_path(key)).is_ok()
    }

    /// A block that is known.
    pub(crate) fn take_block(&self, key: &BlockKey) -> Result<FinishedBlock, Error> {
        let path = self.block_path(key);
        whole::content(&path).and_then(|mut from| read(&mut from)).map_err(|e| Error::io("read", path, e))
    }

    /// Keeps a block.
    pub(crate) fn put_block(&self, key: &BlockKey, block: &FinishedBlock) -> Result<(), Error> {
        let path = self.block_path(key);
        let written = whole::create(&path, self.lasting, |to| write(to, block));
        written.map(drop).map_err(|e| Error::io("write", path, e))
    }
}

fn write(to: &mut dyn Write, block: &FinishedBlock) -> std::io::Result<()> {
    put_length(to, block.layers.len())?;
    for (factors, fitted) in &block.layers {
        write_factors(to, factors)?;
        put_length(to, usize::from(fitted.refined))?;
        for number in [fitted.predicted_error, fitted.measured_error, fitted.seconds] {
            put_f64(to, number)?;
        }
    }
    put_length(to, block.amended.len())?;
    for (name, values) in &block.amended {
        put_text(to, name)?;
        put_length(to, values.ndim())?;
        values.shape().iter().try_for_each(|&length| put_length(to, length))?;
        put_f32s(to, values)?;
    }
    put_length(to, usize::from(block.report.is_some()))?;
    block.report.iter().try_for_each(|report| write_report(to, report))
}

fn write_report(to: &mut dyn Write, report: &BlockReport) -> std::io::Result<()> {
    put_length(to, report.block)?;
    put_length(to, usize::from(report.kept))?;
    let BlockReport { loss, held_out, seconds, .. } = report;
    let numbers = [loss.before, loss.after, held_out.before, held_out.after, *seconds];
    numbers.into_iter().try_for_each(|number| put_f64(to, number))
}

fn read(from: &mut impl Read) -> std::io::Result<FinishedBlock> {
    let layers = (0..take_length(from)?).map(|_| Ok((read_factors(from)?, read_fitted(from)?)));
    let layers = layers.collect::<std::io::Result<_>>()?;
    let amended = (0..take_length(from)?).map(|_| Ok((take_text(from)?, read_tensor(from)?)));
    let amended = amended.collect::<std::io::Result<_>>()?;
    let report = if take_length(from)? == 1 { Some(read_report(from)?) } else { None };
    Ok(FinishedBlock { layers, amended, report })
}

fn read_fitted(from: &mut impl Read) -> std::io::Result<Fitted> {
    let refined = take_length(from)? == 1;
    let [predicted_error, measured_error, seconds] = [take_f64(from)?, take_f64(from)?, take_f64(from)?];
    Ok(Fitted { predicted_error, measured_error, refined, seconds })
}

fn read_tensor(from: &mut impl Read) -> std::io::Result<ArrayD<f32>> {
    let shape = (0..take_length(from)?).map(|_| take_length(from)).collect::<std::io::Result<Vec<_>>>()?;
    let count = shape.iter().try_fold(1, |count: usize, &length| count.checked_mul(length)).ok_or_else(damaged)?;
    ArrayD::from_shape_vec(shape, take_f32s(from, count)?).map_err(std::io::Error::other)
}

fn read_report(from: &mut impl Read) -> std::io::Result<BlockReport> {
    let (block, kept) = (take_length(from)?, take_length(from)? == 1);
    let loss = Change { before: take_f64(from)?, after: take_f64(from)? };
    let held_out = Change { before: take_f64(from)?, after: take_f64(from)? };
    Ok(BlockReport { block, loss, held_out, kept, seconds: take_f64(from)? })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2};

    use super::*;

    fn finished(report: Option<BlockReport>) -> FinishedBlock {
        let factors = Factors {
            left: Array2::from_shape_fn((5, 2), |(i, j)| (i * 2 + j) as f32 / 7.0),
            right: Array2::from_shape_fn((3, 2), |(i, j)| (i + 3 * j) as f32).reversed_axes(),
            bias: Some(Array1::from_elem(5, 0.1)),
        };
        let fitted = Fitted { predicted_error: 0.1, measured_error: 0.11, refined: report.is_some(), seconds: 2.5 };
        let norm = ArrayD::from_shape_fn(vec![2, 3], |at| (at[0] * 3 + at[1]) as f32);
        FinishedBlock {
            layers: vec![(factors.clone(), fitted), (Factors { bias: None, ..factors }, fitted)],
            amended: vec![("norm".to_owned(), norm)],
            report,
        }
    }

    #[test]
    fn a_block_comes_back_as_it_was_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), folder.path().to_owned(), true);
        let key = BlockKey::of(&super::super::Hashed::new());
        let change = Change { before: 3.0, after: 2.0 };
        let report = BlockReport { block: 4, loss: change, held_out: change, kept: true, seconds: 1.5 };
        for given in [finished(None), finished(Some(report))] {
            store.put_block(&key, &given).unwrap();
            assert!(store.knows_block(&key));
            assert_eq!(store.take_block(&key).unwrap(), given);
        }
        let whole = std::fs::read(store.block_path(&key)).unwrap();
        for place in 0..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[place] ^= 1;
            std::fs::write(store.block_path(&key), spoilt).unwrap();
            assert!(!store.knows_block(&key), "byte {place} is another");
            std::fs::write(store.block_path(&key), &whole[..place]).unwrap();
            assert!(!store.knows_block(&key), "cut at {place}");
        }
    }
}
