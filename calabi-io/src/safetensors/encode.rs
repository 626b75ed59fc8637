//! The header of a safetensors file, written as the reference implementation writes it.

use super::dtype::Stored;
use super::header::{LONGEST, METADATA};

/// A tensor that will be written.
pub(super) struct Described<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: &'static Stored,
    pub(super) dims: &'a [u64],
    pub(super) length: u64,
}

/// The first bytes of a file with these tensors: the length of the header and the header, padded to a multiple of eight.
///
/// None where the header would be longer than readers accept.
pub(super) fn encode<'a>(
    metadata: Option<&[(String, String)]>,
    tensors: impl Iterator<Item = Described<'a>>,
) -> Option<Vec<u8>> {
    let mut members = Vec::new();
    if let Some(pairs) = metadata {
        let pairs: Vec<_> = pairs.iter().map(|(key, text)| format!("{}:{}", quoted(key), quoted(text))).collect();
        members.push(format!("{}:{{{}}}", quoted(METADATA), pairs.join(",")));
    }
    let mut start = 0;
    for Described { name, dtype, dims, length } in tensors {
        let dims: Vec<_> = dims.iter().map(u64::to_string).collect();
        let (name, dtype, dims, end) = (quoted(name), dtype.name, dims.join(","), start + length);
        members.push(format!(r#"{name}:{{"dtype":"{dtype}","shape":[{dims}],"data_offsets":[{start},{end}]}}"#));
        start = end;
    }
    let mut text = format!("{{{}}}", members.join(",")).into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = text.len() as u64;
    (length <= LONGEST).then(|| [&length.to_le_bytes()[..], &text].concat())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// No fewer bytes than a file without tensors takes.
pub(super) fn size_bound(metadata: Option<&[(String, String)]>) -> u64 {
    const LENGTH_BRACES_PADDING: u64 = 8 + 2 + 8;
    let pairs = metadata.unwrap_or_default().iter();
    let text: usize = pairs.map(|(key, text)| quoted(key).len() + quoted(text).len() + 2).sum();
    LENGTH_BRACES_PADDING + text as u64 + METADATA.len() as u64 + 6
}

/// No fewer bytes than a tensor takes in the header.
pub(super) fn member_bound(tensor: &Described<'_>) -> u64 {
    const DIGITS: usize = 20;
    let numbers = (tensor.dims.len() + 2) * (DIGITS + 1);
    (quoted(tensor.name).len()
        + tensor.dtype.name.len()
        + numbers
        + r#":{"dtype":"","shape":[],"data_offsets":[]},"#.len()) as u64
}
