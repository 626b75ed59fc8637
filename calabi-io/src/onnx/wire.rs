//! The protobuf wire format, read by position: fields and where they stand, with a window of the file in memory.

use std::fmt::Display;

use calabi_api::FormatError;

use crate::file::Input;

/// How deep messages may be nested: the limit of protobuf's own parsers.
pub(crate) const NESTING: usize = 100;

/// The longest text that is read: names, operators, keys.
const TEXT: u64 = 64 << 10;

/// How much of the file is in memory.
const WINDOW: u64 = 64 << 10;

/// A range of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Span {
    pub(crate) fn len(self) -> u64 {
        self.end - self.start
    }
}

/// A field of a message and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) value: Value,
    /// All of it, from its key on.
    pub(crate) span: Span,
    /// Where its key ends.
    pub(crate) prefix: u64,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    Varint(u64),
    Fixed(Span),
    Bytes(Span),
    Group,
}

/// Reads fields of a file, one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    input: &'a Input,
    window: Vec<u8>,
    start: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a Input) -> Self {
        Self { input, window: Vec::new(), start: 0 }
    }

    /// The whole file.
    pub(crate) fn all(&self) -> Span {
        Span { start: 0, end: self.input.len() }
    }

    /// The next field of a message of which `rest` is left; none at its end.
    pub(crate) fn next(&mut self, rest: &mut Span) -> Result<Option<Field>, FormatError> {
        if rest.start >= rest.end {
            return Ok(None);
        }
        let start = rest.start;
        let (number, wire_type) = self.key(rest)?;
        let prefix = rest.start;
        let value = match wire_type {
            0 => Value::Varint(self.varint(rest)?),
            1 => Value::Fixed(self.take(rest, 8)?),
            2 => {
                let length = self.varint(rest)?;
                Value::Bytes(self.take(rest, length)?)
            }
            3 => {
                self.skip_group(rest, number)?;
                Value::Group
            }
            5 => Value::Fixed(self.take(rest, 4)?),
            _ => return Err(self.broken(start, &format_args!("field {number} has the wire type {wire_type}"))),
        };
        Ok(Some(Field { number, value, span: Span { start, end: rest.start }, prefix }))
    }

    fn key(&mut self, rest: &mut Span) -> Result<(u32, u64), FormatError> {
        let at = rest.start;
        let key = self.varint(rest)?;
        match u32::try_from(key >> 3) {
            Ok(number @ 1..0x2000_0000) => Ok((number, key & 7)),
            _ => Err(self.broken(at, &format_args!("a field has the number {}", key >> 3))),
        }
    }

    /// Reads a varint off the front of `rest`.
    pub(crate) fn varint(&mut self, rest: &mut Span) -> Result<u64, FormatError> {
        let at = rest.start;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            if rest.start >= rest.end {
                return Err(self.broken(at, &"a number is cut short"));
            }
            let byte = self.byte(rest.start)?;
            rest.start += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.broken(at, &"a number has more than 64 bits"))
    }

    fn take(&mut self, rest: &mut Span, length: u64) -> Result<Span, FormatError> {
        let start = rest.start;
        match start.checked_add(length) {
            Some(end) if end <= rest.end => {
                rest.start = end;
                Ok(Span { start, end })
            }
            _ => Err(self.broken(
                start,
                &format_args!(
                    "a field of {length} bytes passes the end of its message at byte {}: it begins",
                    rest.end
                ),
            )),
        }
    }

    fn skip_group(&mut self, rest: &mut Span, number: u32) -> Result<(), FormatError> {
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            let at = rest.start;
            let (number, wire_type) = self.key(rest)?;
            match wire_type {
                0 => _ = self.varint(rest)?,
                1 => _ = self.take(rest, 8)?,
                2 => {
                    let length = self.varint(rest)?;
                    self.take(rest, length)?;
                }
                3 if open.len() < NESTING => open.push(number),
                4 if number == innermost => _ = open.pop(),
                5 => _ = self.take(rest, 4)?,
                _ => return Err(self.broken(at, &"a group is not closed, or nested too deep")),
            }
        }
        Ok(())
    }

    /// The byte at `at`, which is in the file.
    fn byte(&mut self, at: u64) -> Result<u8, FormatError> {
        if let Some(&byte) = self.seen(at) {
            return Ok(byte);
        }
        let length = WINDOW.min(self.input.len().saturating_sub(at));
        self.window.resize(usize::try_from(length).unwrap_or(0), 0);
        self.start = at;
        self.input.read(at, &mut self.window)?;
        self.seen(at).copied().ok_or_else(|| self.broken(at, &"the file ends"))
    }

    fn seen(&self, at: u64) -> Option<&u8> {
        let index = at.checked_sub(self.start)?;
        self.window.get(usize::try_from(index).ok()?)
    }

    /// Where the varints of a field stand, one or packed.
    pub(crate) fn varints(&self, field: &Field) -> Result<Span, FormatError> {
        match field.value {
            Value::Varint(_) => Ok(Span { start: field.prefix, end: field.span.end }),
            Value::Bytes(span) => Ok(span),
            Value::Fixed(_) | Value::Group => Err(self.unexpected(field)),
        }
    }

    /// The varints in `span`, counted.
    pub(crate) fn count_varints(&mut self, mut span: Span) -> Result<u64, FormatError> {
        let mut count = 0;
        while span.start < span.end {
            self.varint(&mut span)?;
            count += 1;
        }
        Ok(count)
    }

    /// The integer in a field.
    pub(crate) fn integer(&self, field: &Field) -> Result<i64, FormatError> {
        match field.value {
            Value::Varint(value) => Ok(value.cast_signed()),
            _ => Err(self.unexpected(field)),
        }
    }

    /// The 32-bit floating-point number in a field.
    pub(crate) fn float(&mut self, field: &Field) -> Result<f32, FormatError> {
        let Value::Fixed(span) = field.value else { return Err(self.unexpected(field)) };
        let mut bytes = [0; 4];
        if span.len() != bytes.len() as u64 {
            return Err(self.unexpected(field));
        }
        for (at, byte) in (span.start..span.end).zip(&mut bytes) {
            *byte = self.byte(at)?;
        }
        Ok(f32::from_le_bytes(bytes))
    }

    /// Where the bytes of a field stand.
    pub(crate) fn bytes(&self, field: &Field) -> Result<Span, FormatError> {
        match field.value {
            Value::Bytes(span) => Ok(span),
            _ => Err(self.unexpected(field)),
        }
    }

    /// The text in a field.
    pub(crate) fn text(&mut self, field: &Field) -> Result<String, FormatError> {
        let span = self.bytes(field)?;
        if span.len() > TEXT {
            return Err(self.broken(span.start, &format_args!("a name of {} bytes begins", span.len())));
        }
        let mut bytes = Vec::new();
        for at in span.start..span.end {
            bytes.push(self.byte(at)?);
        }
        String::from_utf8(bytes).map_err(|_| self.broken(span.start, &"a name that is not UTF-8 begins"))
    }

    /// An error about a field of another wire type than the schema says.
    pub(crate) fn unexpected(&self, field: &Field) -> FormatError {
        self.broken(field.span.start, &format_args!("field {} is not of the type that its message wants", field.number))
    }

    /// An error about bytes that are not ONNX.
    pub(crate) fn broken(&self, at: u64, what: &dyn Display) -> FormatError {
        FormatError::malformed(self.input.path(), format!("not an ONNX model: {what} at byte {at}"))
            .with_help("the file is of another kind, damaged, or cut short: export or fetch it again")
    }

    /// An error about a model that is ONNX, and wrong.
    pub(crate) fn wrong(&self, problem: impl Into<String>) -> FormatError {
        FormatError::malformed(self.input.path(), problem)
    }
}
