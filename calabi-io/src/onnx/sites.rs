//! Where a layer is: a tensor, the nodes that lead from it to its readers, and these.

use std::collections::{BTreeSet, HashSet};

use calabi_api::{DType, Shape};

use super::constants::{Constant, Origin};
use super::element::ElementType;
use super::names::NameId;
use super::reads::{Kind, Read};
use super::scales::Scales;
use super::structure::{At, Structure, TensorId};
use super::uses::Uses;

/// Where a layer is.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) tensor: TensorId,
    pub(crate) origin: Origin,
    /// Rows and columns of the tensor.
    pub(crate) stored: [usize; 2],
    /// The layer's: outputs by inputs.
    pub(crate) shape: Shape,
    /// Whether the tensor holds the weight with rows and columns exchanged.
    pub(crate) transposed: bool,
    /// The type of its factors.
    pub(crate) element: ElementType,
    /// How its numbers are made of integers.
    pub(crate) scales: Option<Scales>,
    /// The nodes between the tensor and its readers, which nothing needs once it is factorized.
    pub(crate) between: BTreeSet<At>,
    /// The nodes that read it, in their order, at least one.
    pub(crate) reads: Vec<Read>,
}

impl Site {
    /// The reader that the layer is told by: the first that is no embedding, where there is one.
    pub(crate) fn primary(&self) -> &Read {
        primary(&self.reads)
    }

    /// What the tensor is called where it is read.
    pub(crate) fn name(&self, structure: &Structure) -> NameId {
        match self.origin {
            Origin::Node(at) => structure.node(at).outputs.first().copied().unwrap_or(NameId::NONE),
            Origin::Initializer(_) | Origin::Sparse => structure.tensor(self.tensor).name,
        }
    }

    /// Whether it is one plain product or convolution of the main graph, with a matrix or kernel.
    pub(crate) fn is_alone(&self, structure: &Structure) -> bool {
        let [read] = self.reads.as_slice() else { return false };
        read.at.graph == structure.main && read.is_plain(structure)
    }

    /// Whether a new tensor beside its factors can be a bias: of the type that is read, and no input of the model.
    pub(crate) fn takes_bias(&self, structure: &Structure) -> bool {
        self.is_alone(structure) && self.primary().element == self.element && !structure.lists_initializers()
    }
}

fn primary(reads: &[Read]) -> &Read {
    reads.iter().find(|read| read.kind != Kind::Gather).unwrap_or(&reads[0])
}

/// The site of a tensor with these readers, at least one, and how it is stored; or why it cannot be factorized.
pub(crate) fn gather(
    structure: &Structure,
    uses: &Uses,
    group: &[(&Constant, Result<&Read, &String>)],
) -> Result<(Site, DType), String> {
    let mut reads = Vec::new();
    let mut between = BTreeSet::new();
    for (constant, read) in group {
        reads.push((*read).cloned().map_err(String::clone)?);
        between.extend(constant.via.iter().copied());
    }
    let Some((Constant { tensor, origin, .. }, _)) = group.first() else { return Err("nothing reads it".to_owned()) };
    if *origin == Origin::Sparse {
        return Err("a sparse initializer: not handled".to_owned());
    }
    let matrix = reads[0].matrix;
    if reads.iter().any(|read| (read.matrix.rows, read.matrix.cols) != (matrix.rows, matrix.cols)) {
        return Err("its readers take it for matrices of several shapes".to_owned());
    }
    let size = |dim: u64| usize::try_from(dim).map_err(|_| "larger than memory can be".to_owned());
    let stored = [size(matrix.rows)?, size(matrix.cols)?];
    let first = primary(&reads);
    if reads.iter().any(|read| read.scales != first.scales) {
        return Err("its readers scale its integers differently".to_owned());
    }
    // Factors of integers are of the type that is read, others of the type that is stored.
    let stored_as = structure.tensor(*tensor).element;
    let element = if stored_as.is_quantised() { first.element } else { stored_as };
    let dtype = element.dtype().ok_or_else(|| format!("stored as {element}: only floating point"))?;
    let transposed = first.outputs_first() == first.matrix.flipped;
    let shape = if transposed { Shape::new(stored[1], stored[0]) } else { Shape::new(stored[0], stored[1]) };
    let shape = shape.ok_or("an empty matrix")?;
    let scales = first.scales.clone();
    let site = Site { tensor: *tensor, origin: *origin, stored, shape, transposed, element, scales, between, reads };
    nothing_else_reads(structure, uses, &site)?;
    site.stores()?;
    Ok((site, dtype))
}

/// Whether nothing refers to a weight, or to what is made from it, but the nodes that a site knows.
fn nothing_else_reads(structure: &Structure, uses: &Uses, site: &Site) -> Result<(), String> {
    let graph = site.reads[0].at.graph;
    let outputs = site.between.iter().flat_map(|&at| structure.node(at).outputs.iter().copied());
    let names: HashSet<NameId> = outputs.chain([site.name(structure)]).collect();
    let nodes: HashSet<At> = site.reads.iter().map(|read| read.at).chain(site.between.iter().copied()).collect();
    let inputs = nodes.iter().flat_map(|&at| structure.node(at).inputs.iter());
    let known = inputs.filter(|input| names.contains(input)).count();
    let uses: Vec<_> = names.iter().map(|&name| uses.get(graph, name)).collect();
    let all: usize = uses.iter().map(|uses| uses.readers).sum();
    Err(if uses.iter().any(|uses| uses.output) {
        "the weight is an output of a graph as well".to_owned()
    } else if uses.iter().any(|uses| uses.input) && !structure.lists_initializers() {
        "the weight is an input of the model as well, so a caller may replace it: take it from the inputs".to_owned()
    } else if uses.iter().any(|uses| uses.annotated) {
        "the weight has a quantisation annotation: not handled".to_owned()
    } else if uses.iter().any(|uses| uses.trained) {
        "training information refers to the weight".to_owned()
    } else if all != known {
        format!("the weight has {} more readers, which take no factors", all.saturating_sub(known))
    } else {
        return Ok(());
    })
}
