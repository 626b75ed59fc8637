//! Which values of a graph are constant, what they come from, and how they show it.

use std::collections::HashMap;

use super::Model;
use super::names::NameId;
use super::structure::{At, AttributeValue, Graph, GraphId, Node, Structure, TensorId};
use super::views::View;

/// A constant value.
#[derive(Debug, Clone)]
pub(crate) struct Constant {
    /// The tensor that it comes from; the largest, where there are several.
    pub(crate) tensor: TensorId,
    pub(crate) origin: Origin,
    /// The nodes between the tensor and the value.
    pub(crate) via: Vec<At>,
    /// How the value shows the tensor, or why that is not known.
    pub(crate) view: Result<View, String>,
}

/// Where a constant's tensor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Initializer(GraphId),
    Sparse,
    /// In a `Constant`.
    Node(At),
}

/// How many nodes of a chain are followed.
const FOLLOWED: usize = 8;

/// The constants that a graph sees: its own, and those around it.
#[derive(Debug, Default)]
pub(crate) struct Scope<'o> {
    own: HashMap<NameId, Constant>,
    outer: Option<&'o Scope<'o>>,
}

impl<'o> Scope<'o> {
    /// The scope of a graph, before its first node.
    pub(crate) fn new(structure: &Structure, id: GraphId, outer: Option<&'o Self>) -> Self {
        let graph: &Graph = structure.graph(id);
        let mut own = HashMap::new();
        for (ids, origin) in [(&graph.initializers, Origin::Initializer(id)), (&graph.sparse, Origin::Sparse)] {
            own.extend(ids.iter().map(|&tensor| {
                let view = Ok(View::of(structure.tensor(tensor)));
                (structure.tensor(tensor).name, Constant { tensor, origin, via: Vec::new(), view })
            }));
        }
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
    pub(crate) fn learn(&mut self, model: &Model, at: At, node: &Node) {
        let constant = if node.inputs.is_empty() { made(model, at, node) } else { self.derived(model, at, node) };
        if let Some(constant) = constant {
            let outputs = node.outputs.iter().filter(|&&output| output != NameId::NONE);
            self.own.extend(outputs.map(|&output| (output, constant.clone())));
        }
    }

    fn derived(&self, model: &Model, at: At, node: &Node) -> Option<Constant> {
        if !node.graphs.is_empty() || !self.all_constant(node) {
            return None;
        }
        let elements = |constant: &Constant| model.structure.tensor(constant.tensor).elements;
        // Of tensors of one size the first is the weight.
        let inputs = node.inputs.iter().rev().filter_map(|&input| self.get(input).map(|constant| (input, constant)));
        let (name, largest) = inputs.max_by_key(|(_, constant)| elements(constant))?;
        let mut constant = largest.clone();
        if constant.via.len() == FOLLOWED {
            constant.view = Err(format!("the weight comes through more than {FOLLOWED} nodes: fold them"));
            return Some(constant);
        }
        constant.via.push(at);
        let computed = || {
            let operator = model.structure.text(node.operator);
            format!("the weight comes through {operator}, which computes it: fold it into the weight")
        };
        let first = node.inputs.first() == Some(&name) && node.outputs.len() == 1;
        constant.view = match constant.view {
            Ok(view) if first => view.behind(model, self, node),
            Ok(_) => Err(computed()),
            refused => refused,
        };
        Some(constant)
    }
}

fn made(model: &Model, at: At, node: &Node) -> Option<Constant> {
    let structure = &model.structure;
    let is_constant = structure.is_standard(node.domain) && structure.text(node.operator) == "Constant";
    let tensor = node.attributes.iter().find_map(|attribute| match attribute.value {
        AttributeValue::Tensor(tensor) => Some(tensor),
        _ => None,
    })?;
    let view = Ok(View::of(structure.tensor(tensor)));
    is_constant.then(|| Constant { tensor, origin: Origin::Node(at), via: Vec::new(), view })
}
