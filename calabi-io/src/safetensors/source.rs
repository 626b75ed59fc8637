//! An open model: its layers, and their weights one at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use calabi_api::ndarray::{Array1, Array2, Axis};
use calabi_api::{
    DType, FormatError, Layer, LayerSink, LayerSource, LeftAlone, Name, Normalisation, Replacement, Shape, Totals,
    WriteOptions, Written,
};

use super::config::Config;
use super::header::Entry;
use super::layers::{self, Place, Sorted};
use super::sink::Sink;
use super::weights::Weights;
use super::{KIND, densify, folder, norms, roles};
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
        let facts = |layer: &Layer| (layer.name.clone(), layer.shape, layer.dtype, layer.bias);
        let same = |a: &Layer, b: &Layer| facts(a) == facts(b);
        let known = self.sorted.layers.get(layer.key).filter(|known| same(known, layer));
        known
            .and_then(|_| self.sorted.places.get(layer.key))
            .and_then(|&place| self.weights.at(place.at).map(|(file, entry)| (place, file, entry)))
            .ok_or_else(|| {
                let (name, path) = (Name::new(&layer.name), self.path.display());
                FormatError::Misuse(format!("layer {name} is not one of {path}"))
            })
    }

    /// The first of these tensors that is there with a floating-point number for each feature.
    fn features(&self, names: [String; 2], count: usize) -> Result<Option<Array1<f32>>, FormatError> {
        let mut found = names.iter().filter_map(|name| self.weights.named(name));
        let fitting = found.find_map(|(file, entry)| {
            let dtype = entry.dtype.float.filter(|_| entry.dims == [count as u64])?;
            Some((file, entry, dtype))
        });
        fitting.map(|(file, entry, dtype)| vector(file, entry, dtype)).transpose()
    }

    /// A layer's own bias and how it is stored; none where it has none that another can be added to.
    pub(super) fn bias(&self, layer: &Layer) -> Result<Option<(Array1<f32>, DType)>, FormatError> {
        let (place, ..) = self.place(layer)?;
        let bias = place.bias.and_then(|at| self.weights.at(at));
        bias.and_then(|(file, entry)| Some((file, entry, entry.dtype.float?)))
            .map(|(file, entry, dtype)| Ok((vector(file, entry, dtype)?, dtype)))
            .transpose()
    }

    /// Checks that a new bias would not take the place of a tensor that is no bias.
    pub(super) fn check_bias(&self, layer: &Layer) -> Result<(), FormatError> {
        let (place, ..) = self.place(layer)?;
        let name = roles::bias_of(&layer.name);
        let Some((_, entry)) = self.weights.named(&name).filter(|_| place.bias.is_none()) else { return Ok(()) };
        let (name, dims, dtype) = (Name::new(&name), &entry.dims, entry.dtype.name);
        let problem = format!("tensor {name} of {dims:?} {dtype} is no bias that another can be added to");
        Err(FormatError::limit(problem, "exclude its layer, or set no bias"))
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

    fn normalisation(&self, layer: &Layer) -> Result<Option<Normalisation>, FormatError> {
        self.0.place(layer)?;
        let model_type = self.0.folder.as_ref().and_then(|folder| folder.config.model_type.as_deref());
        let Some(before) = norms::before(model_type, &layer.name) else { return Ok(None) };
        let features = layer.shape.cols();
        let Some(mut gamma) = self.0.features(before.gammas(), features)? else { return Ok(None) };
        if before.less_one {
            gamma += 1.0;
        }
        Ok(Some(Normalisation { gamma, beta: self.0.features(before.betas(), features)? }))
    }

    fn create(
        &self,
        path: &Path,
        replaced: &[Replacement],
        options: &WriteOptions,
    ) -> Result<Box<dyn LayerSink>, FormatError> {
        Ok(Box::new(Sink::create(Arc::clone(&self.0), path, replaced, options)?))
    }

    fn densify(&self, path: &Path, options: &WriteOptions) -> Result<Written, FormatError> {
        densify::densify(&self.0, path, options)
    }
}

/// Reads a weight that is stored outputs by inputs.
fn as_stored(file: &Input, entry: &Entry, layer: &Layer) -> Result<Array2<f32>, FormatError> {
    let shape = layer.shape;
    let numbers = numbers(file, entry, layer.dtype)?;
    Array2::from_shape_vec((shape.rows(), shape.cols()), numbers).map_err(|_| changed(file, entry, shape))
}

/// Reads a weight that is stored inputs by outputs.
fn transposed(file: &Input, entry: &Entry, layer: &Layer) -> Result<Array2<f32>, FormatError> {
    let mut weight = Array2::zeros((layer.shape.rows(), layer.shape.cols()));
    let mut stored = weight.view_mut().reversed_axes();
    let mut slots = stored.iter_mut();
    each_piece(file, entry, |bytes| {
        layer.dtype.decode(bytes).zip(&mut slots).for_each(|(value, slot)| *slot = value);
    })?;
    Ok(weight)
}

/// Reads a vector; an error where a number is not finite.
fn vector(file: &Input, entry: &Entry, dtype: DType) -> Result<Array1<f32>, FormatError> {
    let vector = Array1::from_vec(numbers(file, entry, dtype)?);
    FormatError::check_finite(file.path(), &entry.name, &vector.view().insert_axis(Axis(0)).to_owned())?;
    Ok(vector)
}

/// All numbers of a tensor, in the order of the file.
pub(super) fn numbers(file: &Input, entry: &Entry, dtype: DType) -> Result<Vec<f32>, FormatError> {
    let mut numbers = Vec::with_capacity(usize::try_from(entry.elements()).unwrap_or_default());
    each_piece(file, entry, |bytes| dtype.decode_to(bytes, &mut numbers))?;
    Ok(numbers)
}

/// Calls `take` with whole numbers of a tensor, a piece at a time, in the order of the file.
fn each_piece(file: &Input, entry: &Entry, mut take: impl FnMut(&[u8])) -> Result<(), FormatError> {
    let mut bytes = Vec::new();
    let mut done = 0;
    while done < entry.length {
        let piece = (entry.length - done).min(PIECE);
        bytes.resize(usize::try_from(piece).unwrap_or_default(), 0);
        file.read(entry.start + done, &mut bytes)?;
        take(&bytes);
        done += piece;
    }
    Ok(())
}

fn changed(file: &Input, entry: &Entry, shape: Shape) -> FormatError {
    let problem = format!("tensor {}: {} bytes do not make {shape} numbers", Name::new(&entry.name), entry.length);
    FormatError::malformed(file.path(), problem)
}
