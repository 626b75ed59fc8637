//! The wire format of protocol buffers, as far as ONNX files need it: checked, read and written.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

mod check;

use std::ops::Range;

pub(crate) use check::check;

/// A field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) number: u64,
    /// Where it stands, its tag included.
    pub(crate) whole: Range<usize>,
    /// Where its bytes stand, if it is of the kind that has a length.
    pub(crate) content: Option<Range<usize>>,
    /// Its value, if it is a varint.
    pub(crate) value: u64,
}

/// The fields of the message that stands there.
pub(crate) fn fields(bytes: &[u8], within: Range<usize>) -> impl Iterator<Item = Result<Field, String>> {
    let mut reader = Reader { bytes, at: within.start, end: within.end };
    std::iter::from_fn(move || {
        if reader.at >= reader.end {
            return None;
        }
        let field = reader.field().ok_or_else(|| format!("it is damaged at byte {}", reader.at));
        if field.is_err() {
            reader.at = reader.end;
        }
        Some(field)
    })
}

/// The text that a field holds.
pub(crate) fn text(bytes: &[u8], field: &Field) -> Result<String, String> {
    let content = field.content.clone().and_then(|content| bytes.get(content)).ok_or("a name is no text")?;
    std::str::from_utf8(content).map(str::to_owned).map_err(|_| "a name is no text".to_owned())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Reader<'_> {
    fn field(&mut self) -> Option<Field> {
        let start = self.at;
        let tag = self.varint()?;
        let (mut content, mut value) = (None, 0);
        match tag & 7 {
            0 => value = self.varint()?,
            1 => content = self.skip(8).map(|_| None)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                content = Some(self.skip(length)?);
            }
            5 => content = self.skip(4).map(|_| None)?,
            _ => return None,
        }
        Some(Field { number: tag >> 3, whole: start..self.at, content, value })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(..self.end)?.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn skip(&mut self, length: usize) -> Option<Range<usize>> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.end)?;
        let skipped = self.at..end;
        self.at = end;
        Some(skipped)
    }
}

/// Writes a field that holds bytes.
pub(crate) fn put(to: &mut Vec<u8>, number: u64, content: &[u8]) {
    put_varint(to, number << 3 | 2);
    put_varint(to, content.len() as u64);
    to.extend_from_slice(content);
}

/// Writes a field that holds a number.
pub(crate) fn put_number(to: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(to, number << 3);
    put_varint(to, value);
}

/// Writes the tag and the length of a field whose bytes follow.
pub(crate) fn put_head(to: &mut Vec<u8>, number: u64, length: usize) {
    put_varint(to, number << 3 | 2);
    put_varint(to, length as u64);
}

fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}
