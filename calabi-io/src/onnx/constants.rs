//! Which values of a graph are constant, and what they come from.

use std::collections::HashMap;

use super::names::NameId;
use super::structure::{AttributeValue, Graph, Node, Structure, TensorId};

/// A constant value.
#[derive(Debug, Clone)]
pub(crate) struct Constant {
    /// The tensor that it comes from; the largest, where there are several.
    pub(crate) tensor: TensorId,
    pub(crate) origin: Origin,
    /// The operators between the tensor and the value, cut when many.
    pub(crate) via: Vec<NameId>,
}

/// Where a constant's tensor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Initializer,
    Sparse,
    Node,
}

/// How many operators of a chain are told.
const TOLD: usize = 4;

/// The constants that a graph sees: its own, and those around it.
#[derive(Debug, Default)]
pub(crate) struct Scope<'o> {
    own: HashMap<NameId, Constant>,
    outer: Option<&'o Scope<'o>>,
}

impl<'o> Scope<'o> {
    /// The scope of a graph, before its first node.
    pub(crate) fn new(structure: &Structure, graph: &Graph, outer: Option<&'o Self>) -> Self {
        let tensors = |ids: &'_ [TensorId], origin| {
            ids.iter()
                .map(move |&tensor| (structure.tensor(tensor).name, Constant { tensor, origin, via: Vec::new() }))
                .collect::<Vec<_>>()
        };
        let mut own = HashMap::new();
        own.extend(tensors(&graph.initializers, Origin::Initializer));
        own.extend(tensors(&graph.sparse, Origin::Sparse));
        Self { own, outer }
    }

    pub(crate) fn get(&self, name: NameId) -> Option<&Constant> {
        self.own.get(&name).or_else(|| self.outer?.get(name))
    }

    /// Whether every input of a node is constant.
    pub(crate) fn all_constant(&self, node: &Node) -> bool {
        let mut inputs = node.inputs.iter().filter(|&&input| input != NameId::NONE).peekable();
        inputs.peek().is_some() && inputs.all(|&input| self.get(input).is_some())
    }

    /// Takes in what a node makes.
    pub(crate) fn learn(&mut self, structure: &Structure, node: &Node) {
        let constant = if node.inputs.is_empty() { made(structure, node) } else { self.derived(structure, node) };
        if let Some(constant) = constant {
            let outputs = node.outputs.iter().filter(|&&output| output != NameId::NONE);
            self.own.extend(outputs.map(|&output| (output, constant.clone())));
        }
    }

    fn derived(&self, structure: &Structure, node: &Node) -> Option<Constant> {
        if !node.graphs.is_empty() || !self.all_constant(node) {
            return None;
        }
        let inputs = node.inputs.iter().filter_map(|&input| self.get(input));
        let mut largest = inputs.max_by_key(|constant| structure.tensor(constant.tensor).elements)?.clone();
        if largest.via.len() < TOLD {
            largest.via.push(node.operator);
        }
        Some(largest)
    }
}

fn made(structure: &Structure, node: &Node) -> Option<Constant> {
    let is_constant = structure.is_standard(node.domain) && structure.text(node.operator) == "Constant";
    let tensor = node.attributes.iter().find_map(|attribute| match attribute.value {
        AttributeValue::Tensor(tensor) => Some(tensor),
        _ => None,
    })?;
    is_constant.then(|| Constant { tensor, origin: Origin::Node, via: Vec::new() })
}
