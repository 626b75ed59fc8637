//! Factors that are stored as integers, as the weight was, each with a scale for each row.

use calabi_api::DType;

use super::sites::Site;
use super::stores::{Dim, Form};
use super::structure::Structure;

/// The first version of the standard whose `DequantizeLinear` has an axis.
const SCALES_BY_AXIS: i64 = 13;
/// The first one whose scales may be of 16 bits.
const SMALL_SCALES: i64 = 19;

impl Site {
    /// Along which axis of each stored factor, `A` before `B`, the rows of the layer's factor lie, so that each can have a
    /// scale; or why they cannot be integers.
    pub(crate) fn integer_axes(&self, structure: &Structure) -> Result<[i64; 2], String> {
        if structure.lists_initializers() {
            return Err("the model lists its weights as inputs".to_owned());
        }
        let least = if self.element.dtype() == Some(DType::F32) { SCALES_BY_AXIS } else { SMALL_SCALES };
        if structure.opset() < least {
            return Err(format!("the model is of an opset before {least}: convert it with onnx.version_converter"));
        }
        let [a, b] = self.stores()?;
        let (right, left) = (Dim::Rank, Dim::Size(self.shape.rows() as u64));
        let [rows_of_a, rows_of_b] = if self.transposed { [right, left] } else { [left, right] };
        let none = || "its kernel keeps their rows from lying along one axis".to_owned();
        let axis = |form: &Form, rows: Dim| self.row_axis(form, rows).ok_or_else(none);
        Ok([axis(&a, rows_of_a)?, axis(&b, rows_of_b)?])
    }

    /// The axis of a stored factor that has this size and is that of its rows.
    fn row_axis(&self, form: &Form, rows: Dim) -> Option<i64> {
        let last = form.dims.len().checked_sub(1)?;
        let axis = if self.transposed == form.flipped { 0 } else { last };
        (form.kernel.is_none() && form.dims.get(axis) == Some(&rows)).then(|| i64::try_from(axis).ok())?
    }
}
