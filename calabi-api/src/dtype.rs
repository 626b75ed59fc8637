//! The types in which files store weights.

use std::fmt;

use half::{bf16, f16};
use serde::Serialize;

/// How a number is stored in a file. In memory weights are `f32`.
///
/// ```
/// use calabi_api::DType;
///
/// let mut bytes = Vec::new();
/// DType::BF16.encode([0.5, 0.1].into_iter(), &mut bytes);
/// assert_eq!(bytes.len() as u64, 2 * DType::BF16.bytes());
///
/// let back: Vec<f32> = DType::BF16.decode(&bytes).collect();
/// assert_eq!(back, [0.5, DType::BF16.rounded(0.1)]);
/// assert_ne!(back[1], 0.1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum DType {
    /// 64 bits.
    F64,
    /// 32 bits.
    F32,
    /// 16 bits, IEEE 754.
    F16,
    /// 16 bits, the upper half of an `f32`.
    BF16,
}

impl DType {
    /// Bytes that one number takes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The value that is read back after `value` has been stored in this type.
    #[must_use]
    pub fn rounded(self, value: f32) -> f32 {
        match self {
            Self::F64 | Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// The number of values of this type in `bytes` and each of them, little-endian, as `f32`.
    ///
    /// Bytes that do not fill a last value are not read.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Box<dyn Iterator<Item = f32> + '_> {
        match self {
            #[allow(clippy::cast_possible_truncation)] // weights are f32 in memory
            Self::F64 => Box::new(bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
            Self::F32 => Box::new(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::F16 => Box::new(bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
            Self::BF16 => Box::new(bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32())),
        }
    }

    /// Appends the values of this type in `bytes`, as [`decode`](Self::decode) reads them: faster for many.
    pub fn decode_to(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            #[allow(clippy::cast_possible_truncation)] // weights are f32 in memory
            Self::F64 => values.extend(bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
            Self::F32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::F16 => values.extend(bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
            Self::BF16 => values.extend(bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32())),
        }
    }

    /// Appends `values`, little-endian, to `bytes`.
    pub fn encode(self, values: impl Iterator<Item = f32>, bytes: &mut Vec<u8>) {
        match self {
            Self::F64 => values.for_each(|v| bytes.extend_from_slice(&f64::from(v).to_le_bytes())),
            Self::F32 => values.for_each(|v| bytes.extend_from_slice(&v.to_le_bytes())),
            Self::F16 => values.for_each(|v| bytes.extend_from_slice(&f16::from_f32(v).to_le_bytes())),
            Self::BF16 => values.for_each(|v| bytes.extend_from_slice(&bf16::from_f32(v).to_le_bytes())),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_back_rounded() {
        let values = [1.0_f32, -0.1, 65504.0, 1e-3, f32::MIN_POSITIVE];
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let mut bytes = Vec::new();
            dtype.encode(values.into_iter(), &mut bytes);
            assert_eq!(bytes.len() as u64, dtype.bytes() * values.len() as u64);
            assert!(dtype.decode(&bytes).eq(values.map(|v| dtype.rounded(v))), "{dtype}");
            let mut appended = vec![7.0];
            dtype.decode_to(&bytes, &mut appended);
            assert!(appended.into_iter().skip(1).eq(dtype.decode(&bytes)), "{dtype}");
        }
    }
}
