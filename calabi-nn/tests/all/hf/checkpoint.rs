//! A tiny checkpoint with what transformers says of it; and changed copies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use calabi_api::{DType, Layer, LayerCost, Output, Role, Runner, Runtime, Samples, Shape, StateSpace, Tensor, Wiring};
use calabi_nn::HfRuntime;
use ndarray::{Array1, Array2, ArrayD, IxDyn};
use safetensors::SafeTensors;
use serde_json::Value;

pub(crate) const FAMILIES: [&str; 7] = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "bert", "gpt2"];

/// Tensors by name: dimensions and values.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub(crate) struct Tiny {
    pub(crate) folder: PathBuf,
    pub(crate) samples: Samples,
    pub(crate) mask: ArrayD<i64>,
    pub(crate) expected: Vec<Output>,
}

impl Tiny {
    pub(crate) fn of(family: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(family);
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (mut samples, mut expected) = (Samples::default(), Vec::new());
        for (name, view) in file.tensors() {
            let shape = IxDyn(view.shape());
            if view.dtype() == safetensors::Dtype::I64 {
                let values = view.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
                samples.inputs.push((name, Tensor::I64(ArrayD::from_shape_vec(shape, values).unwrap())));
            } else {
                let values = DType::F32.decode(view.data()).collect();
                expected.push(Output { name, values: ArrayD::from_shape_vec(shape, values).unwrap() });
            }
        }
        let mask = samples.inputs.iter().find_map(|(name, tensor)| match tensor {
            Tensor::I64(mask) if name == "attention_mask" => Some(mask.clone()),
            _ => None,
        });
        Self { folder, samples, mask: mask.unwrap(), expected }
    }

    pub(crate) fn load(&self) -> Box<dyn Runner> {
        load(&self.folder)
    }

    /// The tensors of the file.
    pub(crate) fn tensors(&self) -> Tensors {
        let bytes = std::fs::read(self.folder.join("model.safetensors")).unwrap();
        let dtype = |dtype| match dtype {
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            _ => DType::F32,
        };
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let read = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, (view.shape().to_vec(), dtype(view.dtype()).decode(view.data()).collect())));
        read.collect()
    }

    /// The configuration.
    pub(crate) fn config(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.join("config.json")).unwrap()).unwrap()
    }

    /// The layers in the blocks and the head, as calabi's format names them.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        let tensors = self.tensors();
        let matrices = tensors.iter().filter(|(name, (dims, _))| dims.len() == 2 && !is_table(name));
        matrices.map(|(name, (dims, _))| layer(name, dims, name.contains(".c_"))).collect()
    }

    /// A layer's weight, outputs by inputs, and its bias.
    pub(crate) fn linear(&self, name: &str) -> (Array2<f32>, Array1<f32>) {
        let tensors = self.tensors();
        let (dims, values) = &tensors[&format!("{name}.weight")];
        let stored = Array2::from_shape_vec((dims[0], dims[1]), values.clone()).unwrap();
        let weight = if name.contains(".c_") { stored.t().to_owned() } else { stored };
        let bias = tensors.get(&format!("{name}.bias")).map(|(_, values)| Array1::from(values.clone()));
        let bias = bias.unwrap_or_else(|| Array1::zeros(weight.nrows()));
        (weight, bias)
    }

    /// The largest difference to what transformers says, padding left out.
    pub(crate) fn distance(&self, outputs: &[Output]) -> f32 {
        assert_eq!(outputs.len(), self.expected.len());
        let differences = self.expected.iter().map(|expected| {
            let given = outputs.iter().find(|output| output.name == expected.name).unwrap();
            assert_eq!(given.values.shape(), expected.values.shape());
            let pairs = given.values.indexed_iter().zip(expected.values.iter());
            let real = pairs.filter(|((at, _), _)| expected.values.ndim() < 3 || self.mask[[at[0], at[1]]] == 1);
            real.map(|((_, a), b)| (a - b).abs()).fold(0.0, f32::max)
        });
        differences.fold(0.0, f32::max)
    }
}

fn is_table(name: &str) -> bool {
    ["embed", ".wte.", ".wpe."].iter().any(|part| name.contains(part))
}

fn layer(tensor: &str, dims: &[usize], inputs_first: bool) -> Layer {
    let (m, n) = if inputs_first { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
    let shape = Shape::new(m, n).unwrap();
    Layer {
        name: tensor.strip_suffix(".weight").unwrap().to_owned(),
        shape,
        dtype: DType::F32,
        role: Role::Linear,
        cost: LayerCost::new(shape, DType::F32, DType::F32),
        wiring: Wiring::default(),
        bias: false,
        key: 0,
    }
}

pub(crate) fn load(folder: &Path) -> Box<dyn Runner> {
    assert!(HfRuntime {}.detect(folder));
    HfRuntime {}.load(folder).unwrap()
}

/// Writes a checkpoint in `f32`.
pub(crate) fn write(folder: &Path, config: &Value, tensors: &Tensors) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    write_shard(&folder.join("model.safetensors"), tensors.iter());
}

pub(crate) fn write_shard<'a>(path: &Path, tensors: impl Iterator<Item = (&'a String, &'a (Vec<usize>, Vec<f32>))>) {
    let encoded: Vec<_> = tensors
        .map(|(name, (dims, values))| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name.clone(), dims.clone(), bytes)
        })
        .collect();
    let views = encoded.iter().map(|(name, dims, bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// States go to a file at once.
pub(crate) fn on_disk(folder: &Path) -> StateSpace {
    StateSpace { bound: 0, folder: folder.to_owned() }
}
