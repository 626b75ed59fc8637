//! Reads the elements of a tensor, whatever its type and wherever it is.

use calabi_api::{DType, FormatError, Name};
use half::{bf16, f16};

use super::Model;
use super::element::ElementType;
use super::structure::{Data, Tensor};
use super::wire::{Reader, Span};
use crate::file::Input;

/// How much is read at once: a multiple of every element's size.
const PIECE: u64 = 1 << 20;

/// The elements of a floating-point tensor, in the order of the file.
pub(crate) fn read(model: &Model, tensor: &Tensor, dtype: DType) -> Result<Vec<f32>, FormatError> {
    let wrong = |problem: &str| {
        let name = Name::new(model.structure.text(tensor.name));
        FormatError::malformed(model.input.path(), format!("tensor {name}: {problem}"))
    };
    let elements = usize::try_from(tensor.elements).map_err(|_| wrong("it is larger than memory can be"))?;
    let mut values = Vec::with_capacity(elements);
    match &tensor.data {
        Data::Raw(span) => decode(&model.input, *span, dtype, &mut values)?,
        Data::External(file, span) => decode(&model.files[*file], *span, dtype, &mut values)?,
        Data::Typed(pieces) => {
            for &piece in pieces {
                match dtype {
                    DType::F32 | DType::F64 => decode(&model.input, piece, dtype, &mut values)?,
                    DType::F16 | DType::BF16 => decode_halves(&model.input, piece, dtype, &mut values)?,
                }
            }
        }
        Data::None | Data::Pointer(_) => {}
    }
    if values.len() == elements { Ok(values) } else { Err(wrong("its data does not fill its dimensions")) }
}

/// The elements of a tensor of floating-point numbers, or of integers as they are.
pub(crate) fn numbers(model: &Model, tensor: &Tensor) -> Result<Vec<f32>, FormatError> {
    if let Some(dtype) = tensor.element.dtype() {
        return read(model, tensor, dtype);
    }
    let name = || Name::new(model.structure.text(tensor.name)).to_string();
    let wrong = |problem: &str| FormatError::malformed(model.input.path(), format!("tensor {}: {problem}", name()));
    let element = tensor.element;
    let bits = element.bits().filter(|_| element.is_quantised()).ok_or_else(|| wrong("it holds no numbers"))?;
    let count = usize::try_from(tensor.elements).map_err(|_| wrong("it is larger than memory can be"))?;
    let mut values = Vec::with_capacity(count);
    let mut take = |word: u32, held: u64| {
        for part in 0..held {
            values.push(element.integer(word >> (part * bits)));
        }
    };
    let mut raw = |input: &Input, span: Span| -> Result<(), FormatError> {
        let bytes = input.bytes(span.start, span.len())?;
        match bits {
            16 => bytes.as_chunks::<2>().0.iter().for_each(|&pair| take(u32::from(u16::from_le_bytes(pair)), 1)),
            _ => bytes.iter().for_each(|&byte| take(u32::from(byte), 8 / bits)),
        }
        Ok(())
    };
    match &tensor.data {
        Data::Raw(span) => raw(&model.input, *span)?,
        Data::External(file, span) => raw(&model.files[*file], *span)?,
        Data::Typed(pieces) => {
            let mut reader = Reader::new(&model.input);
            for mut piece in pieces.iter().copied() {
                while piece.start < piece.end {
                    #[allow(clippy::cast_possible_truncation)] // negative numbers are written with 64 bits
                    let word = reader.varint(&mut piece)? as u32;
                    take(word, (8 / bits).max(1));
                }
            }
        }
        Data::None | Data::Pointer(_) => {}
    }
    values.truncate(count); // a last byte may be half full
    if values.len() == count { Ok(values) } else { Err(wrong("its data does not fill its dimensions")) }
}

fn decode(input: &Input, span: Span, dtype: DType, values: &mut Vec<f32>) -> Result<(), FormatError> {
    let mut start = span.start;
    while start < span.end {
        let length = PIECE.min(span.end - start);
        values.extend(dtype.decode(&input.bytes(start, length)?));
        start += length;
    }
    Ok(())
}

/// Sixteen bits in each varint.
fn decode_halves(input: &Input, mut piece: Span, dtype: DType, values: &mut Vec<f32>) -> Result<(), FormatError> {
    let mut reader = Reader::new(input);
    while piece.start < piece.end {
        let at = piece.start;
        let bits = reader.varint(&mut piece)?;
        let bits = u16::try_from(bits).map_err(|_| reader.broken(at, &"a number of 16 bits has more"))?;
        values.push(match dtype {
            DType::BF16 => bf16::from_bits(bits).to_f32(),
            _ => f16::from_bits(bits).to_f32(),
        });
    }
    Ok(())
}

/// The longest list of integers that says how a layer works.
const FEW: u64 = 64;

/// The elements of a short tensor of 64-bit integers.
pub(crate) fn integers(model: &Model, tensor: &Tensor) -> Result<Vec<i64>, FormatError> {
    let name = || Name::new(model.structure.text(tensor.name)).to_string();
    let wrong = |problem: &str| FormatError::malformed(model.input.path(), format!("tensor {}: {problem}", name()));
    if tensor.element != ElementType::INT64 || tensor.elements > FEW {
        return Err(wrong("it is no short list of 64-bit integers"));
    }
    let raw = |input: &Input, span: Span| -> Result<Vec<i64>, FormatError> {
        let bytes = input.bytes(span.start, span.len())?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
    };
    match &tensor.data {
        Data::Raw(span) => raw(&model.input, *span),
        Data::External(file, span) => raw(&model.files[*file], *span),
        Data::Typed(pieces) => {
            let (mut numbers, mut reader) = (Vec::new(), Reader::new(&model.input));
            for mut piece in pieces.iter().copied() {
                while piece.start < piece.end {
                    numbers.push(reader.varint(&mut piece)?.cast_signed());
                }
            }
            Ok(numbers)
        }
        Data::None | Data::Pointer(_) => Ok(Vec::new()),
    }
}
