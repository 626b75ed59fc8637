//! Factors that wait for their place in the model.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use calabi_api::Factors;
use ndarray::{Array1, Array2};

/// Writes lengths `m`, `r`, `n` and that of the bias (zero: none) as 64-bit integers, then `left`, `right` and the bias
/// row by row.
pub(super) fn write_factors(path: &Path, factors: &Factors) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let bias = factors.bias.iter().flatten();
    let lengths = [factors.left.nrows(), factors.left.ncols(), factors.right.ncols(), bias.clone().count()];
    for length in lengths {
        file.write_all(&(length as u64).to_le_bytes())?;
    }
    for value in factors.left.iter().chain(&factors.right).chain(bias) {
        file.write_all(&value.to_le_bytes())?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(())
}

/// Reads what [`write_factors`] wrote.
pub(super) fn read_factors(file: File) -> std::io::Result<Factors> {
    let mut file = BufReader::new(file);
    let mut lengths = [0_usize; 4];
    for length in &mut lengths {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        *length = usize::try_from(u64::from_le_bytes(bytes)).map_err(std::io::Error::other)?;
    }
    let [m, r, n, bias] = lengths;
    let mut numbers = |count: usize| -> std::io::Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * count];
        file.read_exact(&mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    };
    let matrix = |dim, values| Array2::from_shape_vec(dim, values).map_err(std::io::Error::other);
    let left = matrix((m, r), numbers(m * r)?)?;
    let right = matrix((r, n), numbers(r * n)?)?;
    let bias = if bias == 0 { None } else { Some(Array1::from_vec(numbers(bias)?)) };
    Ok(Factors { left, right, bias })
}
