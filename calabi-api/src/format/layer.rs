//! What a model's format says of its layers, and what it is told of those that are replaced.

use std::path::PathBuf;

use ndarray::Array1;
use serde::Serialize;

use super::Window;
use crate::{Cost, DType, LayerCost, Rank, Shape};

/// One weight with its name, shape and role.
///
/// ```
/// use calabi_api::{DType, Layer, LayerCost, Rank, Role, Shape, Wiring};
///
/// let shape = Shape::new(768, 3072).ok_or("empty")?;
/// let layer = Layer {
///     name: "h.0.mlp.c_proj".to_owned(),
///     shape,
///     dtype: DType::F16,
///     role: Role::Linear,
///     cost: LayerCost::new(shape, DType::F16, DType::F16),
///     wiring: Wiring { weight: "h.0.mlp.c_proj.weight".to_owned(), ..Wiring::default() },
///     bias: true,
///     key: 0,
/// };
/// assert!(layer.cost.pays(Rank::new(614).ok_or("zero")?) && layer.shape.break_even() == 615);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The name that patterns match and reports show.
    pub name: String,
    /// `m × n`, outputs by inputs.
    pub shape: Shape,
    /// How the weight is stored; its factors are stored alike.
    pub dtype: DType,
    /// What it does in the model.
    pub role: Role,
    /// What it costs, dense and at every rank.
    pub cost: LayerCost,
    /// How it is wired into the model.
    pub wiring: Wiring,
    /// Whether the model has a bias of this layer that another can be added to: factors with a bias then cost no more.
    pub bias: bool,
    /// Where the source finds it: its own affair.
    pub key: usize,
}

/// How a layer is wired into its model.
///
/// ```
/// use calabi_api::Wiring;
///
/// let wired = |name: &str| Wiring {
///     weight: format!("{name}.weight"),
///     input: Some("/norm/output".to_owned()),
///     output: Some(format!("/{name}/output")),
///     ..Wiring::default()
/// };
/// let (q, k) = (wired("q_proj"), wired("k_proj"));
/// assert_eq!(q.input, k.input); // what flows into both is measured once
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wiring {
    /// The name of its weight in the file.
    pub weight: String,
    /// In a graph, the name of the value that flows into it: `E[xxᵀ]` is taken over its last axis, or over what a
    /// convolution reads of it. None where its features lie along another axis.
    pub input: Option<String>,
    /// What a convolution reads of its input for each output.
    pub window: Option<Window>,
    /// In a graph, the name of the value that its node gives.
    pub output: Option<String>,
    /// Why no runtime can see what flows into the layer, or run it on factors; none where one may.
    pub unseen: Option<String>,
}

/// The normalisation whose output is a layer's input: the input's mean is about `beta`, its scales are about `gamma`.
///
/// ```
/// use calabi_api::Normalisation;
/// use calabi_api::ndarray::array;
///
/// // What a layer behind it reads, estimated without samples: E[x²] = γ² + β² of every feature.
/// let norm = Normalisation { gamma: array![2.0, 0.5], beta: Some(array![1.0, 0.0]) };
/// let mut power = &norm.gamma * &norm.gamma;
/// if let Some(beta) = &norm.beta {
///     power += &(beta * beta);
/// }
/// assert_eq!(power, array![5.0, 0.25]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Normalisation {
    /// `γ`, a scale for every feature.
    pub gamma: Array1<f32>,
    /// `β`, a shift for every feature; none where the normalisation has none.
    pub beta: Option<Array1<f32>>,
}

/// What a layer does in the model.
///
/// ```
/// use calabi_api::Role;
///
/// assert_eq!(serde_json::to_string(&Role::Linear)?, "\"linear\""); // as reports show it
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// `y = W x + b`.
    Linear,
    /// A convolution, its weight as a matrix: outputs by inputs times places of the kernel, or outputs times rows by inputs
    /// times columns of the kernel.
    Convolution,
    /// A row for each token: outputs by tokens. A head that shares the weight is part of it.
    Embedding,
}

/// A matrix that is not a layer, and why.
///
/// ```
/// use calabi_api::LeftAlone;
///
/// let (name, why) = ("wte.weight".to_owned(), "embedding table: looked up by row, not multiplied".to_owned());
/// let table = LeftAlone { name, dims: vec![50257, 768], dtype: "F32".to_owned(), why };
/// let report = serde_json::to_value(&table)?;
/// assert_eq!(report["dims"], serde_json::json!([50257, 768]));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftAlone {
    /// Its name.
    pub name: String,
    /// Its dimensions as stored.
    pub dims: Vec<u64>,
    /// Its type, as the format calls it.
    pub dtype: String,
    /// Why it is left alone.
    pub why: String,
}

/// What a model weighs.
///
/// ```
/// use calabi_api::{Cost, DType, Totals};
///
/// let files = vec!["model.safetensors".into()];
/// let totals = Totals { format: "safetensors", cost: Cost::of(1_000_000, DType::F16), files };
/// let written = Cost::of(750_000, DType::F16);
/// assert_eq!(written.bytes as f64 / totals.cost.bytes as f64, 0.75);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// The kind of the format: "safetensors".
    pub format: &'static str,
    /// All weights, and the size of all files that hold weights.
    pub cost: Cost,
    /// The files that hold weights.
    pub files: Vec<PathBuf>,
}

/// A layer that will be factorized.
///
/// ```
/// # use calabi_api::{DType, Layer, LayerCost, Role, Shape, Wiring};
/// use calabi_api::{Rank, Replacement};
///
/// # let shape = Shape::new(768, 3072).ok_or("empty")?;
/// # let (cost, wiring) = (LayerCost::new(shape, DType::F16, DType::F16), Wiring::default());
/// # let name = "h.0.mlp.c_proj".to_owned();
/// # let layer = Layer { name, shape, dtype: DType::F16, role: Role::Linear, cost, wiring, bias: true, key: 0 };
/// // A layer of 768 outputs and 3072 inputs, stored in 16 bits.
/// let replaced = Replacement { layer: &layer, rank: Rank::new(64).ok_or("zero")?, bias: false };
/// let room = replaced.layer.cost.at(replaced.rank); // what the header sets aside
/// assert_eq!(room.bytes, 2 * 64 * (768 + 3072));
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'a> {
    /// Which one.
    pub layer: &'a Layer,
    /// Its rank.
    pub rank: Rank,
    /// Whether the factors bring a bias, which is added to the layer's own.
    pub bias: bool,
}

/// How a model is written.
///
/// ```
/// use calabi_api::WriteOptions;
///
/// let mut options = WriteOptions::default();
/// assert_eq!(options.shard_size, None); // the shards of the input
/// options.shard_size = Some(5 << 30); // at most 5 GiB each
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// The largest size of a file with weights, in bytes, for formats that are split into shards; none keeps the split of the input.
    pub shard_size: Option<u64>,
    /// Whether factors of weights that are stored as integers are stored so again: 8 bits, with a scale for each row
    /// ([`IntegerRows`](crate::IntegerRows)).
    pub requantise: bool,
}

/// What was written.
///
/// ```
/// use calabi_api::{Cost, DType, Written};
///
/// let paths = vec!["small.onnx.data".into(), "small.onnx".into()];
/// let written = Written { cost: Cost::of(750_000, DType::F16), paths };
/// assert!(written.paths.last().is_some_and(|path| path.ends_with("small.onnx")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// All weights, and the size of all files that hold weights.
    pub cost: Cost,
    /// The files and folders at the top of the output; the one that the output is known by comes last.
    pub paths: Vec<PathBuf>,
}
