//! The files with weights of a model, open and checked.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use calabi_api::{Cost, FormatError, Name};

use super::header::{Entry, Header};
use super::index::{self, WeightMap};
use crate::file::Input;

/// All files with weights, in the order of their names.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) shards: Vec<Shard>,
}

/// A file with weights.
#[derive(Debug)]
pub(super) struct Shard {
    /// The file's name in its folder.
    pub(super) name: String,
    pub(super) file: Input,
    pub(super) header: Header,
}

/// Where a tensor is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TensorAt {
    pub(super) shard: usize,
    pub(super) tensor: usize,
}

impl Shard {
    fn open(name: &str, path: &Path) -> Result<Self, FormatError> {
        let file = Input::open(path)?;
        let header = Header::read(&file)?;
        Ok(Self { name: name.to_owned(), file, header })
    }
}

impl Weights {
    /// Opens a single file.
    pub(super) fn single(path: &Path) -> Result<Self, FormatError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self { shards: vec![Shard::open(&name, path)?] })
    }

    /// Opens all shards that an index names.
    pub(super) fn sharded(folder: &Path, map: WeightMap) -> Result<Self, FormatError> {
        let mut names: Vec<String> = map.values().cloned().collect();
        names.sort_unstable();
        names.dedup();
        let index = folder.join(index::FILE);
        let open = |name: &String| match Shard::open(name, &folder.join(name)) {
            Err(FormatError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Err(missing(&index, name)),
            opened => opened,
        };
        let shards = names.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        index::check(&index, map, &shards)?;
        Ok(Self { shards })
    }

    /// All tensors, shard by shard, in the order of their bytes.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (TensorAt, &Entry)> {
        self.shards.iter().enumerate().flat_map(|(shard, file)| {
            file.header.tensors.iter().enumerate().map(move |(tensor, entry)| (TensorAt { shard, tensor }, entry))
        })
    }

    /// All tensors by name.
    pub(super) fn by_name(&self) -> HashMap<&str, (TensorAt, &Entry)> {
        self.tensors().map(|(at, entry)| (entry.name.as_str(), (at, entry))).collect()
    }

    /// The file and the entry of the tensor of this name.
    pub(super) fn named(&self, name: &str) -> Option<(&Input, &Entry)> {
        let (at, _) = self.tensors().find(|(_, entry)| entry.name == name)?;
        self.at(at)
    }

    /// The file and the entry of a tensor.
    pub(super) fn at(&self, at: TensorAt) -> Option<(&Input, &Entry)> {
        let shard = self.shards.get(at.shard)?;
        Some((&shard.file, shard.header.tensors.get(at.tensor)?))
    }

    /// All elements, and the size of all files.
    pub(super) fn cost(&self) -> Cost {
        let parameters = self.tensors().map(|(_, entry)| entry.elements()).sum();
        Cost { parameters, bytes: self.shards.iter().map(|shard| shard.file.len()).sum() }
    }
}

fn missing(index: &Path, shard: &str) -> FormatError {
    let problem = format!("the shard {}, which it names, is missing", Name::new(shard));
    FormatError::malformed(index, problem).with_help("fetch the folder again, whole")
}
