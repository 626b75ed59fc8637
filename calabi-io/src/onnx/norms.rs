//! Which normalisation's output flows into a layer: a node of its own, or a product with a scale for each feature.

use std::collections::HashMap;

use super::names::NameId;
use super::structure::{AttributeValue, Graph, Node, Structure, TensorId};

/// Operators whose second input is `γ`, and third `β`: the standard's, and onnxruntime's of the standard's domain.
const NORMALISATIONS: [&str; 3] = ["LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"];

/// The tensors of a normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Norm {
    pub(crate) gamma: TensorId,
    pub(crate) beta: Option<TensorId>,
}

/// The normalisation whose output is the value `input` with so many features along its last axis.
pub(crate) fn before(structure: &Structure, graph: &Graph, input: NameId, features: usize) -> Option<Norm> {
    let view = View::new(structure, graph, features as u64);
    let node = view.maker(input)?;
    if NORMALISATIONS.iter().any(|operator| view.is(node, operator)) {
        let gamma = view.vector(*node.inputs.get(1)?)?;
        let beta = node.inputs.get(2).copied().filter(|&name| name != NameId::NONE);
        return match beta {
            None => Some(Norm { gamma, beta: None }),
            Some(name) => view.vector(name).map(|beta| Norm { gamma, beta: Some(beta) }),
        };
    }
    if view.is(node, "Add") {
        let (beta, scaled) = view.constant_and_other(node)?;
        let (gamma, _) = view.constant_and_other(view.maker(scaled).filter(|node| view.is(node, "Mul"))?)?;
        return Some(Norm { gamma, beta: Some(beta) });
    }
    let (gamma, _) = view.constant_and_other(Some(node).filter(|node| view.is(node, "Mul"))?)?;
    Some(Norm { gamma, beta: None })
}

/// A graph seen from its values.
struct View<'m> {
    structure: &'m Structure,
    features: u64,
    /// The node whose first output each value is.
    makers: HashMap<NameId, &'m Node>,
    constants: HashMap<NameId, TensorId>,
}

impl<'m> View<'m> {
    fn new(structure: &'m Structure, graph: &'m Graph, features: u64) -> Self {
        let makers = graph.nodes.iter().filter_map(|node| Some((*node.outputs.first()?, node)));
        let makers: HashMap<_, _> = makers.filter(|&(name, _)| name != NameId::NONE).collect();
        let mut view = Self { structure, features, makers, constants: HashMap::new() };
        view.constants.extend(graph.initializers.iter().map(|&id| (structure.tensor(id).name, id)));
        let made: Vec<_> = view.makers.iter().filter_map(|(&name, node)| Some((name, view.made(node)?))).collect();
        view.constants.extend(made);
        view
    }

    fn maker(&self, value: NameId) -> Option<&'m Node> {
        self.makers.get(&value).copied()
    }

    fn is(&self, node: &Node, operator: &str) -> bool {
        self.structure.is_standard(node.domain)
            && self.structure.text(node.operator) == operator
            && !self.structure.calls_function(node)
    }

    /// The tensor in a `Constant`.
    fn made(&self, node: &Node) -> Option<TensorId> {
        node.attributes.iter().filter(|_| self.is(node, "Constant")).find_map(|attribute| match attribute.value {
            AttributeValue::Tensor(tensor) => Some(tensor),
            _ => None,
        })
    }

    /// A constant with a floating-point number for each feature.
    fn vector(&self, name: NameId) -> Option<TensorId> {
        let &id = self.constants.get(&name)?;
        let tensor = self.structure.tensor(id);
        let fits = tensor.dims.last() == Some(&self.features) && tensor.elements == self.features;
        (fits && tensor.sparse.is_none() && tensor.element.dtype().is_some()).then_some(id)
    }

    /// The constant for each feature and the other input of a node with two.
    fn constant_and_other(&self, node: &Node) -> Option<(TensorId, NameId)> {
        let [a, b] = *node.inputs else { return None };
        let pair = |constant, other| {
            let changing = !self.constants.contains_key(&other);
            self.vector(constant).filter(|_| changing).map(|id| (id, other))
        };
        pair(a, b).or_else(|| pair(b, a))
    }
}
