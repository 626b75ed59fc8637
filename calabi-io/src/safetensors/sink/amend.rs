//! Other values in the place of a tensor that would be copied.

use calabi_api::ndarray::ArrayD;
use calabi_api::{FormatError, Name};

use super::Sink;
use crate::safetensors::factor;
use crate::safetensors::plan::Content;

impl Sink {
    /// Writes these values where the tensor of this name in the input would be copied to.
    pub(super) fn write_amended(&mut self, tensor: &str, values: &ArrayD<f32>) -> Result<(), FormatError> {
        let misuse = |problem: String| FormatError::Misuse(format!("tensor {}: {problem}", Name::new(tensor)));
        let model = &self.model;
        let named = |content| match content {
            Content::Copy(at) => model.weights.at(at).is_some_and(|(_, entry)| entry.name == tensor),
            Content::Factor(..) | Content::Product(_) | Content::Zeros | Content::Amended => false,
        };
        let pieces = self.files.iter_mut().flat_map(|file| {
            let output = &file.output;
            file.pieces.iter_mut().map(move |(place, piece)| (output, *place, piece))
        });
        let Some((output, place, piece)) = pieces.into_iter().find(|(.., piece)| named(piece.content)) else {
            return Err(misuse("the model has none of this name that is copied; each is amended once".into()));
        };
        let dtype = piece.dtype.float.ok_or_else(|| misuse(format!("{} is no float", piece.dtype.name)))?;
        if !values.shape().iter().map(|&dim| dim as u64).eq(piece.dims.iter().copied()) {
            return Err(misuse(format!("its shape is {:?}, and the new values have {:?}", piece.dims, values.shape())));
        }
        if !factor::storable(values.iter(), dtype) {
            return Err(factor::beyond(tensor, dtype));
        }
        factor::write(output, place, dtype, values.iter().copied())?;
        piece.content = Content::Amended;
        Ok(())
    }
}
