//! Sorts a model's tensors into layers and matrices that are left alone.

use std::collections::HashMap;

use calabi_api::{DType, Layer, LayerCost, LeftAlone, Role, Shape, Wiring};

use super::config::Config;
use super::header::Entry;
use super::order::natural;
use super::roles;
use super::weights::{TensorAt, Weights};

/// The tensors of a model by what can be done with them.
#[derive(Debug)]
pub(super) struct Sorted {
    /// The layers; a layer's key is its place in this list and in `places`.
    pub(super) layers: Vec<Layer>,
    /// Where each layer's weight is.
    pub(super) places: Vec<Place>,
    pub(super) left_alone: Vec<LeftAlone>,
}

/// Where a layer's weight is, and how it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) at: TensorAt,
    /// Stored inputs by outputs, as `Conv1D` does.
    pub(super) inputs_first: bool,
    /// The layer's bias, where another can be added to it.
    pub(super) bias: Option<TensorAt>,
}

/// What a tensor is.
enum Verdict {
    Layer { shape: Shape, dtype: DType, inputs_first: bool },
    LeftAlone(String),
    NoMatrix,
}

/// Sorts all tensors; layers and matrices in the natural order of their names.
pub(super) fn sort(weights: &Weights, config: &Config) -> Sorted {
    let judge = Judge::new(weights, config);
    let mut tensors: Vec<_> = weights.tensors().collect();
    tensors.sort_by(|(_, a), (_, b)| natural(&a.name, &b.name));
    let mut sorted = Sorted { layers: Vec::new(), places: Vec::new(), left_alone: Vec::new() };
    for (at, tensor) in tensors {
        match judge.verdict(tensor) {
            Verdict::NoMatrix => {}
            Verdict::LeftAlone(why) => sorted.left_alone.push(left_alone(tensor, why)),
            Verdict::Layer { shape, dtype, inputs_first } => {
                let layer = layer(tensor, shape, dtype, sorted.layers.len());
                let bias = judge.bias(&layer);
                sorted.layers.push(Layer { bias: bias.is_some(), ..layer });
                sorted.places.push(Place { at, inputs_first, bias });
            }
        }
    }
    sorted
}

fn left_alone(tensor: &Entry, why: String) -> LeftAlone {
    LeftAlone { name: tensor.name.clone(), dims: tensor.dims.clone(), dtype: tensor.dtype.name.into(), why }
}

fn layer(tensor: &Entry, shape: Shape, dtype: DType, key: usize) -> Layer {
    let name = roles::layer_of(&tensor.name).unwrap_or(&tensor.name).to_owned();
    let wiring = Wiring { weight: tensor.name.clone(), ..Wiring::default() };
    let cost = LayerCost::new(shape, dtype, dtype);
    Layer { name, shape, dtype, role: Role::Linear, cost, wiring, bias: false, key }
}

/// Judges tensors by what else is in the model.
struct Judge<'a> {
    config: &'a Config,
    tensors: HashMap<&'a str, (TensorAt, &'a Entry)>,
    /// Whether the model's `c_attn` and its like are `Conv1D`.
    conv1d: bool,
}

impl<'a> Judge<'a> {
    fn new(weights: &'a Weights, config: &'a Config) -> Self {
        let conv1d = inputs_first(weights, config.model_type.as_deref());
        Self { config, tensors: weights.by_name(), conv1d }
    }

    fn verdict(&self, tensor: &Entry) -> Verdict {
        match tensor.dims[..] {
            [] | [_] => Verdict::NoMatrix,
            [rows, cols] => self.matrix(tensor, rows, cols).unwrap_or_else(Verdict::LeftAlone),
            _ => higher(tensor),
        }
    }

    fn matrix(&self, tensor: &Entry, rows: u64, cols: u64) -> Result<Verdict, String> {
        if self.config.quantized {
            return Err("the model is quantised (config.json): its scales would have to be applied first".into());
        }
        let Some(dtype) = tensor.dtype.float else {
            return Err(format!(
                "quantised or integer type {}: scales would have to be applied first",
                tensor.dtype.name
            ));
        };
        let layer = roles::layer_of(&tensor.name).ok_or("its name does not end in .weight: no linear layer")?;
        self.linear(layer)?;
        let inputs_first = self.conv1d && roles::is_conv1d(layer);
        let (outputs, inputs) = if inputs_first { (cols, rows) } else { (rows, cols) };
        let shape = usize::try_from(outputs).ok().zip(usize::try_from(inputs).ok());
        let shape = shape.and_then(|(m, n)| Shape::new(m, n)).ok_or("it is empty")?;
        Ok(Verdict::Layer { shape, dtype, inputs_first })
    }

    /// Whether the weight of this name is a linear layer's own, dense and unscaled; else the reason.
    fn linear(&self, layer: &str) -> Result<(), String> {
        if roles::is_table(layer) {
            return Err("embedding table: looked up by row, not multiplied".into());
        }
        if roles::is_expert(layer) {
            return Err("expert of a mixture: transformers joins all of them to one tensor".into());
        }
        if self.config.tied && roles::is_head(layer) {
            return Err("tied to the embedding table (tie_word_embeddings in config.json)".into());
        }
        if let Some(scale) = roles::SCALES.iter().find(|scale| self.has(&format!("{layer}{scale}"))) {
            return Err(format!("quantised: {layer}{scale} would have to be applied first"));
        }
        if self.is_factor(layer) {
            return Err("already factorized".into());
        }
        match ["left.weight", "right.weight", "left.bias"].iter().find(|part| self.has(&format!("{layer}.{part}"))) {
            Some(part) => Err(format!("a tensor {layer}.{part} is there already, where its factors would go")),
            None => Ok(()),
        }
    }

    /// Whether a weight is a factor: `x.left` (m × r) beside `x.right` (r × n).
    fn is_factor(&self, layer: &str) -> bool {
        let whole = layer.strip_suffix(".left").or_else(|| layer.strip_suffix(".right"));
        whole.is_some_and(|whole| are_factors(&self.tensors, whole))
    }

    /// The layer's bias: a vector with a floating-point number for each output.
    fn bias(&self, layer: &Layer) -> Option<TensorAt> {
        let &(at, bias) = self.tensors.get(roles::bias_of(&layer.name).as_str())?;
        let fits = bias.dtype.float.is_some() && bias.dims == [layer.shape.rows() as u64];
        fits.then_some(at)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// Whether the model's `c_attn` and its like are `Conv1D`: stored inputs by outputs.
pub(super) fn inputs_first(weights: &Weights, model_type: Option<&str>) -> bool {
    let wide = |tensor: &Entry| {
        roles::layer_of(&tensor.name).is_some_and(|layer| roles::is_wide_attention(layer, &tensor.dims))
    };
    roles::uses_conv1d(model_type).unwrap_or_else(|| weights.tensors().any(|(_, tensor)| wide(tensor)))
}

/// The layers that stand as two factors, in the natural order of their names.
pub(super) fn factorized(weights: &Weights) -> Vec<String> {
    let tensors = weights.by_name();
    let wholes = tensors.keys().filter_map(|name| name.strip_suffix(".left.weight"));
    let mut found: Vec<_> = wholes.filter(|whole| are_factors(&tensors, whole)).map(str::to_owned).collect();
    found.sort_by(|a, b| natural(a, b));
    found
}

/// Whether there are two factors of this layer: left (m × r) and right (r × n).
fn are_factors(tensors: &HashMap<&str, (TensorAt, &Entry)>, whole: &str) -> bool {
    let dims = |name: String| tensors.get(name.as_str()).map(|(_, tensor)| tensor.dims.as_slice());
    let pair = (dims(format!("{whole}.left.weight")), dims(format!("{whole}.right.weight")));
    matches!(pair, (Some(&[_, of_left]), Some(&[of_right, _])) if of_left == of_right)
}

/// A tensor of three dimensions and more.
fn higher(tensor: &Entry) -> Verdict {
    let count = tensor.dims.len();
    if tensor.name.contains("expert") {
        Verdict::LeftAlone(format!("{count}-D experts: many matrices in one tensor"))
    } else if roles::layer_of(&tensor.name).is_some() {
        Verdict::LeftAlone(format!("{count}-D: a convolution's kernel or many matrices in one tensor"))
    } else {
        Verdict::NoMatrix
    }
}
