//! How a node reads a weight: as which matrix, and in which of its two places.

use super::constants::Constant;
use super::einsum::Einsum;
use super::element::ElementType;
use super::operators::Operator;
use super::scales::Scales;
use super::separable::Separable;
use super::structure::{At, Node, Structure};
use super::views::{Matrix, View};

/// The first version of the standard in which Gemm does without `C`.
const GEMM_WITHOUT_BIAS: i64 = 11;

/// A node that reads a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) at: At,
    /// The input that is the weight.
    pub(crate) slot: usize,
    pub(crate) kind: Kind,
    /// The tensor as this node's matrix.
    pub(crate) matrix: Matrix,
    /// The dimensions of the value that it reads.
    pub(crate) dims: Vec<u64>,
    /// The type that it reads.
    pub(crate) element: ElementType,
    /// How its numbers are made of integers.
    pub(crate) scales: Option<Scales>,
}

/// The operator of a node that reads a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    MatMul,
    /// A Gemm, or a product of onnxruntime's that transposes like one.
    Gemm {
        /// Whether the node transposes its weight.
        weight: bool,
        /// Whether the node transposes its data.
        data: bool,
        /// Whether it may stand without `C`.
        optional_bias: bool,
    },
    Conv,
    /// A convolution over two axes that costs less as one along each.
    SeparableConv(Box<Separable>),
    ConvTranspose,
    Gather,
    Einsum(Einsum),
}

impl Read {
    /// Whether the rows of the matrix that the node reads are its outputs.
    pub(crate) fn outputs_first(&self) -> bool {
        match &self.kind {
            Kind::MatMul => self.slot == 0,
            Kind::Gemm { weight, .. } => (self.slot == 0) != *weight,
            Kind::Conv | Kind::SeparableConv(_) => true,
            Kind::ConvTranspose | Kind::Gather => false,
            Kind::Einsum(einsum) => einsum.outputs_first,
        }
    }

    /// Whether the features of the data lie along its last axis.
    pub(crate) fn features_last(&self) -> bool {
        match self.kind {
            Kind::MatMul => self.slot == 1,
            Kind::Gemm { data, .. } => (self.slot == 1) != data,
            _ => false,
        }
    }

    /// Whether it is an operator of the standard's own, with one matrix or kernel.
    pub(crate) fn is_plain(&self, structure: &Structure) -> bool {
        let one = match self.kind {
            Kind::MatMul | Kind::Gemm { .. } => self.dims.len() == 2,
            Kind::Conv => true,
            _ => false,
        };
        one && structure.is_standard(structure.node(self.at).domain)
    }
}

/// How a node reads a constant at one of its inputs, or why that is not handled.
pub(crate) fn read(
    structure: &Structure,
    at: At,
    slot: usize,
    operator: Operator,
    constant: &Constant,
) -> Result<Read, String> {
    if let Operator::Other(why) = operator {
        return Err(why.to_owned());
    }
    let node = structure.node(at);
    if node.devices {
        return Err("its node says how it is spread over devices: not handled".to_owned());
    }
    if node.outputs.first().is_none_or(|&output| structure.text(output).is_empty()) {
        return Err("its node has no output".to_owned());
    }
    let view = constant.view.clone()?;
    let rank = view.dims.len();
    let (kind, rows) = match operator {
        Operator::MatMul => (Kind::MatMul, rank.saturating_sub(1)),
        Operator::Gemm => (gemm(structure, node, slot)?, matrix_only(rank)?),
        Operator::FusedMatMul => (fused(structure, node, slot)?, matrix_only(rank)?),
        Operator::Conv => {
            whole(structure, node, rank)?;
            if let Some(read) = separable(structure, at, slot, &view) {
                return Ok(read);
            }
            (Kind::Conv, 1)
        }
        Operator::ConvTranspose => {
            whole(structure, node, rank)?;
            (Kind::ConvTranspose, 1)
        }
        Operator::Gather => (gather(structure, node)?, matrix_only(rank)?),
        Operator::Einsum => (Kind::Einsum(Einsum::of(structure, node, slot, rank)?), 1),
        Operator::Other(why) => return Err(why.to_owned()),
    };
    Ok(Read { at, slot, kind, matrix: view.matrix(rows)?, dims: view.dims, element: view.element, scales: view.scales })
}

fn matrix_only(rank: usize) -> Result<usize, String> {
    if rank == 2 { Ok(1) } else { Err(format!("a weight of {rank} dimensions, where its node takes a matrix")) }
}

fn gemm(structure: &Structure, node: &Node, slot: usize) -> Result<Kind, String> {
    let (weight, data) = transposed(structure, node, slot)?;
    let optional_bias = structure.opset() >= GEMM_WITHOUT_BIAS;
    if data && !optional_bias {
        return Err(format!("its data is transposed before opset {GEMM_WITHOUT_BIAS}: not handled"));
    }
    Ok(Kind::Gemm { weight, data, optional_bias })
}

fn fused(structure: &Structure, node: &Node, slot: usize) -> Result<Kind, String> {
    if flag(structure, node, "transBatchA")? || flag(structure, node, "transBatchB")? {
        return Err("a fused product that transposes batches: export the model without fusion".to_owned());
    }
    let (weight, data) = transposed(structure, node, slot)?;
    Ok(Kind::Gemm { weight, data, optional_bias: true })
}

/// Whether a node transposes its weight, and whether its data.
fn transposed(structure: &Structure, node: &Node, slot: usize) -> Result<(bool, bool), String> {
    let [a, b] = [flag(structure, node, "transA")?, flag(structure, node, "transB")?];
    Ok(if slot == 0 { (a, b) } else { (b, a) })
}

fn flag(structure: &Structure, node: &Node, name: &str) -> Result<bool, String> {
    if structure.attribute(node, name).next().is_none() {
        return Ok(false);
    }
    let number = structure.integer(node, name).map(|value| value != 0);
    number.ok_or_else(|| format!("its attribute {name} is not a number"))
}

/// A convolution that costs less along one axis after the other, of a weight as it is stored.
fn separable(structure: &Structure, at: At, slot: usize, view: &View) -> Option<Read> {
    let axes = Separable::cheaper(structure, structure.node(at), &view.dims)?;
    let (rows, cols) = axes.matrix();
    let matrix = view.matrix(1).ok().filter(|matrix| !matrix.flipped).map(|_| Matrix { rows, cols, flipped: false })?;
    let (dims, element, scales) = (view.dims.clone(), view.element, view.scales.clone());
    Some(Read { at, slot, kind: Kind::SeparableConv(Box::new(axes)), matrix, dims, element, scales })
}

/// Whether a convolution is in one group.
fn whole(structure: &Structure, node: &Node, rank: usize) -> Result<(), String> {
    if rank < 3 {
        return Err(format!("a convolution whose weight has {rank} dimensions"));
    }
    match structure.integer(node, "group").unwrap_or(1) {
        1 => Ok(()),
        groups => Err(format!("a convolution in {groups} groups: its parts are small already")),
    }
}

fn gather(structure: &Structure, node: &Node) -> Result<Kind, String> {
    match structure.integer(node, "axis").unwrap_or(0) {
        0 => Ok(Kind::Gather),
        axis => Err(format!("it gathers along axis {axis}, not rows")),
    }
}
