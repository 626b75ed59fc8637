//! Checks factors against what was declared, and writes them a bounded piece at a time.

use calabi_api::ndarray::{Array1, Axis, CowArray, Ix2};
use calabi_api::{DType, Factors, FormatError, Layer, Name};

use super::plan::Part;
use crate::file::Output;

/// How many numbers are encoded at a time.
const PIECE: usize = 1 << 18;

/// A part of a factorized layer, as a matrix: a bias is one column.
pub(super) struct Matrix<'a> {
    pub(super) part: Part,
    pub(super) values: CowArray<'a, f32, Ix2>,
    /// How it is stored.
    pub(super) dtype: DType,
}

impl Matrix<'_> {
    /// The bias that is written where the layer has one of its own, stored as `dtype`.
    pub(super) fn add(&mut self, own: Array1<f32>, dtype: DType) {
        self.values = CowArray::from(own.insert_axis(Axis(1)) + &self.values);
        self.dtype = dtype;
    }

    /// Checks that every value is finite once it is stored: `f16` ends at 65504.
    pub(super) fn check_storable(&self, layer: &Layer) -> Result<(), FormatError> {
        if storable(self.values.iter(), self.dtype) {
            Ok(())
        } else if self.dtype == layer.dtype {
            Err(FormatError::overflow(layer))
        } else {
            Err(beyond(&self.part.of(&layer.name), self.dtype))
        }
    }
}

/// The parts of a layer's factors, of the shapes that were declared.
pub(super) fn matrices<'a>(
    layer: &Layer,
    rank: usize,
    bias: bool,
    factors: &'a Factors,
) -> Result<Vec<Matrix<'a>>, FormatError> {
    let (m, n) = (layer.shape.rows(), layer.shape.cols());
    let Factors { left, right, bias: brought } = factors;
    let mut parts = vec![(Part::Right, right.view(), (rank, n)), (Part::Left, left.view(), (m, rank))];
    match (brought, bias) {
        (Some(brought), true) => parts.push((Part::Bias, brought.view().insert_axis(Axis(1)), (m, 1))),
        (None, false) => {}
        (brought, _) => return Err(misuse(layer, bias_problem(brought.is_some()))),
    }
    for (part, values, declared) in &parts {
        let (found, part) = (values.dim(), part.of(&layer.name));
        if found != *declared {
            return Err(misuse(layer, &format!("{} is {found:?}, declared was {declared:?}", Name::new(&part))));
        }
    }
    let dtype = layer.dtype;
    Ok(parts.into_iter().map(|(part, values, _)| Matrix { part, values: values.into(), dtype }).collect())
}

fn bias_problem(brought: bool) -> &'static str {
    if brought {
        "its factors bring a bias that was not declared"
    } else {
        "its factors lack the bias that was declared"
    }
}

fn misuse(layer: &Layer, problem: &str) -> FormatError {
    FormatError::Misuse(format!("layer {}: {problem}", Name::new(&layer.name)))
}

/// Whether every value is finite once it is stored.
pub(super) fn storable<'a>(mut values: impl Iterator<Item = &'a f32>, dtype: DType) -> bool {
    values.all(|&value| dtype.rounded(value).is_finite())
}

/// A tensor has a number that its type cannot hold.
pub(super) fn beyond(tensor: &str, dtype: DType) -> FormatError {
    let problem = format!("tensor {} would have a number that {dtype} cannot hold", Name::new(tensor));
    FormatError::limit(problem, "store the model in a wider type")
}

/// Writes numbers from `place` on.
pub(super) fn write(
    output: &Output,
    mut place: u64,
    dtype: DType,
    mut numbers: impl Iterator<Item = f32>,
) -> Result<(), FormatError> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        dtype.encode(numbers.by_ref().take(PIECE), &mut bytes);
        if bytes.is_empty() {
            return Ok(());
        }
        output.write(place, &bytes)?;
        place += bytes.len() as u64;
    }
}
