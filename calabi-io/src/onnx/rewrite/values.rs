//! Types of the values between the two nodes of a factorized layer.

use std::collections::HashSet;

use calabi_api::{FormatError, Rank};
use prost::Message;

use super::Rewrite;
use crate::onnx::fields::graph;
use crate::onnx::layers::Site;
use crate::onnx::names::NameId;
use crate::onnx::schema::{Dimension, Value};
use crate::onnx::splice::{Piece, message};

/// A `ValueInfoProto` that is longer than this says more than the type of a tensor.
const LONG: u64 = 64 << 10;

impl Rewrite<'_> {
    /// Gives the inner value the output's type and shape, with the rank in the place of the outputs.
    pub(super) fn inner_value(
        &mut self,
        output: NameId,
        site: Site,
        rank: Rank,
        inner: &str,
    ) -> Result<(), FormatError> {
        let Some(mut value) = self.typed(output)? else { return Ok(()) };
        let Some(shape) = value.kind.as_mut().and_then(|kind| kind.tensor.as_mut()?.shape.as_mut()) else {
            return Ok(());
        };
        // `W · x` has its outputs in the last but one dimension, unless `x` is a vector.
        let from_end = if site.slot == 0 && shape.dims.len() > 1 { 2 } else { 1 };
        let Some(dim) = shape.dims.len().checked_sub(from_end).and_then(|index| shape.dims.get_mut(index)) else {
            return Ok(());
        };
        *dim = Dimension { value: i64::try_from(rank.get()).ok(), parameter: None };
        inner.clone_into(&mut value.name);
        self.add_value(&value);
        Ok(())
    }

    /// Says of what type a new value is.
    pub(super) fn add_value(&mut self, value: &Value) {
        let bytes = message(graph::VALUE, &value.encode_to_vec());
        let frame = self.main.frame;
        let end = self.model.structure.frame(frame).body.end;
        self.splice.insert(Some(frame), end, vec![Piece::Bytes(bytes)]);
    }

    /// Drops what the model says of the types of weights that are gone.
    pub(super) fn drop_values_of_removed(&mut self) {
        let structure = &self.model.structure;
        let gone: HashSet<_> = self.removed.iter().map(|&id| structure.tensor(id).name).collect();
        for value in self.main.values.iter().filter(|value| gone.contains(&value.name)) {
            self.splice.replace(Some(self.main.frame), structure.frame(value.frame).span(), Vec::new());
        }
    }

    /// What the model says of a value, where it is a tensor of known type.
    pub(super) fn typed(&self, name: NameId) -> Result<Option<Value>, FormatError> {
        let Some(&frame) = self.types.get(&name) else { return Ok(None) };
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
