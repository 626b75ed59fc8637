//! Hidden states of all samples: in memory, or in a file where they pass a bound.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ndarray::Array2;

use crate::RunError;

/// Where hidden states are kept.
///
/// ```
/// use calabi_api::{StateSpace, States, ndarray::Array2};
///
/// // Nothing is held in memory: all states go to a file among the system's temporary files.
/// let mut states = States::new(StateSpace { bound: 0, ..StateSpace::default() });
/// states.push(Array2::ones((128, 32)), None)?;
/// assert_eq!(*states.get(0)?, Array2::<f32>::ones((128, 32)));
/// # Ok::<(), calabi_api::RunError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpace {
    /// States of more bytes than these go to a file.
    pub bound: u64,
    /// The folder of such files. They have no name there, and vanish with the states.
    pub folder: PathBuf,
}

impl Default for StateSpace {
    fn default() -> Self {
        Self { bound: 1 << 30, folder: std::env::temp_dir() }
    }
}

/// Hidden states of samples: of each a matrix, tokens × features, and which of its rows are padding.
///
/// ```
/// use calabi_api::{StateSpace, States, ndarray::Array2};
/// use std::sync::Arc;
///
/// let mut states = States::new(StateSpace::default());
/// states.push(Array2::zeros((3, 4)), Some(Arc::from([true, true, false])))?; // the last row is padding
/// states.push(Array2::ones((2, 4)), None)?;
/// assert_eq!((states.count(), states.dim(0)?), (2, (3, 4)));
/// assert_eq!((states.tokens(0), states.tokens(1)), (Some(&[true, true, false][..]), None));
///
/// // What a block does: each sample in its turn, in place. The states before it are kept here to compare.
/// let before = states.duplicate()?;
/// for sample in 0..states.count() {
///     let after = states.get(sample)?.mapv(|value| value + 1.0);
///     states.set(sample, after)?;
/// }
/// assert_eq!((before.get(1)?[[0, 0]], states.get(1)?[[0, 0]]), (1.0, 2.0));
///
/// let mut both = before.some(1..2)?;
/// both.append(&states)?;
/// assert_eq!(both.count(), 3);
/// # Ok::<(), calabi_api::RunError>(())
/// ```
#[derive(Debug)]
pub struct States {
    space: StateSpace,
    samples: Vec<Sample>,
    file: Option<File>,
    bytes: u64,
}

#[derive(Debug, Clone)]
struct Sample {
    dim: (usize, usize),
    place: Place,
    /// Which rows are tokens rather than padding; none where all are.
    tokens: Option<Arc<[bool]>>,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(Array2<f32>),
    File(u64),
}

impl States {
    /// No states yet.
    #[must_use]
    pub fn new(space: StateSpace) -> Self {
        Self { space, samples: Vec::new(), file: None, bytes: 0 }
    }

    /// The number of samples.
    #[must_use]
    pub fn count(&self) -> usize {
        self.samples.len()
    }

    /// Tokens × features of a sample.
    ///
    /// # Errors
    /// Where there is no such sample.
    pub fn dim(&self, sample: usize) -> Result<(usize, usize), RunError> {
        Ok(self.at(sample)?.dim)
    }

    /// Which rows of a sample are tokens rather than padding; none where all are.
    #[must_use]
    pub fn tokens(&self, sample: usize) -> Option<&[bool]> {
        self.samples.get(sample).and_then(|sample| sample.tokens.as_deref())
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// Where the file cannot be written, or `tokens` is not as long as the sample.
    pub fn push(&mut self, values: Array2<f32>, tokens: Option<Arc<[bool]>>) -> Result<(), RunError> {
        if tokens.as_ref().is_some_and(|tokens| tokens.len() != values.nrows()) {
            return Err(RunError::Failed("a mask does not fit its sample".to_owned()));
        }
        let (dim, size) = (values.dim(), 4 * values.len() as u64);
        let place = if self.file.is_none() && self.bytes + size <= self.space.bound {
            Place::Memory(values)
        } else {
            let offset = self.bytes;
            self.write(offset, &values)?;
            Place::File(offset)
        };
        self.bytes += size;
        self.samples.push(Sample { dim, place, tokens });
        Ok(())
    }

    /// The states of a sample.
    ///
    /// # Errors
    /// Where there is no such sample, or the file cannot be read.
    pub fn get(&self, sample: usize) -> Result<Cow<'_, Array2<f32>>, RunError> {
        let Sample { dim, place, .. } = self.at(sample)?;
        match (place, &self.file) {
            (Place::Memory(values), _) => Ok(Cow::Borrowed(values)),
            (Place::File(offset), Some(file)) => read(file, *offset, *dim).map(Cow::Owned).map_err(|e| self.failed(&e)),
            (Place::File(_), None) => Err(RunError::Failed("the file of hidden states is gone".to_owned())),
        }
    }

    /// Replaces the states of a sample by others of the same number of tokens and features.
    ///
    /// # Errors
    /// Where there is no such sample, the shape differs, or the file cannot be written.
    pub fn set(&mut self, sample: usize, values: Array2<f32>) -> Result<(), RunError> {
        let known = self.at(sample)?;
        if known.dim != values.dim() {
            return Err(RunError::Failed(format!("states of {:?} take the place of {:?}", values.dim(), known.dim)));
        }
        match known.place {
            Place::File(offset) => self.write(offset, &values),
            Place::Memory(_) => {
                self.samples[sample].place = Place::Memory(values);
                Ok(())
            }
        }
    }

    /// A copy, kept in the same way.
    ///
    /// # Errors
    /// Where the copy cannot be written.
    pub fn duplicate(&self) -> Result<Self, RunError> {
        self.some(0..self.count())
    }

    /// A copy of some samples, kept in the same way.
    ///
    /// # Errors
    /// Where there are no such samples, or the copy cannot be written.
    pub fn some(&self, samples: std::ops::Range<usize>) -> Result<Self, RunError> {
        let mut copy = Self::new(self.space.clone());
        samples.into_iter().try_for_each(|i| copy.push(self.get(i)?.into_owned(), self.at(i)?.tokens.clone()))?;
        Ok(copy)
    }

    /// Adds copies of all samples of other states.
    ///
    /// # Errors
    /// Where they cannot be read or kept.
    pub fn append(&mut self, other: &Self) -> Result<(), RunError> {
        (0..other.count()).try_for_each(|i| self.push(other.get(i)?.into_owned(), other.at(i)?.tokens.clone()))
    }

    fn at(&self, sample: usize) -> Result<&Sample, RunError> {
        self.samples.get(sample).ok_or_else(|| RunError::Failed(format!("there is no sample {sample}")))
    }

    fn write(&mut self, offset: u64, values: &Array2<f32>) -> Result<(), RunError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let file = match self.file.take() {
            Some(file) => file,
            None => nameless(&self.space).map_err(|e| self.failed(&e))?,
        };
        let written = file.write_all_at(&bytes, offset);
        self.file = Some(file);
        written.map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &io::Error) -> RunError {
        let problem = format!("hidden states cannot be kept there: {error}");
        RunError::Data { path: self.space.folder.clone(), problem }
    }
}

fn read(file: &File, offset: u64, dim: (usize, usize)) -> io::Result<Array2<f32>> {
    let mut bytes = vec![0; 4 * dim.0 * dim.1];
    file.read_exact_at(&mut bytes, offset)?;
    let values = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    Array2::from_shape_vec(dim, values).map_err(io::Error::other)
}

/// A file that has no name: it goes with its last handle, also when the process is killed.
fn nameless(space: &StateSpace) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = space.folder.join(format!(".calabi-states-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => return std::fs::remove_file(&path).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_the_bound_goes_to_a_file_and_comes_back() {
        let folder = std::env::temp_dir();
        let mut states = States::new(StateSpace { bound: 100, folder });
        let matrix = |seed: usize| Array2::from_shape_fn((4, 3), |(i, j)| (seed * 100 + i * 10 + j) as f32);
        for seed in 0..5 {
            states.push(matrix(seed), Some(Arc::from([true, true, true, false]))).unwrap();
        }
        assert!(matches!(states.samples[1].place, Place::Memory(_)));
        assert!(matches!(states.samples[2].place, Place::File(_)));
        states.set(0, matrix(9)).unwrap();
        states.set(4, matrix(8)).unwrap();
        let seeds = [9, 1, 2, 3, 8];
        assert!((0..5).all(|i| *states.get(i).unwrap() == matrix(seeds[i])));
        let copy = states.some(1..5).unwrap();
        assert_eq!((copy.count(), &*copy.get(3).unwrap()), (4, &matrix(8)));
        assert_eq!(copy.tokens(0), Some([true, true, true, false].as_slice()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut states = States::new(StateSpace::default());
        states.push(Array2::zeros((2, 3)), None).unwrap();
        assert!(states.push(Array2::zeros((2, 3)), Some(Arc::from([true]))).is_err());
        assert!(states.set(0, Array2::zeros((3, 2))).is_err());
        assert!(states.set(1, Array2::zeros((2, 3))).is_err());
        assert!(states.get(1).is_err());
    }
}
