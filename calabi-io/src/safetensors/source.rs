//! An open model: its layers, and their weights one at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use calabi_api::ndarray::Array2;
use calabi_api::{
    FormatError, Layer, LayerSink, LayerSource, LeftAlone, Name, Replacement, Shape, Totals, WriteOptions,
};

use super::config::Config;
use super::header::Entry;
use super::layers::{self, Place, Sorted};
use super::sink::Sink;
use super::weights::Weights;
use super::{KIND, folder};
use crate::file::Input;

/// How many bytes of a weight are held beside its numbers.
const PIECE: u64 = 1 << 20;

/// An open model.
#[derive(Debug)]
pub(super) struct Source(Arc<Model>);

/// What a folder holds beside its weights.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) config: Config,
    /// The files that are copied.
    pub(super) companions: Vec<PathBuf>,
}

/// What source and sink share.
#[derive(Debug)]
pub(super) struct Model {
    /// The file or folder that was opened.
    pub(super) path: PathBuf,
    /// What else is in the folder; none of a single file.
    pub(super) folder: Option<Folder>,
    pub(super) weights: Weights,
    sorted: Sorted,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, FormatError> {
        let (folder, weights) = if path.is_dir() {
            (Some(Folder::read(path)?), folder::open(path)?)
        } else {
            (None, Weights::single(path)?)
        };
        let sorted = match &folder {
            Some(folder) => layers::sort(&weights, &folder.config),
            None => layers::sort(&weights, &Config::default()),
        };
        Ok(Self(Arc::new(Model { path: path.to_owned(), folder, weights, sorted })))
    }
}

impl Folder {
    fn read(path: &Path) -> Result<Self, FormatError> {
        Ok(Self { config: Config::read(path)?, companions: folder::companions(path)? })
    }
}

impl Model {
    /// Where a layer's weight is; an error where the layer is another model's.
    pub(super) fn place(&self, layer: &Layer) -> Result<(Place, &Input, &Entry), FormatError> {
        let same = |a: &Layer, b: &Layer| (&a.name, a.shape, a.dtype) == (&b.name, b.shape, b.dtype);
        let known = self.sorted.layers.get(layer.key).filter(|known| same(known, layer));
        known
            .and_then(|_| self.sorted.places.get(layer.key))
            .and_then(|&place| self.weights.at(place.at).map(|(file, entry)| (place, file, entry)))
            .ok_or_else(|| {
                let (name, path) = (Name::new(&layer.name), self.path.display());
                FormatError::Misuse(format!("layer {name} is not one of {path}"))
            })
    }
}

impl LayerSource for Source {
    fn layers(&self) -> &[Layer] {
        &self.0.sorted.layers
    }

    fn left_alone(&self) -> &[LeftAlone] {
        &self.0.sorted.left_alone
    }

    fn totals(&self) -> Totals {
        let weights = &self.0.weights;
        let files = weights.shards.iter().map(|shard| shard.file.path().to_owned()).collect();
        Totals { format: KIND, cost: weights.cost(), files }
    }

    fn read(&self, layer: &Layer) -> Result<Array2<f32>, FormatError> {
        let (place, file, entry) = self.0.place(layer)?;
        let weight = if place.inputs_first { transposed(file, entry, layer)? } else { as_stored(file, entry, layer)? };
        FormatError::check_finite(file.path(), &entry.name, &weight)?;
        Ok(weight)
    }

    fn create(
        &self,
        path: &Path,
        replaced: &[Replacement],
        options: &WriteOptions,
    ) -> Result<Box<dyn LayerSink>, FormatError> {
        Ok(Box::new(Sink::create(Arc::clone(&self.0), path, replaced, options)?))
    }
}

/// Reads a weight that is stored outputs by inputs.
fn as_stored(file: &Input, entry: &Entry, layer: &Layer) -> Result<Array2<f32>, FormatError> {
    let shape = layer.shape;
    let mut numbers = Vec::with_capacity(shape.rows() * shape.cols());
    each_number(file, entry, layer, |value| numbers.push(value))?;
    Array2::from_shape_vec((shape.rows(), shape.cols()), numbers).map_err(|_| changed(file, entry, shape))
}

/// Reads a weight that is stored inputs by outputs.
fn transposed(file: &Input, entry: &Entry, layer: &Layer) -> Result<Array2<f32>, FormatError> {
    let mut weight = Array2::zeros((layer.shape.rows(), layer.shape.cols()));
    let mut stored = weight.view_mut().reversed_axes();
    let mut slots = stored.iter_mut();
    each_number(file, entry, layer, |value| {
        if let Some(slot) = slots.next() {
            *slot = value;
        }
    })?;
    Ok(weight)
}

/// Calls `take` with each number of a weight, in the order of the file.
fn each_number(file: &Input, entry: &Entry, layer: &Layer, mut take: impl FnMut(f32)) -> Result<(), FormatError> {
    let mut bytes = Vec::new();
    let mut done = 0;
    while done < entry.length {
        let piece = (entry.length - done).min(PIECE);
        bytes.resize(usize::try_from(piece).unwrap_or_default(), 0);
        file.read(entry.start + done, &mut bytes)?;
        layer.dtype.decode(&bytes).for_each(&mut take);
        done += piece;
    }
    Ok(())
}

fn changed(file: &Input, entry: &Entry, shape: Shape) -> FormatError {
    let problem = format!("tensor {}: {} bytes do not make {shape} numbers", Name::new(&entry.name), entry.length);
    FormatError::malformed(file.path(), problem)
}
