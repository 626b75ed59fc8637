//! Tiny ONNX models, written field by field: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use std::path::PathBuf;

use calabi_api::{
    DType, Layer, LayerCost, Output, Role, RunError, Runner, Runtime as _, Samples, Shape, Tensor, Wiring,
};
use calabi_nn::OnnxRuntime;
use ndarray::{ArrayD, IxDyn};
use tempfile::TempDir;

pub(crate) const FLOAT: u64 = 1;
pub(crate) const UINT8: u64 = 2;
pub(crate) const INT32: u64 = 6;
pub(crate) const INT64: u64 = 7;
pub(crate) const BOOL: u64 = 9;

/// A message of protobuf's wire format.
#[derive(Default, Clone)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn int(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    pub(crate) fn bytes(mut self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.as_ref().len() as u64);
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub(crate) fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, message)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A graph as it grows.
#[derive(Default)]
pub(crate) struct Graph(Message);

impl Graph {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn node(self, op: &str, inputs: &[&str], output: &str) -> Self {
        let node = inputs.iter().fold(Message::new(), |node, input| node.bytes(1, input));
        Self(self.0.message(1, &node.bytes(2, output).bytes(3, format!("{op}_node")).bytes(4, op)))
    }

    /// A node with whole numbers as attributes.
    pub(crate) fn node_with(self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, u64)]) -> Self {
        let node = inputs.iter().fold(Message::new(), |node, input| node.bytes(1, input));
        let node = attributes.iter().fold(node.bytes(2, output).bytes(4, op), |node, (name, value)| {
            node.message(5, &Message::new().bytes(1, name).int(3, *value).int(20, 2))
        });
        Self(self.0.message(1, &node))
    }

    /// A node with these attributes.
    pub(crate) fn node_of(self, op: &str, inputs: &[&str], output: &str, attributes: &[Message]) -> Self {
        let node = inputs.iter().fold(Message::new(), |node, input| node.bytes(1, input));
        let node = attributes.iter().fold(node.bytes(2, output).bytes(4, op), |node, it| node.message(5, it));
        Self(self.0.message(1, &node))
    }

    /// A Gemm, with its two flags.
    pub(crate) fn gemm(self, inputs: &[&str], output: &str, [a, b]: [bool; 2]) -> Self {
        self.node_with("Gemm", inputs, output, &[("transA", u64::from(a)), ("transB", u64::from(b))])
    }

    pub(crate) fn input(self, name: &str, dtype: u64, dims: &[&str]) -> Self {
        Self(self.0.message(11, &value(name, dtype, dims)))
    }

    pub(crate) fn output(self, name: &str, dtype: u64, dims: &[&str]) -> Self {
        Self(self.0.message(12, &value(name, dtype, dims)))
    }

    pub(crate) fn weight(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = shape.iter().fold(Message::new(), |tensor, &dim| tensor.int(1, dim as u64));
        Self(self.0.message(5, &tensor.int(2, FLOAT).bytes(8, name).bytes(9, raw)))
    }

    /// A weight whose data lie in another file.
    pub(crate) fn weight_beside(self, name: &str, shape: &[usize], file: &str) -> Self {
        let tensor = shape.iter().fold(Message::new(), |tensor, &dim| tensor.int(1, dim as u64));
        let entry = |key: &str, value: &str| Message::new().bytes(1, key).bytes(2, value);
        let length = (4 * shape.iter().product::<usize>()).to_string();
        let tensor = tensor.int(2, FLOAT).bytes(8, name).message(13, &entry("location", file));
        let tensor = tensor.message(13, &entry("offset", "0")).message(13, &entry("length", &length)).int(14, 1);
        Self(self.0.message(5, &tensor))
    }

    /// The bytes of the model, opset 17.
    pub(crate) fn model(self) -> Vec<u8> {
        let opset = Message::new().bytes(1, "").int(2, 17);
        let graph = self.0.bytes(2, "graph");
        Message::new().int(1, 8).message(7, &graph).message(8, &opset).0
    }

    /// The model, loaded.
    pub(crate) fn load(self) -> Result<Box<dyn Runner>, RunError> {
        load(&self.model())
    }
}

/// A value's name, type and dimensions: numbers are fixed, names are free.
fn value(name: &str, dtype: u64, dims: &[&str]) -> Message {
    let shape = dims.iter().fold(Message::new(), |shape, dim| {
        let dim = match dim.parse() {
            Ok(size) => Message::new().int(1, size),
            Err(_) => Message::new().bytes(2, dim),
        };
        shape.message(1, &dim)
    });
    let tensor = Message::new().int(1, dtype).message(2, &shape);
    Message::new().bytes(1, name).message(2, &Message::new().message(1, &tensor))
}

/// A layer of a graph: `shape` is outputs × inputs.
pub(crate) fn layer(name: &str, shape: (usize, usize), input: &str, output: &str) -> Layer {
    let shape = Shape::new(shape.0, shape.1).unwrap();
    let (input, output) = (Some(input.to_owned()), Some(output.to_owned()));
    let wiring = Wiring { weight: name.to_owned(), input, output, ..Wiring::default() };
    let cost = LayerCost::new(shape, DType::F32, DType::F32);
    Layer { name: name.to_owned(), shape, dtype: DType::F32, role: Role::Linear, cost, wiring, bias: false, key: 0 }
}

/// A model of these bytes, loaded.
pub(crate) fn load(model: &[u8]) -> Result<Box<dyn Runner>, RunError> {
    let (_folder, path) = file("model.onnx", model);
    OnnxRuntime::default().load(&path)
}

/// A model whose file stays where it is for as long as the first value.
pub(crate) fn kept(graph: Graph) -> (TempDir, Box<dyn Runner>) {
    let (folder, path) = file("model.onnx", &graph.model());
    let runner = OnnxRuntime::default().load(&path).unwrap();
    (folder, runner)
}

/// A file of these bytes in a folder that goes with the first value.
pub(crate) fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

pub(crate) fn array<T>(shape: &[usize], value: impl Fn(usize) -> T) -> ArrayD<T> {
    let entries = shape.iter().product();
    ArrayD::from_shape_vec(IxDyn(shape), (0..entries).map(value).collect()).unwrap()
}

pub(crate) fn samples<const N: usize>(inputs: [(&str, Tensor); N]) -> Samples {
    Samples { inputs: inputs.map(|(name, tensor)| (name.to_owned(), tensor)).to_vec() }
}

/// The only output.
pub(crate) fn single(outputs: Result<Vec<Output>, RunError>) -> Output {
    let mut outputs = outputs.unwrap();
    assert_eq!(outputs.len(), 1);
    outputs.remove(0)
}
