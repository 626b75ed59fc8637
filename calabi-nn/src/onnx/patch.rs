//! A model in whose graph other weights take the place of some layers': made in memory, node by node.
//!
//! The definition of a replaced weight (an initializer, a Constant, or the node that turns or converts one) is left
//! out, and an initializer of the same name takes its place: nothing that reads it changes. A bias is added by a node
//! of its own, which gives the value that the layer's node gave.

use calabi_api::{Factors, Layer};
use ndarray::{Array1, Array2};

use super::outline::{Node, Outline, Place};
use crate::text::shown;
use crate::wire;

/// ONNX's number of the type of 32-bit floating point.
const FLOAT: u64 = 1;

/// What takes the place of a layer's weight.
#[derive(Debug, Clone)]
pub(crate) struct Substitute {
    place: Place,
    /// The value that the layer gives.
    output: String,
    /// As the node reads it.
    weight: Array2<f32>,
    bias: Option<Array1<f32>>,
}

impl Substitute {
    /// These factors in the place of a layer's weight; `node` is the layer's.
    pub(crate) fn new(
        outline: &Outline,
        layer: &Layer,
        place: Place,
        output: &str,
        factors: &Factors,
    ) -> Result<Self, String> {
        let (m, n) = (layer.shape.rows(), layer.shape.cols());
        let rank = factors.right.nrows();
        let fits = factors.left.dim() == (m, rank) && factors.right.dim() == (rank, n);
        if !fits || factors.bias.as_ref().is_some_and(|bias| bias.len() != m) {
            let (left, right) = (factors.left.dim(), factors.right.dim());
            return Err(format!("factors of {left:?} and {right:?} do not fit a weight of {m} x {n}"));
        }
        if outline.readers(&place.weight) != 1 {
            return Err(format!("its weight {} is read by other nodes as well", shown(&place.weight)));
        }
        definition(outline, &place.weight)?;
        let weight = factors.left.dot(&factors.right);
        let weight = if place.turned { weight.t().as_standard_layout().into_owned() } else { weight };
        Ok(Self { place, output: output.to_owned(), weight, bias: factors.bias.clone() })
    }

    fn initializer(&self) -> Vec<u8> {
        let (rows, cols) = self.weight.dim();
        let places: usize = self.place.kernel.iter().product();
        let dims: Vec<usize> = [rows, cols / places.max(1)].into_iter().chain(self.place.kernel.clone()).collect();
        tensor(&self.place.weight, &dims, self.weight.iter().copied())
    }
}

/// The field that defines a weight.
fn definition(outline: &Outline, weight: &str) -> Result<std::ops::Range<usize>, String> {
    if let Some(initializer) = outline.initializers.iter().find(|initializer| initializer.name == weight) {
        return Ok(initializer.field.clone());
    }
    match outline.giver(weight) {
        Some(node) if node.outputs.len() == 1 => Ok(node.field.clone()),
        _ => Err(format!("its weight {} is not defined in the main graph", shown(weight))),
    }
}

/// The model of these bytes with substitutes in it.
pub(crate) fn apply<'a>(model: &[u8], substitutes: impl Iterator<Item = &'a Substitute>) -> Result<Vec<u8>, String> {
    let outline = Outline::parse(model)?;
    let mut changes: Vec<(std::ops::Range<usize>, Vec<u8>)> = Vec::new();
    for (index, substitute) in substitutes.enumerate() {
        let mut new = Vec::new();
        wire::put(&mut new, 5, &substitute.initializer());
        changes.push((definition(&outline, &substitute.place.weight)?, new));
        if let Some(bias) = &substitute.bias {
            let node = outline.giver(&substitute.output).ok_or("a layer's node is gone")?;
            changes.push((node.field.clone(), with_bias(model, node, substitute, bias, &fresh(&outline, index))?));
        }
    }
    changes.sort_by_key(|(field, _)| field.start);
    spliced(model, &outline, &changes)
}

/// The model with the inputs of all products and convolutions as further outputs, and how many it had.
#[cfg(feature = "onnxruntime")]
pub(crate) fn watched(model: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let outline = Outline::parse(model)?;
    let mut known = std::collections::BTreeSet::new();
    for field in wire::fields(model, outline.content.clone()) {
        let field = field?;
        if field.number == 12 {
            let content = field.content.clone().ok_or("an output is no message")?;
            let name = wire::fields(model, content).find(|part| part.as_ref().map_or(true, |part| part.number == 1));
            known.insert(name.transpose()?.map(|name| wire::text(model, &name)).transpose()?.unwrap_or_default());
        }
    }
    let (outputs, mut added) = (known.len(), Vec::new());
    for node in outline.nodes.iter().filter(|node| matches!(node.op.as_str(), "MatMul" | "Gemm" | "Conv")) {
        for input in node.inputs.iter().take(2).filter(|input| outline.giver(input).is_some()) {
            if known.insert(input.clone()) {
                let mut value = Vec::new();
                wire::put(&mut value, 1, input.as_bytes());
                wire::put(&mut added, 12, &value);
            }
        }
    }
    let end = outline.content.end;
    Ok((spliced(model, &outline, &[(end..end, added)])?, outputs))
}

/// The model with some fields of its graph replaced.
fn spliced(model: &[u8], outline: &Outline, changes: &[(std::ops::Range<usize>, Vec<u8>)]) -> Result<Vec<u8>, String> {
    const DAMAGED: &str = "its parts overlap";
    let added: usize = changes.iter().map(|(_, new)| new.len()).sum();
    let removed: usize = changes.iter().map(|(field, _)| field.len()).sum();
    let length = (outline.content.len() + added).checked_sub(removed).ok_or(DAMAGED)?;
    let mut patched = Vec::with_capacity(model.len() + added + 16);
    patched.extend_from_slice(model.get(..outline.field.start).ok_or(DAMAGED)?);
    wire::put_head(&mut patched, 7, length);
    let mut at = outline.content.start;
    for (field, new) in changes {
        patched.extend_from_slice(model.get(at..field.start).ok_or(DAMAGED)?);
        patched.extend_from_slice(new);
        at = field.end;
    }
    patched.extend_from_slice(model.get(at..outline.content.end).ok_or(DAMAGED)?);
    patched.extend_from_slice(model.get(outline.field.end..).ok_or(DAMAGED)?);
    Ok(patched)
}

/// The node with its output renamed, and behind it an Add that gives the output with the bias.
fn with_bias(
    model: &[u8],
    node: &Node,
    substitute: &Substitute,
    bias: &Array1<f32>,
    fresh: &str,
) -> Result<Vec<u8>, String> {
    let (plain, constant) = (format!("{fresh}_output"), format!("{fresh}_bias"));
    let mut renamed = Vec::with_capacity(node.content.len() + plain.len());
    for part in wire::fields(model, node.content.clone()) {
        let part = part?;
        if part.number == 2 && wire::text(model, &part)? == substitute.output {
            wire::put(&mut renamed, 2, plain.as_bytes());
        } else {
            renamed.extend_from_slice(model.get(part.whole).ok_or("a node is damaged")?);
        }
    }
    let mut add = Vec::new();
    for input in [&plain, &constant] {
        wire::put(&mut add, 1, input.as_bytes());
    }
    wire::put(&mut add, 2, substitute.output.as_bytes());
    wire::put(&mut add, 4, b"Add");
    // Outputs lie along the last axis, before it, or before those of a kernel.
    let behind = usize::from(substitute.place.left) + substitute.place.kernel.len();
    let column: Vec<usize> = std::iter::once(bias.len()).chain(std::iter::repeat_n(1, behind)).collect();
    let mut fields = Vec::new();
    wire::put(&mut fields, 1, &renamed);
    wire::put(&mut fields, 1, &add);
    wire::put(&mut fields, 5, &tensor(&constant, &column, bias.iter().copied()));
    Ok(fields)
}

/// The beginning of names that the graph does not have.
fn fresh(outline: &Outline, index: usize) -> String {
    let taken = |name: &str| {
        let values = outline.nodes.iter().flat_map(|node| node.inputs.iter().chain(&node.outputs));
        values.chain(outline.initializers.iter().map(|i| &i.name)).any(|value| value.starts_with(name))
    };
    let mut name = format!("calabi_{index}");
    while taken(&name) {
        name.push('_');
    }
    name
}

/// A tensor of 32-bit floating point.
fn tensor(name: &str, dims: &[usize], values: impl Iterator<Item = f32>) -> Vec<u8> {
    let mut tensor = Vec::new();
    for &dim in dims {
        wire::put_number(&mut tensor, 1, dim as u64);
    }
    wire::put_number(&mut tensor, 2, FLOAT);
    wire::put(&mut tensor, 8, name.as_bytes());
    let raw: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    wire::put(&mut tensor, 9, &raw);
    tensor
}
