//! The header of a safetensors file, read strictly.

use std::fmt;
use std::path::Path;

use calabi_api::{FormatError, Name};
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::dtype::Stored;
use super::json;
use crate::file::Input;

/// The longest header, as in the reference implementation.
pub(super) const LONGEST: u64 = 100_000_000;
/// The most dimensions of a tensor.
const MOST_DIMS: usize = 16;
/// The bytes before the header, which hold its length.
const LENGTH: u64 = 8;
/// The key of the header that is no tensor.
pub(super) const METADATA: &str = "__metadata__";
const CUT_SHORT: &str = "the file is cut short or damaged: fetch it again";
const REWRITE: &str = "write the file again with the safetensors library";

/// What a file says of its tensors.
#[derive(Debug)]
pub(super) struct Header {
    /// Free text, in its order.
    pub(super) metadata: Option<Vec<(String, String)>>,
    /// The tensors in the order of their bytes.
    pub(super) tensors: Vec<Entry>,
}

/// A tensor and its place in the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: &'static Stored,
    pub(super) dims: Vec<u64>,
    /// The place of its first byte, from the start of the file.
    pub(super) start: u64,
    /// Bytes.
    pub(super) length: u64,
}

impl Entry {
    /// The number of elements. The product has been checked.
    pub(super) fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

impl Header {
    /// Reads and checks the header of a file: afterwards every tensor lies in the file, and every byte is a tensor's.
    pub(super) fn read(file: &Input) -> Result<Self, FormatError> {
        let length = length(file)?;
        let text = file.bytes(LENGTH, length)?;
        let malformed = |problem: String| FormatError::malformed(file.path(), problem).with_help(REWRITE);
        if text.first() != Some(&b'{') {
            return Err(malformed("its header does not start with `{`".into()));
        }
        let members = json::object(&text).map_err(|problem| malformed(format!("its header is wrong: {problem}")))?;
        let mut header = Self { metadata: None, tensors: Vec::new() };
        for (name, raw) in members {
            if name == METADATA {
                header.metadata = Some(metadata(raw).map_err(|problem| malformed(format!("{METADATA}: {problem}")))?);
            } else {
                let entry = entry(&name, raw).map_err(|problem| malformed(tensor_problem(&name, &problem)))?;
                header.tensors.push(entry);
            }
        }
        header.lay_out(file.path(), LENGTH + length, file.len())?;
        Ok(header)
    }

    /// Sorts the tensors by place, checks that they fill the file, and counts their places from the start of the file.
    fn lay_out(&mut self, path: &Path, data: u64, end: u64) -> Result<(), FormatError> {
        if self.tensors.is_empty() {
            return Err(FormatError::malformed(path, "its header lists no tensor: this is no model"));
        }
        // Stable: empty tensors of one place keep the order of the header.
        self.tensors.sort_by_key(|tensor| (tensor.start, tensor.length));
        let mut next = 0;
        for tensor in &mut self.tensors {
            if tensor.start != next {
                return Err(misplaced(path, tensor, next));
            }
            next = tensor.start.saturating_add(tensor.length);
            if next > end - data {
                let problem = format!("it ends at byte {next} of the data, which has {}", end - data);
                return Err(FormatError::malformed(path, tensor_problem(&tensor.name, &problem)).with_help(CUT_SHORT));
            }
            tensor.start += data;
        }
        if next < end - data {
            let problem = format!("{} bytes follow the last tensor", end - data - next);
            return Err(FormatError::malformed(path, problem).with_help(REWRITE));
        }
        Ok(())
    }
}

/// Whether a file begins as safetensors do: a length that fits, and the `{` of a header.
pub(super) fn begins(file: &Input) -> bool {
    let mut first = [0; 9];
    let fits = |bytes: [u8; 9]| {
        let ([length @ .., brace], end) = (bytes, file.len());
        brace == b'{' && (2..=LONGEST.min(end - LENGTH)).contains(&u64::from_le_bytes(length))
    };
    file.len() > LENGTH && file.read(0, &mut first).is_ok() && fits(first)
}

/// The length of the header: it fits the file.
fn length(file: &Input) -> Result<u64, FormatError> {
    let malformed = |problem: String| FormatError::malformed(file.path(), problem);
    if file.len() < LENGTH {
        let problem = format!("{} bytes are no safetensors file: the length of its header alone takes 8", file.len());
        return Err(malformed(problem).with_help(CUT_SHORT));
    }
    let mut bytes = [0; 8];
    file.read(0, &mut bytes)?;
    if let Some((what, way_out)) = other_format(bytes) {
        return Err(malformed(format!("this is {what}, not safetensors")).with_help(way_out));
    }
    let (length, rest) = (u64::from_le_bytes(bytes), file.len() - LENGTH);
    if length > LONGEST {
        let problem = format!("its header would be {length} bytes long; the longest allowed is {LONGEST}");
        return Err(malformed(problem).with_help("is it a safetensors file at all?"));
    }
    if length > rest {
        let problem = format!("its header would be {length} bytes long, but only {rest} follow");
        return Err(malformed(problem).with_help(CUT_SHORT));
    }
    Ok(length)
}

/// What the file is instead, by its first bytes, and how to convert it.
fn other_format(first: [u8; 8]) -> Option<(&'static str, &'static str)> {
    match first {
        [b'P', b'K', 3, 4, ..] => Some(("a PyTorch file", super::folder::FROM_PYTORCH)),
        [b'G', b'G', b'U', b'F', ..] => Some(("a GGUF file", super::folder::FROM_GGUF)),
        _ => None,
    }
}

fn metadata(raw: &RawValue) -> Result<Vec<(String, String)>, String> {
    let members = json::object(raw.get().as_bytes())?;
    members.into_iter().map(|(key, text)| Ok((key, json::value(text)?))).collect()
}

/// A tensor's entry; its start is still counted from the start of the data.
fn entry(name: &str, raw: &RawValue) -> Result<Entry, String> {
    let (mut dtype, mut dims, mut offsets) = (None, None, None);
    for (key, raw) in json::object(raw.get().as_bytes())? {
        let wrong = |problem| format!("{key}: {problem}");
        match key.as_str() {
            "dtype" => dtype = Some(stored(raw).map_err(wrong)?),
            "shape" => dims = Some(json::value::<Dims>(raw).map_err(wrong)?.0),
            "data_offsets" => offsets = Some(json::value::<[u64; 2]>(raw).map_err(wrong)?),
            _ => return Err(format!("the key {} is unknown", Name::new(&key))),
        }
    }
    let dtype = dtype.ok_or("its dtype is missing")?;
    let dims = dims.ok_or("its shape is missing")?;
    let [start, end] = offsets.ok_or("its data_offsets are missing")?;
    let length = end.checked_sub(start).ok_or_else(|| format!("it ends at {end}, before it starts at {start}"))?;
    let needed = bytes(&dims, dtype)?;
    if needed != length {
        return Err(format!("its shape {dims:?} of {} takes {needed} bytes, but it has {length}", dtype.name));
    }
    Ok(Entry { name: name.to_owned(), dtype, dims, start, length })
}

fn stored(raw: &RawValue) -> Result<&'static Stored, String> {
    let name: String = json::value(raw)?;
    Stored::named(&name).ok_or_else(|| format!("the type {} is unknown", Name::new(&name)))
}

/// The bytes of a tensor. Dimensions whose product overflows are refused even beside a dimension of zero.
fn bytes(dims: &[u64], dtype: &Stored) -> Result<u64, String> {
    let product = |bits: u64, &dim: &u64| bits.checked_mul(dim.max(1)).filter(|&bits| i64::try_from(bits).is_ok());
    let bits = dims.iter().try_fold(dtype.bits, product);
    let bits = bits.ok_or_else(|| format!("its shape {dims:?} is beyond all bounds"))?;
    let bits = if dims.contains(&0) { 0 } else { bits };
    if bits % 8 != 0 {
        return Err(format!("its shape {dims:?} of {} does not fill its last byte", dtype.name));
    }
    Ok(bits / 8)
}

fn misplaced(path: &Path, tensor: &Entry, next: u64) -> FormatError {
    let problem = if tensor.start < next {
        format!("it starts at byte {} of the data, inside the tensor before it, which ends at {next}", tensor.start)
    } else {
        format!("it starts at byte {} of the data; the bytes from {next} on belong to no tensor", tensor.start)
    };
    FormatError::malformed(path, tensor_problem(&tensor.name, &problem)).with_help(REWRITE)
}

fn tensor_problem(name: &str, problem: &str) -> String {
    format!("tensor {}: {problem}", Name::new(name))
}

/// Dimensions, no more than can be meant.
struct Dims(Vec<u64>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Bounded).map(Dims)
    }
}

struct Bounded;

impl<'de> Visitor<'de> for Bounded {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if dims.len() == MOST_DIMS {
                return Err(A::Error::custom(format!("more than {MOST_DIMS} dimensions")));
            }
            dims.push(dim);
        }
        Ok(dims)
    }
}
