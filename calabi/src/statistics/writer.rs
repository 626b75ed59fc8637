//! Writes a file of statistics, one input at a time, whole or not at all.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use calabi_api::{FormatError, Name, Statistics};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};
use tempfile::{Builder, NamedTempFile};

use super::file::{StatisticsHeader, tensor};

/// A file of statistics that is being written: beside its place, until it is whole.
#[derive(Debug)]
pub(crate) struct StatisticsWriter {
    path: PathBuf,
    file: NamedTempFile,
    /// The inputs that are still to come, and where their tensors begin.
    awaited: BTreeMap<String, Places>,
}

#[derive(Debug, Clone, Copy)]
struct Places {
    features: usize,
    tokens: u64,
    mean: u64,
    covariance: u64,
}

impl StatisticsWriter {
    /// Begins a file at `path`, whose folder exists; `inputs` are the names and widths of all distinct inputs that
    /// will be written.
    ///
    /// # Errors
    /// Where the file cannot be written, or an input is named twice.
    pub(crate) fn create(
        path: &Path,
        header: &StatisticsHeader,
        inputs: &[(String, usize)],
    ) -> Result<Self, FormatError> {
        let (tensors, mut awaited) = lay_out(inputs)?;
        let metadata = Metadata::new(Some(header.metadata()), tensors).map_err(|e| no_header(path, &e.into()))?;
        let mut text = serde_json::to_vec(&metadata).map_err(|e| no_header(path, &e.into()))?;
        text.resize(text.len().next_multiple_of(8), b' ');
        let data = 8 + text.len() as u64;
        for places in awaited.values_mut() {
            places.tokens += data;
            places.mean += data;
            places.covariance += data;
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let readable = Permissions::from_mode(0o666); // less what the process's mask takes away
        let file = Builder::new().permissions(readable).tempfile_in(folder);
        let file = file.map_err(|e| FormatError::io("create a file in", folder, e))?;
        let writer = Self { path: path.to_owned(), file, awaited };
        writer.put(0, &(text.len() as u64).to_le_bytes())?;
        writer.put(8, &text)?;
        Ok(writer)
    }

    /// Writes the statistics of a declared input; in any order, each input once.
    ///
    /// # Errors
    /// Where the input was not declared with this width or is written twice, or the file cannot be written.
    pub(crate) fn write(&mut self, input: &str, statistics: &Statistics) -> Result<(), FormatError> {
        let Statistics { gram, mean, tokens } = statistics;
        let places = self.awaited.get(input).copied();
        let Some(places) = places.filter(|p| gram.dim() == (p.features, p.features) && mean.len() == p.features) else {
            let problem =
                format!("input {} of {:?} was not declared, or is written twice", Name::new(input), gram.dim());
            return Err(FormatError::Misuse(problem));
        };
        let tokens = i64::try_from(*tokens).unwrap_or(i64::MAX);
        self.put(places.tokens, &tokens.to_le_bytes())?;
        self.put(places.mean, &mean.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
        let row_bytes = 4 * places.features as u64;
        let mut place = places.covariance;
        for (row, from) in gram.rows().into_iter().zip(mean) {
            let bytes: Vec<u8> = row.iter().zip(mean).flat_map(|(v, to)| narrow(v - from * to).to_le_bytes()).collect();
            self.put(place, &bytes)?;
            place += row_bytes;
        }
        self.awaited.remove(input);
        Ok(())
    }

    /// Makes the file durable and puts it in its place, over what is there only where `replace` says so.
    ///
    /// # Errors
    /// Where a declared input was not written, or the file cannot be.
    pub(crate) fn finish(self, replace: bool) -> Result<PathBuf, FormatError> {
        if let Some(input) = self.awaited.keys().next() {
            return Err(FormatError::Misuse(format!("input {} was declared and not written", Name::new(input))));
        }
        let Self { path, file, .. } = self;
        let io = |error| FormatError::io("write", &path, error);
        file.as_file().sync_all().map_err(io)?;
        let placed = if replace { file.persist(&path) } else { file.persist_noclobber(&path) };
        placed.map_err(|error| io(error.error))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        Ok(path)
    }

    fn put(&self, place: u64, bytes: &[u8]) -> Result<(), FormatError> {
        self.file.as_file().write_all_at(bytes, place).map_err(|error| FormatError::io("write", &self.path, error))
    }
}

/// The tensors in their order, those of eight bytes first so that all are aligned, and where they begin in the data.
#[allow(clippy::type_complexity)]
fn lay_out(inputs: &[(String, usize)]) -> Result<(Vec<(String, TensorInfo)>, BTreeMap<String, Places>), FormatError> {
    let mut tensors = Vec::new();
    let mut end = 0;
    let mut place = |name: String, dtype: Dtype, shape: Vec<usize>| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let data_offsets = (end, end + bytes);
        tensors.push((name, TensorInfo { dtype, shape, data_offsets }));
        end += bytes;
        data_offsets.0 as u64
    };
    let tokens: Vec<_> = inputs.iter().map(|(name, _)| place(tensor("tokens", name), Dtype::I64, vec![1])).collect();
    let means: Vec<_> = inputs.iter().map(|(name, n)| place(tensor("mean", name), Dtype::F64, vec![*n])).collect();
    let mut awaited = BTreeMap::new();
    for (((name, features), tokens), mean) in inputs.iter().zip(tokens).zip(means) {
        let covariance = place(tensor("covariance", name), Dtype::F32, vec![*features, *features]);
        let places = Places { features: *features, tokens, mean, covariance };
        if awaited.insert(name.clone(), places).is_some() {
            return Err(FormatError::Misuse(format!("input {} is declared twice", Name::new(name))));
        }
    }
    Ok((tensors, awaited))
}

#[allow(clippy::cast_possible_truncation)] // the file holds f32
fn narrow(value: f64) -> f32 {
    value as f32
}

fn no_header(path: &Path, error: &HeaderError) -> FormatError {
    FormatError::Misuse(format!("{}: no header can be made: {error}", path.display()))
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum HeaderError {
    Layout(#[from] SafeTensorError),
    Json(#[from] serde_json::Error),
}
