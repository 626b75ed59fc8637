//! Small models and how to open, write and look at them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use calabi_api::ndarray::{Array1, Array2};
use calabi_api::{
    DType, Factors, FormatError, Layer, LayerFormat, LayerSource, Rank, Replacement, WriteOptions, Written,
};
use calabi_io::SafeTensors;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A tensor: its name, type, dimensions and bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) dims: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor whose numbers are all different, and exact in every type.
    pub(crate) fn counting(name: &str, dtype: DType, dims: &[usize]) -> Self {
        let values = (0..dims.iter().product()).map(|i: usize| (i % 251) as f32 - 100.0);
        Self::of(name, dtype, dims, values)
    }

    pub(crate) fn of(name: &str, dtype: DType, dims: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let mut bytes = Vec::new();
        dtype.encode(values.into_iter(), &mut bytes);
        Self { name: name.into(), dtype: in_file(dtype), dims: dims.into(), bytes }
    }

    pub(crate) fn raw(name: &str, dtype: Dtype, dims: &[usize]) -> Self {
        let bits: usize = dims.iter().product::<usize>() * dtype.bitsize();
        let bytes = (0..bits / 8).map(|i| u8::try_from(i % 256).unwrap()).collect();
        Self { name: name.into(), dtype, dims: dims.into(), bytes }
    }
}

pub(crate) fn in_file(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
    }
}

/// A file of these tensors, as the reference implementation writes it.
pub(crate) fn reference(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|t| (&t.name, TensorView::new(t.dtype, t.dims.clone(), &t.bytes).unwrap()));
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// A file with this header and these bytes of data.
pub(crate) fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// The tensors of a file as the reference implementation reads them, by name.
pub(crate) fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, TensorView<'_>)| {
        let (dtype, dims, bytes) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.clone(), Tensor { name, dtype, dims, bytes })
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// A temporary folder, and files in it.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

pub(crate) fn open(path: &Path) -> Result<Box<dyn LayerSource>, FormatError> {
    SafeTensors {}.open(path)
}

/// Opens a file of these bytes.
pub(crate) fn open_bytes(bytes: &[u8]) -> Result<Box<dyn LayerSource>, FormatError> {
    let place = Place::new();
    open(&place.write("m.safetensors", bytes))
}

/// The refusal of a file of these bytes: what is wrong, and the way out.
pub(crate) fn refusal(bytes: &[u8]) -> (String, String) {
    refused(&open_bytes(bytes).expect_err("the file should be refused"))
}

pub(crate) fn refused(error: &FormatError) -> (String, String) {
    let FormatError::Malformed { problem, help, .. } = error else { panic!("{error:?}") };
    assert!(error.refuses_input());
    (problem.clone(), help.clone().unwrap_or_default())
}

pub(crate) fn layer<'a>(source: &'a dyn LayerSource, name: &str) -> &'a Layer {
    source.layers().iter().find(|layer| layer.name == name).unwrap_or_else(|| panic!("no layer {name}"))
}

/// Why a tensor is left alone.
pub(crate) fn why<'a>(source: &'a dyn LayerSource, name: &str) -> &'a str {
    let found = source.left_alone().iter().find(|left| left.name == name);
    &found.unwrap_or_else(|| panic!("{name} is not left alone")).why
}

/// Factors of a layer with numbers that depend on `seed`, exact in every type.
pub(crate) fn factors(layer: &Layer, rank: usize, bias: bool, seed: usize) -> Factors {
    let value = move |i: usize, j: usize| ((seed + 7 * i + 13 * j) % 64) as f32 / 8.0 - 4.0;
    Factors {
        left: Array2::from_shape_fn((layer.shape.rows(), rank), |(i, j)| value(i, j)),
        right: Array2::from_shape_fn((rank, layer.shape.cols()), |(i, j)| -value(j, i)),
        bias: bias.then(|| Array1::from_shape_fn(layer.shape.rows(), |i| value(i, 3))),
    }
}

/// A layer to replace: its name, rank, and whether the factors bring a bias.
pub(crate) type Wanted<'a> = (&'a str, usize, bool);

/// Writes a copy of a model with these layers factorized, the last first.
pub(crate) fn write(source: &dyn LayerSource, to: &Path, wanted: &[Wanted<'_>], shard_size: Option<u64>) -> Written {
    let rank = |r| Rank::new(r).unwrap();
    let replaced: Vec<_> =
        wanted.iter().map(|&(name, r, bias)| Replacement { layer: layer(source, name), rank: rank(r), bias }).collect();
    let mut options = WriteOptions::default();
    options.shard_size = shard_size;
    let mut sink = source.create(to, &replaced, &options).unwrap();
    for (seed, Replacement { layer, rank, bias }) in replaced.iter().enumerate().rev() {
        sink.write(layer, &factors(layer, rank.get(), *bias, seed)).unwrap();
    }
    sink.finish().unwrap()
}

/// The bytes of numbers in a file of this type.
pub(crate) fn encoded<'a>(dtype: DType, values: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    dtype.encode(values.into_iter().copied(), &mut bytes);
    bytes
}
