//! The types of tensors' elements: what they are called, how many bits they take, which field holds them.

use std::fmt;

use calabi_api::DType;

use super::fields::tensor;

/// A value of `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ElementType(pub(crate) i64);

/// How elements are stored in a typed field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Typed {
    /// The number of the field.
    pub(crate) field: u32,
    /// How many of its entries hold the tensor.
    pub(crate) entries: u64,
}

const STRING: i64 = 8;

impl ElementType {
    /// `INT8`
    pub(crate) const INT8: Self = Self(3);
    /// `INT64`
    pub(crate) const INT64: Self = Self(7);

    /// The name, the bits of one element (none where unknown, or of no fixed size), and the field for typed data.
    fn facts(self) -> Option<(&'static str, Option<u64>, u32)> {
        Some(match self.0 {
            1 => ("FLOAT", Some(32), tensor::FLOATS),
            2 => ("UINT8", Some(8), tensor::INT32S),
            3 => ("INT8", Some(8), tensor::INT32S),
            4 => ("UINT16", Some(16), tensor::INT32S),
            5 => ("INT16", Some(16), tensor::INT32S),
            6 => ("INT32", Some(32), tensor::INT32S),
            7 => ("INT64", Some(64), tensor::INT64S),
            STRING => ("STRING", None, tensor::STRINGS),
            9 => ("BOOL", Some(8), tensor::INT32S),
            10 => ("FLOAT16", Some(16), tensor::INT32S),
            11 => ("DOUBLE", Some(64), tensor::DOUBLES),
            12 => ("UINT32", Some(32), tensor::UINT64S),
            13 => ("UINT64", Some(64), tensor::UINT64S),
            14 => ("COMPLEX64", Some(64), tensor::FLOATS),
            15 => ("COMPLEX128", Some(128), tensor::DOUBLES),
            16 => ("BFLOAT16", Some(16), tensor::INT32S),
            17 => ("FLOAT8E4M3FN", Some(8), tensor::INT32S),
            18 => ("FLOAT8E4M3FNUZ", Some(8), tensor::INT32S),
            19 => ("FLOAT8E5M2", Some(8), tensor::INT32S),
            20 => ("FLOAT8E5M2FNUZ", Some(8), tensor::INT32S),
            21 => ("UINT4", Some(4), tensor::INT32S),
            22 => ("INT4", Some(4), tensor::INT32S),
            23 => ("FLOAT4E2M1", Some(4), tensor::INT32S),
            24 => ("FLOAT8E8M0", Some(8), tensor::INT32S),
            25 => ("UINT2", Some(2), tensor::INT32S),
            26 => ("INT2", Some(2), tensor::INT32S),
            _ => return None,
        })
    }

    /// The floating-point type that weights of this type have.
    pub(crate) fn dtype(self) -> Option<DType> {
        match self.0 {
            1 => Some(DType::F32),
            10 => Some(DType::F16),
            11 => Some(DType::F64),
            16 => Some(DType::BF16),
            _ => None,
        }
    }

    pub(crate) fn is_known(self) -> bool {
        self.facts().is_some()
    }

    /// The bytes of raw data of so many elements; none where the type has no fixed size, or they overflow.
    pub(crate) fn raw_bytes(self, elements: u64) -> Option<u64> {
        let (_, bits, _) = self.facts()?;
        Some(elements.checked_mul(bits?)?.div_ceil(8))
    }

    /// Whether elements are integers that quantised weights are made of.
    pub(crate) fn is_quantised(self) -> bool {
        matches!(self.0, 2..=5 | 21 | 22)
    }

    /// An integer of this type from the bits that hold it.
    pub(crate) fn integer(self, bits: u32) -> f32 {
        #[allow(clippy::cast_possible_truncation)] // the bits above are not this integer's
        let (byte, word) = (bits as u8, bits as u16);
        match self.0 {
            2 => f32::from(byte),
            3 => f32::from(byte.cast_signed()),
            4 => f32::from(word),
            5 => f32::from(word.cast_signed()),
            21 => f32::from(byte & 0xf),
            _ => f32::from((byte << 4).cast_signed() >> 4),
        }
    }

    /// The bits of one element.
    pub(crate) fn bits(self) -> Option<u64> {
        self.facts()?.1
    }

    /// How so many elements are stored in a typed field.
    pub(crate) fn typed(self, elements: u64) -> Option<Typed> {
        let (_, bits, field) = self.facts()?;
        let entries = match (self.0, bits) {
            (14 | 15, _) => elements.checked_mul(2)?,
            (_, Some(bits @ ..8)) => elements.div_ceil(8 / bits),
            _ => elements,
        };
        Some(Typed { field, entries })
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.facts() {
            Some((name, ..)) => f.write_str(name),
            None => write!(f, "type {}", self.0),
        }
    }
}
