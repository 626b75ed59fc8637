//! The weights of a checkpoint folder: positioned reads, one tensor at a time, as `f32`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use calabi_api::RunError;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

use crate::text;

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// No header and no index is longer.
const LONGEST: u64 = 100_000_000;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 22;

/// The open files of a checkpoint, and where each tensor is.
#[derive(Debug)]
pub(super) struct Checkpoint {
    files: Vec<(PathBuf, File)>,
    tensors: HashMap<String, Entry>,
}

/// A tensor's place.
#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Stored,
    dims: Vec<usize>,
    /// From the start of the file.
    start: u64,
}

/// The types of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    F64,
    F32,
    F16,
    BF16,
    /// Anything else: read by nobody here.
    Other,
}

/// A tensor as a header describes it.
#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Checkpoint {
    /// Opens the files of a folder and reads their headers.
    pub(super) fn open(folder: &Path) -> Result<Self, RunError> {
        let mut checkpoint = Self { files: Vec::new(), tensors: HashMap::new() };
        for path in shards(folder)? {
            checkpoint.add(&path).map_err(|problem| RunError::Load { path, problem })?;
        }
        Ok(checkpoint)
    }

    fn add(&mut self, path: &Path) -> Result<(), String> {
        let file = File::open(path).map_err(|e| format!("it cannot be opened: {e}"))?;
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        let mut first = [0; 8];
        file.read_exact_at(&mut first, 0).map_err(|e| format!("its first bytes cannot be read: {e}"))?;
        let header = u64::from_le_bytes(first);
        if header > LONGEST || header + 8 > length {
            return Err(format!("a header of {header} bytes does not fit it: it is cut short, or no safetensors file"));
        }
        let text = bytes(&file, 8, header)?;
        let members: BTreeMap<String, Value> =
            serde_json::from_slice(&text).map_err(|e| format!("its header is no JSON object: {e}"))?;
        for (name, value) in members.into_iter().filter(|(name, _)| name != "__metadata__") {
            let entry = entry(value, self.files.len(), 8 + header, length)
                .map_err(|problem| format!("tensor {}: {problem}", text::shown(&name)))?;
            self.tensors.insert(name, entry);
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// The dimensions of a tensor; none where there is no such tensor.
    pub(super) fn dims(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.dims.as_slice())
    }

    /// The values of a tensor, all finite.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>, RunError> {
        let entry = self.entry(name)?;
        let mut values = Vec::with_capacity(entry.dims.iter().product());
        self.read(name, entry, 0, entry.dims.iter().product(), &mut values)?;
        Ok(values)
    }

    /// The values of some rows of a matrix, in the order of `rows`, each of which is in it.
    pub(super) fn rows(&self, name: &str, rows: &[usize]) -> Result<Vec<f32>, RunError> {
        let entry = self.entry(name)?;
        let &[height, width] = entry.dims.as_slice() else { return Err(self.refuse(name, "it is no matrix")) };
        let mut values = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            if row >= height {
                return Err(self.refuse(name, &format!("it has {height} rows, and row {row} is asked for")));
            }
            self.read(name, entry, row * width, width, &mut values)?;
        }
        Ok(values)
    }

    /// The error that names a tensor and its file.
    pub(super) fn refuse(&self, name: &str, problem: &str) -> RunError {
        let file = self.tensors.get(name).map_or(0, |entry| entry.file);
        let path = self.files.get(file).map(|(path, _)| path.clone()).unwrap_or_default();
        RunError::Load { path, problem: format!("tensor {}: {problem}", text::shown(name)) }
    }

    fn entry(&self, name: &str) -> Result<&Entry, RunError> {
        self.tensors.get(name).ok_or_else(|| self.refuse(name, "it is missing"))
    }

    /// Appends `count` values from the place of value `first` on.
    fn read(&self, name: &str, entry: &Entry, first: usize, count: usize, to: &mut Vec<f32>) -> Result<(), RunError> {
        let Some((_, file)) = self.files.get(entry.file) else { return Err(self.refuse(name, "its file is gone")) };
        let size = entry.dtype.size().ok_or_else(|| self.refuse(name, "it holds no floating-point numbers"))?;
        let (begin, mut place) = (to.len(), entry.start + (first * size) as u64);
        let mut left = count * size;
        while left > 0 {
            let piece = left.min(PIECE);
            let read = bytes(file, place, piece as u64).map_err(|problem| self.refuse(name, &problem))?;
            entry.dtype.decode(&read, to);
            (left, place) = (left - piece, place + piece as u64);
        }
        // The bits of infinity and NaN, without the sign, are above those of all numbers.
        let largest = to.iter().skip(begin).fold(0, |largest, x| (x.to_bits() & !(1 << 31)).max(largest));
        if largest < f32::INFINITY.to_bits() {
            Ok(())
        } else {
            Err(self.refuse(name, "it holds a number that is not finite"))
        }
    }
}

impl Stored {
    fn named(name: &str) -> Self {
        match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            _ => Self::Other,
        }
    }

    fn size(self) -> Option<usize> {
        match self {
            Self::F64 => Some(8),
            Self::F32 => Some(4),
            Self::F16 | Self::BF16 => Some(2),
            Self::Other => None,
        }
    }

    fn decode(self, bytes: &[u8], to: &mut Vec<f32>) {
        let pairs = || bytes.as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair));
        match self {
            Self::F32 => to.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::BF16 => to.extend(pairs().map(|bits| bf16::from_bits(bits).to_f32())),
            Self::F16 => {
                let halves: Vec<_> = pairs().map(f16::from_bits).collect();
                to.extend(halves.to_f32_vec());
            }
            #[allow(clippy::cast_possible_truncation)] // weights are f32 in memory
            Self::F64 => to.extend(bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
            Self::Other => {}
        }
    }
}

/// Whether a folder holds a checkpoint's weights.
pub(super) fn is_folder(folder: &Path) -> bool {
    [WHOLE, INDEX].iter().any(|name| folder.join(name).is_file())
}

/// The files that hold a folder's weights.
fn shards(folder: &Path) -> Result<Vec<PathBuf>, RunError> {
    let index = folder.join(INDEX);
    if index.is_file() {
        let names = indexed(&index).map_err(|problem| RunError::Load { path: index, problem })?;
        return Ok(names.into_iter().map(|name| folder.join(name)).collect());
    }
    let whole = folder.join(WHOLE);
    if whole.is_file() {
        return Ok(vec![whole]);
    }
    let problem = format!("it holds neither {WHOLE} nor {INDEX}");
    Err(RunError::Load { path: folder.to_owned(), problem })
}

/// The names of the shards that an index lists.
fn indexed(path: &Path) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let file = File::open(path).map_err(|e| format!("it cannot be opened: {e}"))?;
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    if length > LONGEST {
        return Err(format!("{length} bytes are no index"));
    }
    let index: Index = serde_json::from_slice(&bytes(&file, 0, length)?).map_err(|e| format!("it is no index: {e}"))?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    match names.iter().find(|name| name.contains(['/', '\\', '\0']) || !name.ends_with(".safetensors")) {
        Some(name) => Err(format!("{} is not the name of a .safetensors file in this folder", text::shown(name))),
        None => Ok(names),
    }
}

/// A tensor's place, checked against its file.
fn entry(value: Value, file: usize, data: u64, length: u64) -> Result<Entry, String> {
    let Described { dtype, shape, data_offsets: [start, end] } =
        serde_json::from_value(value).map_err(|e| e.to_string())?;
    let dtype = Stored::named(&dtype);
    let fits = end.checked_sub(start).filter(|_| end <= length - data);
    let bytes = fits.ok_or_else(|| format!("its bytes {start} to {end} are not in the file"))?;
    let elements = shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    let needed = |size: usize| elements.and_then(|n| n.checked_mul(size as u64));
    if dtype.size().is_some_and(|size| needed(size) != Some(bytes)) {
        return Err(format!("its shape does not take the {bytes} bytes it has"));
    }
    let dims = shape.iter().map(|&dim| usize::try_from(dim).map_err(|e| e.to_string())).collect::<Result<_, _>>()?;
    Ok(Entry { file, dtype, dims, start: data + start })
}

fn bytes(file: &File, place: u64, length: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
    file.read_exact_at(&mut bytes, place).map_err(|e| format!("it cannot be read: {e}"))?;
    Ok(bytes)
}
