//! Where a layer's bias is, and how another one is added to it.

use std::collections::HashMap;

use calabi_api::DType;

use super::names::NameId;
use super::reads::{Kind, Read};
use super::sites::Site;
use super::structure::{AttributeValue, Data, GraphId, Node, Structure, Tensor, TensorId};
use super::uses::Uses;

/// The first version of the standard whose operators broadcast as numpy does.
pub(crate) const BROADCASTS: i64 = 7;

/// How another bias is added to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    /// To the values of an initializer that nothing else reads: the third input of a Gemm or a Conv, or that of an `Add` behind a `MatMul`.
    Own(TensorId),
    /// As a third input of the node's own, to the values of one that others read too, where there is one.
    Input(Option<TensorId>),
    /// By an `Add` behind the layer.
    Behind,
}

/// Finds the biases of a graph's layers.
pub(crate) struct Biases<'m> {
    graph: GraphId,
    structure: &'m Structure,
    uses: &'m Uses,
    initializers: HashMap<NameId, TensorId>,
    /// The nodes that read each value, the last where there are several.
    readers: HashMap<NameId, &'m Node>,
}

impl<'m> Biases<'m> {
    pub(crate) fn new(structure: &'m Structure, uses: &'m Uses, id: GraphId) -> Self {
        let graph = structure.graph(id);
        let initializers = graph.initializers.iter().map(|&id| (structure.tensor(id).name, id));
        let reads = graph.nodes.iter().flat_map(|node| node.inputs.iter().map(move |&input| (input, node)));
        Self { graph: id, structure, uses, initializers: initializers.collect(), readers: reads.collect() }
    }

    /// How another bias is added to a layer that is stored as `dtype`; none where it cannot be.
    pub(crate) fn find(&self, site: &Site, dtype: DType) -> Option<Bias> {
        if !site.takes_bias(self.structure) {
            return None;
        }
        let Read { at, slot, kind, .. } = site.primary();
        let node = self.structure.node(*at);
        let wanted = Wanted { outputs: site.shape.rows() as u64, in_rows: *slot == 0, dtype };
        Some(match kind {
            Kind::Gemm { .. } if !self.adds_plainly(node) => Bias::Behind,
            Kind::Gemm { .. } | Kind::Conv => self.third_input(node, wanted).unwrap_or(Bias::Behind),
            _ => self.added(node, wanted).map_or(Bias::Behind, Bias::Own),
        })
    }

    /// By the third input of a node, where that is free or a constant.
    fn third_input(&self, node: &Node, wanted: Wanted) -> Option<Bias> {
        let Some(name) = node.inputs.get(2).copied().filter(|&name| name != NameId::NONE) else {
            return Some(Bias::Input(None));
        };
        let &id = self.initializers.get(&name).filter(|&&id| wanted.fits(self.structure.tensor(id)))?;
        if self.is_own(name) {
            return Some(Bias::Own(id));
        }
        self.is_constant(name).then_some(Bias::Input(Some(id)))
    }

    /// Whether a Gemm's `beta` is 1.
    fn adds_plainly(&self, node: &Node) -> bool {
        let mut beta =
            node.attributes.iter().filter(|attribute| self.structure.text(attribute.name) == "beta").peekable();
        beta.peek().is_none() || beta.any(|beta| beta.value == AttributeValue::Float(1.0))
    }

    /// The constant that an `Add` adds to a `MatMul`'s output, and that is all that either is read for.
    fn added(&self, node: &Node, wanted: Wanted) -> Option<TensorId> {
        let &output = node.outputs.first()?;
        let uses = self.uses.get(self.graph, output);
        // A product that has its outputs in rows has them in its last dimension where it is a vector.
        if wanted.in_rows || uses.readers != 1 || uses.output || self.structure.opset() < BROADCASTS {
            return None;
        }
        let add = self.readers.get(&output).filter(|add| self.is_add(add))?;
        let other = add.inputs.iter().find(|&&input| input != output)?;
        let &id = self.initializers.get(other)?;
        (self.is_own(*other) && wanted.fits(self.structure.tensor(id))).then_some(id)
    }

    fn is_add(&self, node: &Node) -> bool {
        let structure = self.structure;
        structure.is_standard(node.domain)
            && structure.text(node.operator) == "Add"
            && !structure.calls_function(node)
            && !node.devices
    }

    /// Whether one input of a node reads an initializer, and nothing else refers to it.
    fn is_own(&self, name: NameId) -> bool {
        self.uses.get(self.graph, name).readers == 1 && self.is_constant(name)
    }

    /// Whether no caller, and no training, gives an initializer another value.
    fn is_constant(&self, name: NameId) -> bool {
        let uses = self.uses.get(self.graph, name);
        !(uses.output || uses.input || uses.annotated || uses.trained)
    }
}

/// A bias that is looked for.
#[derive(Clone, Copy)]
struct Wanted {
    outputs: u64,
    /// Whether the outputs lie along the last but one dimension.
    in_rows: bool,
    dtype: DType,
}

impl Wanted {
    /// Whether a tensor has one number for each output, all other dimensions being 1.
    fn fits(self, tensor: &Tensor) -> bool {
        let behind = usize::from(self.in_rows);
        let Some(last) = tensor.dims.len().checked_sub(1 + behind) else { return false };
        tensor.element.dtype() == Some(self.dtype)
            && !matches!(tensor.data, Data::None)
            && tensor.dims.get(last) == Some(&self.outputs)
            && tensor.elements == self.outputs
    }
}
