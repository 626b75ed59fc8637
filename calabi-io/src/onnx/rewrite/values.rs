//! Types of the values between the two nodes of a factorized layer.

use std::collections::HashSet;

use calabi_api::{FormatError, Rank};
use prost::Message;

use super::Rewrite;
use crate::onnx::fields::{function, graph};
use crate::onnx::names::NameId;
use crate::onnx::reads::{Kind, Read};
use crate::onnx::schema::{Dimension, Value};
use crate::onnx::splice::{Piece, message};
use crate::onnx::structure::{GraphId, Place};

/// A `ValueInfoProto` that is longer than this says more than the type of a tensor.
const LONG: u64 = 64 << 10;

impl Rewrite<'_> {
    /// Gives the inner value the type and shape of the output, or of the data, with the rank in the place of the
    /// features.
    pub(super) fn inner_value(&mut self, read: &Read, rank: Rank, inner: &str) -> Result<(), FormatError> {
        let node = self.model.structure.node(read.at);
        let data = node.inputs.get(1 - read.slot).copied();
        // A batch of matrices before the data gives the output dimensions that the inner value does not have.
        let batched = read.slot == 0 && read.dims.len() > 2;
        let like_data = batched || matches!(read.kind, Kind::ConvTranspose | Kind::Einsum(_));
        let like = if like_data { data } else { node.outputs.first().copied() };
        let Some(mut value) = self.typed(read.at.graph, like.unwrap_or(NameId::NONE))? else { return Ok(()) };
        let Some(shape) = value.kind.as_mut().and_then(|kind| kind.tensor.as_mut()?.shape.as_mut()) else {
            return Ok(());
        };
        let from_end = |back: usize| shape.dims.len().checked_sub(back);
        let axis = match &read.kind {
            // `W · x` has its outputs in the last but one dimension, unless `x` is a vector.
            Kind::MatMul | Kind::Gemm { .. } if read.slot == 0 && shape.dims.len() > 1 => from_end(2),
            Kind::MatMul | Kind::Gemm { .. } | Kind::Gather => from_end(1),
            Kind::Conv | Kind::SeparableConv(_) | Kind::ConvTranspose => Some(1),
            Kind::Einsum(einsum) => einsum.axis(),
        };
        let Some(dim) = axis.and_then(|axis| shape.dims.get_mut(axis)) else { return Ok(()) };
        *dim = Dimension { value: i64::try_from(rank.get()).ok(), parameter: None };
        if let Kind::SeparableConv(_) = read.kind {
            // The first of the two goes along the last axis.
            let rows = self.typed(read.at.graph, data.unwrap_or(NameId::NONE))?.and_then(|data| {
                let shape = data.kind?.tensor?.shape?;
                shape.dims.into_iter().nth(2)
            });
            if let Some(dim) =
                value.kind.as_mut().and_then(|kind| kind.tensor.as_mut()?.shape.as_mut()?.dims.get_mut(2))
            {
                *dim = rows.unwrap_or_default();
            }
        }
        inner.clone_into(&mut value.name);
        self.add_value(read.at.graph, &value);
        Ok(())
    }

    /// Says of what type a new value is.
    pub(super) fn add_value(&mut self, id: GraphId, value: &Value) {
        let structure = &self.model.structure;
        let graph = structure.graph(id);
        let number = if matches!(graph.place, Place::Function(_)) { function::VALUE } else { graph::VALUE };
        let bytes = message(number, &value.encode_to_vec());
        self.splice.insert(Some(graph.frame), structure.frame(graph.frame).body.end, vec![Piece::Bytes(bytes)]);
    }

    /// Drops what the model says of the types of weights, and of what was made from them, that are gone.
    pub(super) fn drop_values_of_removed(&mut self) {
        let structure = &self.model.structure;
        let outputs = self.gone.iter().flat_map(|&at| structure.node(at).outputs.iter().copied());
        let tensors = self.removed.iter().map(|&id| structure.tensor(id).name);
        let gone: HashSet<_> = tensors.chain(outputs).filter(|&name| name != NameId::NONE).collect();
        for graph in &structure.graphs {
            for value in graph.values.iter().filter(|value| gone.contains(&value.name)) {
                self.splice.replace(Some(graph.frame), structure.frame(value.frame).span(), Vec::new());
            }
        }
    }

    /// What a graph says of a value, where it is a tensor of known type.
    pub(super) fn typed(&self, graph: GraphId, name: NameId) -> Result<Option<Value>, FormatError> {
        let Some(&frame) = self.types.get(&(graph, name)) else { return Ok(None) };
        let span = self.model.structure.frame(frame).body;
        if span.len() > LONG {
            return Ok(None);
        }
        let bytes = self.model.input.bytes(span.start, span.len())?;
        // What does not decode is no type that could be taken over.
        let value = Value::decode(bytes.as_slice()).ok();
        Ok(value.filter(|value| {
            let tensor = value.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
            tensor.is_some_and(|tensor| tensor.element != 0)
        }))
    }
}
