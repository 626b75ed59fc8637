//! Bases wait on disk until the ranks are known: memory is bounded by one layer, not by the model.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use calabi_api::{Basis, Rank, Side};
use ndarray::Array2;

use crate::Error;

/// A folder of bases, one file a layer: a byte for the side, then one vector after the other.
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
