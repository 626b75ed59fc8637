//! Factors that wait for their place in the model.

use std::io::{Read, Write};

use calabi_api::Factors;
use ndarray::{Array1, Array2};

use super::values::{put_f32s, put_length, take_f32s, take_length};
use super::whole::damaged;

/// Writes lengths `m`, `r`, `n` and that of the bias (zero: none) as 64-bit integers, then `left`, `right` and the bias
/// row by row.
pub(super) fn write_factors(to: &mut (impl Write + ?Sized), factors: &Factors) -> std::io::Result<()> {
    let bias = factors.bias.iter().flatten();
    let lengths = [factors.left.nrows(), factors.left.ncols(), factors.right.ncols(), bias.clone().count()];
    lengths.into_iter().try_for_each(|length| put_length(to, length))?;
    put_f32s(to, factors.left.iter().chain(&factors.right).chain(bias))
}

/// Reads what [`write_factors`] wrote.
pub(super) fn read_factors(from: &mut impl Read) -> std::io::Result<Factors> {
    let mut lengths = [0_usize; 4];
    for length in &mut lengths {
        *length = take_length(from)?;
    }
    let [m, r, n, bias] = lengths;
    let mut matrix = |rows: usize, cols: usize| {
        let values = take_f32s(from, rows.checked_mul(cols).ok_or_else(damaged)?)?;
        Array2::from_shape_vec((rows, cols), values).map_err(std::io::Error::other)
    };
    let (left, right) = (matrix(m, r)?, matrix(r, n)?);
    let bias = if bias == 0 { None } else { Some(Array1::from_vec(take_f32s(from, bias)?)) };
    Ok(Factors { left, right, bias })
}
