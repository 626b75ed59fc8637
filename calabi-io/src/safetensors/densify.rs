//! An ordinary dense checkpoint of a factorized one: factors multiplied out, names and configuration as they were.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use calabi_api::ndarray::{Array2, ArrayView2, Axis};
use calabi_api::{DType, FormatError, Name, WriteOptions, Written};

use super::factor;
use super::header::Entry;
use super::layers;
use super::plan::{self, Part};
use super::roles;
use super::sink::Sink;
use super::source::{Model, numbers};
use super::weights::TensorAt;
use crate::file::{Input, Output};

/// Rows of a product that are in memory at a time hold at most so many numbers, or are one.
const PIECE: usize = 1 << 20;

/// Two factors whose product becomes a weight again.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// The layer's name: its weight's tensor without `.weight`.
    pub(super) layer: String,
    pub(super) left: TensorAt,
    pub(super) right: TensorAt,
    pub(super) outputs: u64,
    pub(super) inputs: u64,
    pub(super) dtype: DType,
    /// Stored inputs by outputs, as `Conv1D` does.
    pub(super) inputs_first: bool,
}

impl Pair {
    /// The dimensions of the weight as it is stored.
    pub(super) fn dims(&self) -> Vec<u64> {
        if self.inputs_first { vec![self.inputs, self.outputs] } else { vec![self.outputs, self.inputs] }
    }

    /// Multiplies the factors and writes the weight at `place`, some of its rows at a time.
    pub(super) fn write(&self, model: &Model, output: &Output, mut place: u64) -> Result<(), FormatError> {
        let (left, right) = (matrix(model, self.left)?, matrix(model, self.right)?);
        let (rows, cols): (ArrayView2<'_, f32>, _) =
            if self.inputs_first { (right.t(), left.t()) } else { (left.view(), right.view()) };
        for rows in rows.axis_chunks_iter(Axis(0), (PIECE / cols.ncols().max(1)).max(1)) {
            let product: Array2<f32> = rows.dot(&cols);
            if !factor::storable(product.iter(), self.dtype) {
                return Err(factor::beyond(&format!("{}.weight", self.layer), self.dtype));
            }
            factor::write(output, place, self.dtype, product.iter().copied())?;
            place += product.len() as u64 * self.dtype.bytes();
        }
        Ok(())
    }
}

/// Writes the dense model to `path`, which does not exist.
pub(super) fn densify(model: &Arc<Model>, path: &Path, options: &WriteOptions) -> Result<Written, FormatError> {
    let pairs = pairs(model)?;
    if pairs.is_empty() {
        let problem = format!("{} has no factors: it is dense already", model.path.display());
        return Err(FormatError::limit(problem, "give a checkpoint that calabi wrote"));
    }
    let keys = model.folder.as_ref().map(|folder| folder.config.bias_keys()).transpose()?;
    let plans = plan::dense(model, &pairs, &keys.unwrap_or_default(), options.shard_size)?;
    Sink::dense(Arc::clone(model), path, plans, (pairs, options.shard_size.is_some()))?.completed()
}

/// All pairs of factors: those that the configuration names; in a file without one, those that look like it.
fn pairs(model: &Model) -> Result<Vec<Pair>, FormatError> {
    let config = model.folder.as_ref().map(|folder| &folder.config);
    let inputs_first = layers::inputs_first(&model.weights, config.and_then(|config| config.model_type.as_deref()));
    let names: Vec<String> = match config.filter(|config| config.is_factorized()) {
        Some(config) => config.factorized_layers().map(str::to_owned).collect(),
        None => layers::factorized(&model.weights),
    };
    let tensors = model.weights.by_name();
    names.into_iter().map(|layer| pair(model, &tensors, layer, inputs_first)).collect()
}

fn pair(
    model: &Model,
    tensors: &HashMap<&str, (TensorAt, &Entry)>,
    layer: String,
    conv1d: bool,
) -> Result<Pair, FormatError> {
    let malformed = |problem: String| FormatError::malformed(&model.path, problem);
    let part = |part: Part| {
        let name = part.of(&layer);
        tensors.get(name.as_str()).copied().ok_or_else(|| malformed(format!("tensor {} is missing", Name::new(&name))))
    };
    let ((left, of_left), (right, of_right)) = (part(Part::Left)?, part(Part::Right)?);
    let shapes = match (of_left.dims.as_slice(), of_right.dims.as_slice()) {
        (&[outputs, rank], &[other, inputs]) if rank == other => Some((outputs, inputs)),
        _ => None,
    };
    let dtype = of_left.dtype.float.filter(|_| of_left.dtype.name == of_right.dtype.name);
    let (Some((outputs, inputs)), Some(dtype)) = (shapes, dtype) else {
        return Err(malformed(format!("{} and {} are no factors of one weight", shown(of_left), shown(of_right))));
    };
    for taken in [format!("{layer}.weight"), roles::bias_of(&layer)] {
        let clash = taken.ends_with(".weight") || tensors.contains_key(Part::Bias.of(&layer).as_str());
        if clash && tensors.contains_key(taken.as_str()) {
            return Err(malformed(format!("tensor {} is there beside its factors", Name::new(&taken))));
        }
    }
    let inputs_first = conv1d && roles::is_conv1d(&layer);
    Ok(Pair { layer, left, right, outputs, inputs, dtype, inputs_first })
}

fn shown(entry: &Entry) -> String {
    format!("{} of {:?} {}", Name::new(&entry.name), entry.dims, entry.dtype.name)
}

fn matrix(model: &Model, at: TensorAt) -> Result<Array2<f32>, FormatError> {
    let gone = || FormatError::malformed(&model.path, "a factor is gone");
    let (file, entry): (&Input, &Entry) = model.weights.at(at).ok_or_else(gone)?;
    let (&[rows, cols], Some(dtype)) = (entry.dims.as_slice(), entry.dtype.float) else { return Err(gone()) };
    let (rows, cols) = usize::try_from(rows).ok().zip(usize::try_from(cols).ok()).ok_or_else(gone)?;
    let matrix = Array2::from_shape_vec((rows, cols), numbers(file, entry, dtype)?).map_err(|_| gone())?;
    FormatError::check_finite(file.path(), &entry.name, &matrix)?;
    Ok(matrix)
}
