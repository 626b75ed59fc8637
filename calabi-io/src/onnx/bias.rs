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
    /// To the values of an initializer that nothing else reads: the `C` of a Gemm, or that of an `Add` behind a `MatMul`.
    Own(TensorId),
    /// As a `C` of the Gemm's own, to the values of one that others read too, where there is one.
    OfGemm(Option<TensorId>),
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
            Kind::Gemm { .. } => self.of_gemm(node, wanted),
            _ => self.added(node, wanted).map_or(Bias::Behind, Bias::Own),
        })
    }

    fn of_gemm(&self, node: &Node, wanted: Wanted) -> Bias {
        if !self.adds_plainly(node) {
            return Bias::Behind;
        }
        match node.inputs.get(2).copied().filter(|&name| name != NameId::NONE) {
            None => Bias::OfGemm(None),
            Some(name) => match self.initializers.get(&name).filter(|&&id| wanted.fits(self.structure.tensor(id))) {
                Some(&id) if self.is_own(name) => Bias::Own(id),
                Some(&id) if self.is_constant(name) => Bias::OfGemm(Some(id)),
                _ => Bias::Behind,
            },
        }
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
