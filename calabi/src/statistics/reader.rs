//! Reads a file of statistics, one input at a time; every number is vetted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use calabi_api::{FormatError, Layer, Name, Statistics};
use ndarray::{Array1, Array2, Axis};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::file::{LONGEST_HEADER, MEASURE_AGAIN, StatisticsHeader, tensor};

/// How unequal mirrored entries of a matrix may be, as a share of its largest: products in `f32` are.
const ASYMMETRY: f64 = 1e-4;

/// Rows and columns of a matrix that are compared with their mirror images at a time.
const TILE: usize = 32;

/// Bytes that are read at a time.
const TOGETHER: usize = 1 << 16;

/// An open file of statistics.
#[derive(Debug)]
pub(crate) struct StatisticsFile {
    path: PathBuf,
    file: File,
    /// Where the tensors begin.
    data: u64,
    tensors: Metadata,
    header: StatisticsHeader,
}

impl StatisticsFile {
    /// Reads the header; no numbers yet.
    ///
    /// # Errors
    /// Where the file cannot be read, is no safetensors file, or no file of statistics.
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let io = |error| FormatError::io("read", path, error);
        let wrong = |problem: String| FormatError::malformed(path, problem).with_help(MEASURE_AGAIN);
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut bytes = [0; 8];
        if length < 8 {
            return Err(wrong(format!("{length} bytes are no safetensors file")));
        }
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        let header = u64::from_le_bytes(bytes);
        if header > LONGEST_HEADER.min(length - 8) {
            return Err(wrong(format!("its header would take {header} bytes, and the file has {length}")));
        }
        let mut text = vec![0; usize::try_from(header).unwrap_or_default()];
        file.read_exact_at(&mut text, 8).map_err(io)?;
        let tensors: Metadata =
            serde_json::from_slice(&text).map_err(|error| wrong(format!("its header is wrong: {error}")))?;
        let end = tensors.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0);
        let data = 8 + header;
        if data.checked_add(end as u64) != Some(length) {
            let problem = format!("its tensors take {end} bytes, but {} follow the header", length - data);
            return Err(wrong(problem));
        }
        let none = std::collections::HashMap::new();
        let header = StatisticsHeader::read(path, tensors.metadata().as_ref().unwrap_or(&none))?;
        Ok(Self { path: path.to_owned(), file, data, tensors, header })
    }

    /// What the file says beside the numbers.
    pub(crate) fn header(&self) -> &StatisticsHeader {
        &self.header
    }

    /// The name of the distinct input of a layer.
    ///
    /// # Errors
    /// Where the file does not know the layer.
    pub(crate) fn input(&self, layer: &Layer) -> Result<&str, FormatError> {
        self.header.layers.get(&layer.name).map(String::as_str).ok_or_else(|| {
            let problem = format!("layer {} is not among its layers", Name::new(&layer.name));
            FormatError::malformed(&self.path, problem)
                .with_help("measure the statistics on this model, or name the layer in [layers] exclude")
        })
    }

    /// The statistics of what flows into a layer.
    ///
    /// # Errors
    /// Where the file does not know the layer, or what it holds is of another width, not finite, not symmetric or no
    /// moments at all.
    pub(crate) fn read(&self, layer: &Layer) -> Result<Statistics, FormatError> {
        let input = self.input(layer)?;
        let n = layer.shape.cols();
        let wrong = |name: &str, problem: &str| self.wrong(layer, name, problem);
        let tokens = self.tokens(layer, input)?;
        let mean = Array1::from(self.floats(layer, &tensor("mean", input), &[n])?);
        let centred = tensor("covariance", input);
        let name = if self.tensors.info(&centred).is_some() { centred.clone() } else { tensor("gram", input) };
        let moments = self.floats(layer, &name, &[n, n])?;
        let mut gram = Array2::from_shape_vec((n, n), moments).map_err(|error| wrong(&name, &error.to_string()))?;
        check_symmetric(&gram).map_err(|problem| wrong(&name, &problem))?;
        if name == centred {
            for (mut row, from) in gram.rows_mut().into_iter().zip(&mean) {
                row.scaled_add(*from, &mean);
            }
        }
        Ok(Statistics { gram, mean, tokens })
    }

    fn tokens(&self, layer: &Layer, input: &str) -> Result<u64, FormatError> {
        let name = tensor("tokens", input);
        let info = self.info(layer, &name, &[1])?;
        let mut bytes = [0; 8];
        if info.dtype != Dtype::I64 {
            return Err(self.wrong(layer, &name, &format!("is {}, not I64", info.dtype)));
        }
        self.bytes(info.data_offsets.0, &mut bytes)?;
        match u64::try_from(i64::from_le_bytes(bytes)) {
            Ok(tokens) if tokens > 0 => Ok(tokens),
            _ => Err(self.wrong(layer, &name, "is less than 1")),
        }
    }

    fn floats(&self, layer: &Layer, name: &str, shape: &[usize]) -> Result<Vec<f64>, FormatError> {
        let info = self.info(layer, name, shape)?;
        let widen = match info.dtype {
            Dtype::F32 => |bytes: &[u8], to: &mut Vec<f64>| {
                to.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))));
            },
            Dtype::F64 => |bytes: &[u8], to: &mut Vec<f64>| {
                to.extend(bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)));
            },
            other => return Err(self.wrong(layer, name, &format!("is {other}, not F32 or F64"))),
        };
        let (first, end) = info.data_offsets;
        let mut values = Vec::with_capacity(shape.iter().product());
        let mut bytes = vec![0; TOGETHER];
        let mut finite = true;
        for place in (first..end).step_by(TOGETHER) {
            let bytes = &mut bytes[..TOGETHER.min(end - place)];
            self.bytes(place, bytes)?;
            let known = values.len();
            widen(bytes, &mut values);
            finite = values[known..].iter().fold(finite, |all, v| all & v.is_finite());
        }
        if finite {
            return Ok(values);
        }
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.wrong(layer, name, &format!("holds {} at entry {at}", values[at]))),
        }
    }

    fn info(&self, layer: &Layer, name: &str, shape: &[usize]) -> Result<&TensorInfo, FormatError> {
        let info = self.tensors.info(name).ok_or_else(|| self.wrong(layer, name, "is missing"))?;
        if info.shape == shape {
            return Ok(info);
        }
        let found: Vec<_> = info.shape.iter().take(4).collect();
        Err(self.wrong(layer, name, &format!("has the shape {found:?}, and the layer wants {shape:?}")))
    }

    /// The bytes from this place among the tensors.
    fn bytes(&self, place: usize, bytes: &mut [u8]) -> Result<(), FormatError> {
        self.file
            .read_exact_at(bytes, self.data + place as u64)
            .map_err(|error| FormatError::io("read", &self.path, error))
    }

    fn wrong(&self, layer: &Layer, tensor: &str, problem: &str) -> FormatError {
        let problem = format!("tensor {} (for layer {}) {problem}", Name::new(tensor), Name::new(&layer.name));
        FormatError::malformed(&self.path, problem).with_help(MEASURE_AGAIN)
    }
}

/// Second moments are symmetric, and squares are not negative; no product is larger than the squares.
fn check_symmetric(gram: &Array2<f64>) -> Result<(), String> {
    let largest = gram.diag().iter().fold(0.0, |max: f64, v| max.max(v.abs()));
    if let Some(at) = gram.diag().iter().position(|&v| v < -ASYMMETRY * largest) {
        return Err(format!("holds {} on its diagonal at {at}: no mean of squares", gram[(at, at)]));
    }
    // In tiles: mirrored entries of whole rows are each in a cache line of their own.
    let starts = || (0..gram.nrows()).step_by(TILE);
    let tiles = starts().flat_map(|top| starts().take_while(move |&left| left <= top).map(move |left| (top, left)));
    let Some((top, left)) = tiles.into_iter().find(|&tile| asymmetry(gram, tile) > ASYMMETRY * largest) else {
        return Ok(());
    };
    let (rows, columns) = (top..gram.nrows().min(top + TILE), left..gram.nrows().min(left + TILE));
    let entries = rows.flat_map(|i| columns.clone().map(move |j| (i, j)));
    let apart = |&(i, j): &(usize, usize)| (gram[(i, j)] - gram[(j, i)]).abs();
    let (i, j) = entries.max_by(|a, b| apart(a).total_cmp(&apart(b))).unwrap_or((top, left));
    Err(format!("is not symmetric: {} at ({i}, {j}), {} at ({j}, {i})", gram[(i, j)], gram[(j, i)]))
}

/// How far the entries of a tile are from their mirror images, at most.
fn asymmetry(gram: &Array2<f64>, (top, left): (usize, usize)) -> f64 {
    let tile = |top: usize, left: usize| {
        let mut tile = gram.view();
        for (axis, first) in [(Axis(0), top), (Axis(1), left)] {
            tile.slice_axis_inplace(axis, (first..gram.nrows().min(first + TILE)).into());
        }
        tile
    };
    let mut mirrored = [[0.0; TILE]; TILE];
    for (k, row) in tile(left, top).rows().into_iter().enumerate() {
        row.iter().zip(&mut mirrored).for_each(|(&v, to)| to[k] = v);
    }
    let mut apart = [0.0_f64; TILE];
    for (row, mirrored) in tile(top, left).rows().into_iter().zip(&mirrored) {
        let pairs = row.iter().zip(mirrored).zip(&mut apart);
        pairs.for_each(|((a, b), apart)| *apart = apart.max((a - b).abs()));
    }
    apart.into_iter().fold(0.0, f64::max)
}
