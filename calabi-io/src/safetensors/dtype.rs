//! The types of tensors in a safetensors file.

use calabi_api::DType;

/// A type that a tensor may have: its name in the header, the bits of one element, and what calabi calls it where it can
/// be factorized.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) name: &'static str,
    pub(super) bits: u64,
    pub(super) float: Option<DType>,
}

const fn other(name: &'static str, bits: u64) -> Stored {
    Stored { name, bits, float: None }
}

const fn float(name: &'static str, bits: u64, dtype: DType) -> Stored {
    Stored { name, bits, float: Some(dtype) }
}

static F64: Stored = float("F64", 64, DType::F64);
static F32: Stored = float("F32", 32, DType::F32);
static F16: Stored = float("F16", 16, DType::F16);
static BF16: Stored = float("BF16", 16, DType::BF16);

static OTHERS: [Stored; 18] = [
    other("BOOL", 8),
    other("U8", 8),
    other("I8", 8),
    other("U16", 16),
    other("I16", 16),
    other("U32", 32),
    other("I32", 32),
    other("U64", 64),
    other("I64", 64),
    other("C64", 64),
    other("F8_E5M2", 8),
    other("F8_E4M3", 8),
    other("F8_E8M0", 8),
    other("F8_E5M2FNUZ", 8),
    other("F8_E4M3FNUZ", 8),
    other("F6_E2M3", 6),
    other("F6_E3M2", 6),
    other("F4", 4),
];

impl Stored {
    /// The type of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        [&F64, &F32, &F16, &BF16].into_iter().chain(&OTHERS).find(|stored| stored.name == name)
    }

    /// The type in which factors of this type are stored.
    pub(super) fn of(dtype: DType) -> &'static Self {
        match dtype {
            DType::F64 => &F64,
            DType::F32 => &F32,
            DType::F16 => &F16,
            DType::BF16 => &BF16,
        }
    }
}
