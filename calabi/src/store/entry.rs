//! An entry of the work store: the spectrum of a layer, and the vectors of which factors of any rank are made.
//!
//! A file is: eight letters, eight 64-bit integers (side, whether the spectrum is complete, the limit, vectors, their
//! length, singular values, losses, bytes of the remark), the seconds and the energy as `f64`, values, losses, the remark,
//! the vectors in `f32` one after the other, and the hash of all of it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use calabi_api::{Basis, Rank, Side, Spectrum};
use ndarray::Array2;

use super::values::{put_f32s, put_f64, put_length};
use super::whole::{self, damaged};
use crate::made::Finished;

const LETTERS: &[u8; 8] = b"calabi-1";

/// What is known of a layer once it is decomposed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decomposed {
    pub(crate) spectrum: Spectrum,
    /// The largest rank that could be chosen when it was decomposed.
    pub(crate) limit: Rank,
    pub(crate) remark: Option<String>,
    /// What it took, when it was.
    pub(crate) seconds: f64,
    /// What this run knows of its factors already.
    pub(crate) finished: Option<Finished>,
}

impl Decomposed {
    /// What is known of the factors of this rank.
    pub(crate) fn finished_at(&self, rank: Rank) -> Option<&Finished> {
        self.finished.as_ref().filter(|finished| finished.rank == rank)
    }
}

/// A decomposed layer, whose vectors are on disk.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) decomposed: Decomposed,
    /// How many vectors there are.
    pub(crate) vectors: usize,
    side: Side,
    length: usize,
    /// Where the vectors begin.
    begin: u64,
}

impl Entry {
    /// Writes an entry to `path`, whole or not at all; to the disk itself, where it is to survive the machine.
    pub(super) fn create(path: &Path, decomposed: &Decomposed, basis: &Basis, lasting: bool) -> std::io::Result<Self> {
        let file = whole::create(path, lasting, |to| write(to, decomposed, basis))?;
        read(path, &file).ok_or_else(damaged)
    }

    /// Opens an entry, and reads it all once: one that is damaged is an error.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        read(path, &whole::open(path)?).ok_or_else(damaged)
    }

    /// The leading `r` vectors.
    pub(crate) fn basis(&self, r: Rank) -> std::io::Result<Basis> {
        if r.get() > self.vectors {
            return Err(damaged());
        }
        let file = File::open(&self.path)?;
        let mut vectors = Array2::zeros((self.length, r.get()));
        let mut bytes = vec![0; 4 * self.length];
        for (mut vector, place) in
            vectors.columns_mut().into_iter().zip((self.begin..).step_by((4 * self.length).max(1)))
        {
            file.read_exact_at(&mut bytes, place)?;
            for (value, &b) in vector.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(b);
            }
        }
        Ok(Basis { side: self.side, vectors })
    }
}

fn write(to: &mut dyn Write, decomposed: &Decomposed, basis: &Basis) -> std::io::Result<()> {
    let Decomposed { spectrum, limit, remark, seconds, .. } = decomposed;
    let (length, vectors) = basis.vectors.dim();
    let remark = remark.as_deref().unwrap_or_default();
    to.write_all(LETTERS)?;
    let side = usize::from(basis.side == Side::Right);
    let complete = usize::from(spectrum.is_complete());
    for number in
        [side, complete, limit.get(), vectors, length, spectrum.known(), spectrum.losses().len(), remark.len()]
    {
        put_length(to, number)?;
    }
    for number in [seconds, &spectrum.energy()].into_iter().chain(spectrum.values()).chain(spectrum.losses()) {
        put_f64(to, *number)?;
    }
    to.write_all(remark.as_bytes())?;
    put_f32s(to, basis.vectors.columns().into_iter().flatten())
}

/// Reads what stands before the vectors.
fn read(path: &Path, file: &File) -> Option<Entry> {
    let mut from = Fields { file, at: 0, end: whole::length(file).ok()? };
    if from.take(8)? != LETTERS {
        return None;
    }
    let [side, complete, limit, vectors, length, known, losses, remark] = {
        let mut lengths = [0; 8];
        for number in &mut lengths {
            *number = usize::try_from(u64::from_le_bytes(from.take(8)?.try_into().ok()?)).ok()?;
        }
        lengths
    };
    let numbers = from.numbers(2)?;
    let (seconds, energy) = (*numbers.first()?, *numbers.last()?);
    let (values, losses) = (from.numbers(known)?, from.numbers(losses)?);
    let spectrum = if complete == 1 { Spectrum::complete(values) } else { Spectrum::leading(values, energy) }.ok()?;
    let spectrum = spectrum.with_losses(losses, energy).ok()?;
    let remark = String::from_utf8(from.take(remark)?).ok()?;
    let limit = Rank::new(limit)?;
    let remark = (!remark.is_empty()).then_some(remark);
    let whole = vectors.checked_mul(length)?.checked_mul(4)? as u64 == from.end.checked_sub(from.at)?;
    whole.then(|| Entry {
        path: path.to_owned(),
        decomposed: Decomposed { spectrum, limit, remark, seconds, finished: None },
        vectors,
        side: if side == 0 { Side::Left } else { Side::Right },
        length,
        begin: from.at,
    })
}

/// Fields of a file, one after the other, none longer than what is left.
struct Fields<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Fields<'_> {
    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let end = self.at.checked_add(bytes as u64).filter(|&end| end <= self.end)?;
        let mut field = vec![0; bytes];
        self.file.read_exact_at(&mut field, self.at).ok()?;
        self.at = end;
        Some(field)
    }

    fn numbers(&mut self, count: usize) -> Option<Vec<f64>> {
        let bytes = self.take(count.checked_mul(8)?)?;
        Some(bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decomposed(remark: Option<&str>) -> Decomposed {
        let spectrum = Spectrum::leading(vec![3.0, 0.1], 9.3).unwrap();
        Decomposed {
            spectrum,
            limit: Rank::new(7).unwrap(),
            remark: remark.map(str::to_owned),
            seconds: 0.25,
            finished: None,
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.layer");
        let vectors = Array2::from_shape_fn((5, 3), |(i, j)| (i * 3 + j) as f32 / 7.0);
        for (remark, side) in [(None, Side::Left), (Some("4 steps"), Side::Right)] {
            let given = decomposed(remark);
            Entry::create(&path, &given, &Basis { side, vectors: vectors.clone() }, true).unwrap();
            let entry = Entry::open(&path).unwrap();
            assert_eq!((&entry.decomposed, entry.vectors), (&given, 3));
            let two = entry.basis(Rank::new(2).unwrap()).unwrap();
            assert_eq!((two.side, two.vectors), (side, vectors.slice_axis(ndarray::Axis(1), (..2).into()).to_owned()));
            assert!(entry.basis(Rank::new(4).unwrap()).is_err());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_entry_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.layer");
        Entry::create(&path, &decomposed(None), &Basis { side: Side::Left, vectors: Array2::ones((4, 2)) }, false)
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(Entry::open(&path).is_err(), "cut at {end}");
        }
        for place in 0..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[place] ^= 1;
            std::fs::write(&path, spoilt).unwrap();
            assert!(Entry::open(&path).is_err(), "byte {place} is another");
        }
    }
}
