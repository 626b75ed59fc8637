//! Small models, and how to open, rewrite and look at them.

use std::fs;
use std::path::{Path, PathBuf};

use calabi_api::ndarray::Array2;
use calabi_api::{
    DType, Factors, FormatError, Layer, LayerFormat, LayerSource, Rank, Replacement, WriteOptions, Written,
};
use calabi_io::Onnx;
use prost::Message;
use tempfile::TempDir;

use crate::schema::{
    Attribute, Dimension, Entry, Graph, Model, Node, Opset, Tensor, TensorShape, TensorType, Type, Value,
};

/// `FLOAT`
pub(crate) const FLOAT: i32 = 1;
/// `INT8`
pub(crate) const INT8: i32 = 3;

pub(crate) fn node(operator: &str, inputs: &[&str], output: &str) -> Node {
    Node {
        operator: operator.to_owned(),
        inputs: inputs.iter().map(ToString::to_string).collect(),
        outputs: vec![output.to_owned()],
        ..Default::default()
    }
}

impl Node {
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub(crate) fn integer(mut self, name: &str, value: i64) -> Self {
        self.attributes.push(Attribute { name: name.into(), integer: Some(value), kind: 2, ..Default::default() });
        self
    }

    pub(crate) fn float(mut self, name: &str, value: f32) -> Self {
        self.attributes.push(Attribute { name: name.into(), float: Some(value), kind: 1, ..Default::default() });
        self
    }

    pub(crate) fn tensor(mut self, name: &str, tensor: Tensor) -> Self {
        self.attributes.push(Attribute { name: name.into(), tensor: Some(tensor), kind: 4, ..Default::default() });
        self
    }

    pub(crate) fn graph(mut self, name: &str, graph: Graph) -> Self {
        self.attributes.push(Attribute { name: name.into(), graph: Some(graph), kind: 5, ..Default::default() });
        self
    }
}

pub(crate) fn data_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::BF16 => 16,
    }
}

/// A tensor of raw data.
pub(crate) fn raw(name: &str, dtype: DType, dims: &[usize], values: impl IntoIterator<Item = f32>) -> Tensor {
    let mut bytes = Vec::new();
    dtype.encode(values.into_iter(), &mut bytes);
    Tensor {
        name: name.to_owned(),
        data_type: data_type(dtype),
        dims: dims.iter().map(|&dim| i64::try_from(dim).unwrap()).collect(),
        raw: Some(bytes),
        ..Default::default()
    }
}

/// A tensor of `f32` with numbers that are all different.
pub(crate) fn counting(name: &str, dims: &[usize]) -> Tensor {
    let count: usize = dims.iter().product();
    raw(name, DType::F32, dims, (0..count).map(|i| i as f32 - 3.0))
}

impl Tensor {
    /// The same tensor with its data in the field of its type.
    pub(crate) fn typed(mut self) -> Self {
        let bytes = self.raw.take().unwrap();
        match self.data_type {
            1 => self.floats = DType::F32.decode(&bytes).collect(),
            11 => self.doubles = DType::F64.decode(&bytes).map(f64::from).collect(),
            _ => self.int32s = bytes.as_chunks::<2>().0.iter().map(|&b| i32::from(u16::from_le_bytes(b))).collect(),
        }
        self
    }

    /// The same tensor with its data moved to the end of a file.
    pub(crate) fn external(mut self, folder: &Path, location: &str) -> Self {
        let mut file = fs::read(folder.join(location)).unwrap_or_default();
        let bytes = self.raw.take().unwrap();
        self.location = Some(1);
        self.external = entries(&[
            ("location", location),
            ("offset", &file.len().to_string()),
            ("length", &bytes.len().to_string()),
        ]);
        file.extend(bytes);
        fs::write(folder.join(location), file).unwrap();
        self
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&str> {
        self.external.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }

    /// The bytes of its data, wherever it is.
    pub(crate) fn bytes(&self, folder: &Path) -> Vec<u8> {
        if let Some(bytes) = &self.raw {
            return bytes.clone();
        }
        if self.location.is_none() {
            let floats = self.floats.iter().flat_map(|v| v.to_le_bytes());
            let doubles = self.doubles.iter().flat_map(|v| v.to_le_bytes());
            let halves = self.int32s.iter().flat_map(|&v| u16::try_from(v).unwrap().to_le_bytes());
            return floats.chain(doubles).chain(halves).collect();
        }
        let file = fs::read(folder.join(self.entry("location").unwrap())).unwrap();
        let [offset, length] = ["offset", "length"].map(|key| self.entry(key).unwrap().parse::<usize>().unwrap());
        file[offset..offset + length].to_vec()
    }
}

pub(crate) fn entries(pairs: &[(&str, &str)]) -> Vec<Entry> {
    pairs.iter().map(|&(key, value)| Entry { key: key.into(), value: value.into() }).collect()
}

/// A value of this type and shape; a negative dimension is free.
pub(crate) fn value(name: &str, element: i32, dims: &[i64]) -> Value {
    let dims = dims.iter().map(|&dim| match dim {
        0.. => Dimension { value: Some(dim), parameter: None },
        _ => Dimension { value: None, parameter: Some("batch".into()) },
    });
    let shape = TensorShape { dims: dims.collect() };
    let tensor = TensorType { element, shape: Some(shape) };
    let kind = Some(Type { tensor: Some(tensor), ..Default::default() });
    Value { name: name.into(), kind, ..Default::default() }
}

/// A model of IR version 10 with this graph, by this version of the standard's operators.
pub(crate) fn model(version: i64, graph: Graph) -> Model {
    Model {
        ir_version: 10,
        producer: "tests".into(),
        graph: Some(graph),
        opsets: vec![Opset { domain: String::new(), version }],
        ..Default::default()
    }
}

/// `y = x · w`, w of shape 4 × 3.
pub(crate) fn small() -> Model {
    model(
        17,
        Graph {
            name: "g".into(),
            nodes: vec![node("MatMul", &["x", "w"], "y").named("linear")],
            initializers: vec![counting("w", &[4, 3])],
            inputs: vec![value("x", FLOAT, &[-1, 4])],
            outputs: vec![value("y", FLOAT, &[-1, 3])],
            ..Default::default()
        },
    )
}

impl Model {
    pub(crate) fn main(&mut self) -> &mut Graph {
        self.graph.as_mut().unwrap()
    }
}

/// A folder with a model in it.
pub(crate) struct Case {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Case {
    pub(crate) fn new(model: &Model) -> Self {
        Self::of_bytes(&model.encode_to_vec())
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self::inside(tempfile::tempdir().unwrap(), bytes)
    }

    pub(crate) fn inside(folder: TempDir, bytes: &[u8]) -> Self {
        let path = folder.path().join("model.onnx");
        fs::write(&path, bytes).unwrap();
        Self { folder, path }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    pub(crate) fn open(&self) -> Box<dyn LayerSource> {
        self.try_open().unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Box<dyn LayerSource>, FormatError> {
        Onnx::default().open(&self.path)
    }

    /// The message of the refusal.
    pub(crate) fn refusal(&self) -> String {
        let error = self.try_open().map(|_| ()).unwrap_err();
        assert!(error.refuses_input(), "{error}");
        error.to_string()
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.folder.path().join("small.onnx")
    }

    /// Rewrites the model with these factors, and reads it back.
    pub(crate) fn rewrite(&self, replaced: &[(&str, Factors)]) -> (Model, Written) {
        self.rewrite_so(&WriteOptions::default(), replaced)
    }

    /// The same, written with these options.
    pub(crate) fn rewrite_so(&self, options: &WriteOptions, replaced: &[(&str, Factors)]) -> (Model, Written) {
        let source = self.open();
        let layers: Vec<&Layer> = replaced.iter().map(|(name, _)| layer(&*source, name)).collect();
        let declared: Vec<_> =
            replaced.iter().zip(&layers).map(|((_, factors), layer)| declare(layer, factors)).collect();
        let mut sink = source.create(&self.output(), &declared, options).unwrap();
        for ((_, factors), layer) in replaced.iter().zip(&layers).rev() {
            sink.write(layer, factors).unwrap();
        }
        let written = sink.finish().unwrap();
        (Model::decode(fs::read(self.output()).unwrap().as_slice()).unwrap(), written)
    }
}

pub(crate) fn declare<'a>(layer: &'a Layer, factors: &Factors) -> Replacement<'a> {
    Replacement { layer, rank: Rank::new(factors.left.ncols()).unwrap(), bias: factors.bias.is_some() }
}

pub(crate) fn layer<'a>(source: &'a dyn LayerSource, name: &str) -> &'a Layer {
    source.layers().iter().find(|layer| layer.name == name).unwrap_or_else(|| panic!("no layer {name}"))
}

/// Factors of an `m × n` weight of small whole numbers, which every type holds.
pub(crate) fn factors(m: usize, n: usize, rank: usize) -> Factors {
    Factors {
        left: Array2::from_shape_fn((m, rank), |(i, j)| ((2 * i + 3 * j) % 5) as f32 - 2.0),
        right: Array2::from_shape_fn((rank, n), |(i, j)| ((3 * i + j) % 4) as f32 - 1.0),
        bias: None,
    }
}

/// What is left alone, with its reason.
pub(crate) fn left_alone(model: &Model) -> Vec<(String, String)> {
    let source = Case::new(model).open();
    source.left_alone().iter().map(|left| (left.name.clone(), left.why.clone())).collect()
}
