//! Bases wait on disk until the ranks are known, factors until they are written: memory is bounded by one layer, not by
//! the model.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use calabi_api::{Basis, Factors, Rank, Side};
use ndarray::{Array1, Array2};

use crate::Error;

/// A folder of bases and factors, one file a layer.
///
/// A basis is a byte for the side, then one vector after the other. Factors are their lengths `m`, `r`, `n` and that of
/// the bias (zero: none) as 64-bit integers, then `left`, `right` and the bias row by row.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// A store in this folder, which exists.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("{layer}.basis"))
    }

    /// Keeps the basis of a layer.
    pub(crate) fn put(&self, layer: usize, basis: &Basis) -> Result<(), Error> {
        let path = self.path(layer);
        write(&path, basis).map_err(|e| Error::io("write", path, e))
    }

    /// The leading `r` vectors of a layer's basis, each of this length.
    pub(crate) fn take(&self, layer: usize, r: Rank, lengths: (usize, usize)) -> Result<Basis, Error> {
        let path = self.path(layer);
        read(&path, r.get(), lengths).map_err(|e| Error::io("read", path, e))
    }

    fn factors_path(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("{layer}.factors"))
    }

    /// Keeps the factors of a layer; former ones of the same layer are gone.
    pub(crate) fn put_factors(&self, layer: usize, factors: &Factors) -> Result<(), Error> {
        let path = self.factors_path(layer);
        write_factors(&path, factors).map_err(|e| Error::io("write", path, e))
    }

    /// The factors of a layer, where there are any.
    pub(crate) fn take_factors(&self, layer: usize) -> Result<Option<Factors>, Error> {
        let path = self.factors_path(layer);
        match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            file => file.and_then(read_factors).map(Some).map_err(|e| Error::io("read", path, e)),
        }
    }
}

fn write_factors(path: &Path, factors: &Factors) -> std::io::Result<()> {
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

fn read_factors(file: File) -> std::io::Result<Factors> {
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

fn write(path: &Path, basis: &Basis) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&[u8::from(basis.side == Side::Right)])?;
    for vector in basis.vectors.columns() {
        for value in vector {
            file.write_all(&value.to_le_bytes())?;
        }
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(())
}

fn read(path: &Path, r: usize, (rows, cols): (usize, usize)) -> std::io::Result<Basis> {
    let mut file = BufReader::new(File::open(path)?);
    let mut side = [0];
    file.read_exact(&mut side)?;
    let (side, length) = if side == [0] { (Side::Left, rows) } else { (Side::Right, cols) };
    let mut vectors = Array2::zeros((length, r));
    let mut bytes = vec![0; 4 * length];
    for mut vector in vectors.columns_mut() {
        file.read_exact(&mut bytes)?;
        for (value, &b) in vector.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(b);
        }
    }
    Ok(Basis { side, vectors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let factors = |bias: Option<Array1<f32>>| Factors {
            left: Array2::from_shape_fn((5, 2), |(i, j)| (i * 2 + j) as f32),
            right: Array2::from_shape_fn((3, 2), |(i, j)| (i + 3 * j) as f32 / 7.0).reversed_axes(),
            bias,
        };
        assert_eq!(store.take_factors(3).unwrap(), None);
        for given in [factors(None), factors(Some(Array1::from_elem(5, 0.1)))] {
            store.put_factors(3, &given).unwrap();
            assert_eq!(store.take_factors(3).unwrap(), Some(given));
        }
    }
}
