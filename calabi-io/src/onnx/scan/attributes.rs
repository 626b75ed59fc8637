//! Scans attributes of nodes: numbers, short texts, and what holds tensors or graphs.

use calabi_api::FormatError;

use super::Scan;
use crate::onnx::fields::attribute;
use crate::onnx::names::NameId;
use crate::onnx::structure::{Attribute, AttributeValue, FrameId, GraphId, Place};
use crate::onnx::wire::Field;

/// The longest text, and the longest list of numbers, that says how a layer works.
const LONG: u64 = 1024;

impl Scan<'_> {
    /// An attribute: one entry, or one for each tensor that it holds.
    pub(super) fn attribute(
        &mut self,
        field: &Field,
        parent: FrameId,
        place: Place,
        graphs: &mut Vec<GraphId>,
    ) -> Result<Vec<Attribute>, FormatError> {
        let frame = self.enter(field, Some(parent))?;
        let (mut name, mut values, mut integers) = (NameId::NONE, Vec::new(), Vec::new());
        let mut rest = self.body(frame);
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                attribute::NAME => name = self.name(&field)?,
                attribute::TEXT => values.extend(self.short_text(&field)?),
                attribute::INTEGERS => self.list(&field, &mut integers)?,
                attribute::FLOAT => values.push(AttributeValue::Float(self.reader.float(&field)?)),
                attribute::INTEGER => values.push(AttributeValue::Integer(self.reader.integer(&field)?)),
                attribute::TENSOR | attribute::TENSORS => {
                    values.push(AttributeValue::Tensor(self.tensor(&field, frame)?));
                }
                attribute::SPARSE | attribute::SPARSES => {
                    values.push(AttributeValue::Tensor(self.sparse_tensor(&field, frame)?));
                }
                attribute::GRAPH | attribute::GRAPHS => graphs.push(self.graph(&field, Some(frame), place)?),
                attribute::TYPE | attribute::TYPES => self.check_type(&field, frame)?,
                _ => {}
            }
        }
        if !integers.is_empty() {
            self.charge::<[i64; 2]>(1 + integers.len())?;
            values.push(AttributeValue::Integers(self.structure.lists.len()));
            self.structure.lists.push(integers.into());
        }
        if values.is_empty() {
            values.push(AttributeValue::Other);
        }
        self.charge::<Attribute>(values.len())?;
        Ok(values.into_iter().map(|value| Attribute { name, value }).collect())
    }

    /// A text that is no longer than those that matter here.
    fn short_text(&mut self, field: &Field) -> Result<Option<AttributeValue>, FormatError> {
        if self.reader.bytes(field)?.len() > LONG {
            return Ok(None);
        }
        // A text of other bytes is one of no operator that is known.
        let Ok(text) = self.reader.text(field) else { return Ok(None) };
        Ok(Some(AttributeValue::Text(self.intern(&text)?)))
    }

    /// Adds the numbers of a field, packed or not.
    fn list(&mut self, field: &Field, numbers: &mut Vec<i64>) -> Result<(), FormatError> {
        let mut packed = self.reader.varints(field)?;
        while packed.start < packed.end {
            let number = self.reader.varint(&mut packed)?.cast_signed();
            if numbers.len() as u64 <= LONG {
                numbers.push(number);
            }
        }
        Ok(())
    }
}
