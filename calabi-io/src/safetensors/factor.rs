//! Checks factors against what was declared, and writes them a bounded piece at a time.

use calabi_api::ndarray::{ArrayView2, Axis};
use calabi_api::{DType, Factors, FormatError, Layer, Name};

use super::plan::Part;
use crate::file::Output;

/// How many numbers are encoded at a time.
const PIECE: usize = 1 << 18;

/// A part of a factorized layer, as a matrix: a bias is one column.
pub(super) struct Matrix<'a> {
    pub(super) part: Part,
    pub(super) values: ArrayView2<'a, f32>,
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
    let mut parts = vec![
        (Matrix { part: Part::Right, values: right.view() }, (rank, n)),
        (Matrix { part: Part::Left, values: left.view() }, (m, rank)),
    ];
    match (brought, bias) {
        (Some(brought), true) => {
            let values = brought.view().insert_axis(Axis(1));
            parts.push((Matrix { part: Part::Bias, values }, (m, 1)));
        }
        (None, false) => {}
        (brought, _) => return Err(misuse(layer, bias_problem(brought.is_some()))),
    }
    for (Matrix { part, values }, declared) in &parts {
        let (found, part) = (values.dim(), part.of(&layer.name));
        if found != *declared {
            return Err(misuse(layer, &format!("{} is {found:?}, declared was {declared:?}", Name::new(&part))));
        }
    }
    Ok(parts.into_iter().map(|(matrix, _)| matrix).collect())
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

/// Checks that every value is finite once it is stored: `f16` ends at 65504.
pub(super) fn check_storable(layer: &Layer, values: &ArrayView2<'_, f32>) -> Result<(), FormatError> {
    let storable = values.iter().all(|&value| layer.dtype.rounded(value).is_finite());
    storable.then_some(()).ok_or_else(|| FormatError::overflow(layer))
}

/// Writes a matrix row by row from `place` on.
pub(super) fn write(
    output: &Output,
    mut place: u64,
    dtype: DType,
    values: &ArrayView2<'_, f32>,
) -> Result<(), FormatError> {
    let (mut numbers, mut bytes) = (values.iter().copied(), Vec::new());
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
