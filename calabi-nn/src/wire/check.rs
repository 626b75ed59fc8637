//! Checks that an ONNX file is well formed before the engine reads it.
//!
//! rten's reader believes the lengths in a file: one that is too large makes it reserve as much, read backwards for
//! ever, or take data for structure. Here every length that it follows is checked against the message around it, and
//! the nesting and the number of messages are bounded. Payloads are skipped, not read.
//!
//! Field numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The deepest nesting: subgraphs of subgraphs. Other readers of protobuf stop there as well.
const DEEPEST: usize = 100;
/// The most messages: nodes, attributes, tensors, values. Each takes a hundred times its two bytes in memory.
const MOST_MESSAGES: usize = 1 << 20;

/// A message that the engine reads.
#[derive(Debug, Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    TensorType,
    SequenceType,
    Shape,
    /// One that holds no message: a dimension, an entry of a dictionary, the version of an operator set.
    Plain,
}

/// What the engine takes the bytes of a field for.
enum Content {
    Message(Message),
    /// Numbers of this many bytes each.
    Numbers(u64),
    /// Numbers of variable length.
    Varints,
    /// A name, or data: taken as they are.
    Bytes,
}

impl Message {
    fn field(self, number: u64) -> Content {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6) => Content::Message(Self::Graph),
            (Self::Model, 8 | 14) | (Self::Tensor, 13) | (Self::Shape, 1) => Content::Message(Self::Plain),
            (Self::Graph, 1) => Content::Message(Self::Node),
            (Self::Graph | Self::Attribute, 5) => Content::Message(Self::Tensor),
            (Self::Graph, 11..=13) => Content::Message(Self::Value),
            (Self::Node, 5) => Content::Message(Self::Attribute),
            (Self::Value, 2) | (Self::SequenceType, 1) => Content::Message(Self::Type),
            (Self::Type, 1) => Content::Message(Self::TensorType),
            (Self::Type, 4) => Content::Message(Self::SequenceType),
            (Self::TensorType, 2) => Content::Message(Self::Shape),
            (Self::Attribute, 7) | (Self::Tensor, 4) => Content::Numbers(4),
            (Self::Tensor, 10) => Content::Numbers(8),
            (Self::Attribute, 8) | (Self::Tensor, 1 | 5 | 7) => Content::Varints,
            _ => Content::Bytes,
        }
    }
}

/// Checks the file.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    let file = BufReader::new(File::open(path).map_err(|error| error.to_string())?);
    let mut walk = Walk { file, at: 0, open: vec![(Message::Model, metadata.len())], messages: 0 };
    while walk.step().map_err(|problem| format!("it is no ONNX model, or damaged: {problem} at byte {}", walk.at))? {}
    Ok(())
}

/// A way through a file, field by field.
struct Walk {
    file: BufReader<File>,
    at: u64,
    /// The messages that are not at their end, each with the place of its end.
    open: Vec<(Message, u64)>,
    messages: usize,
}

impl Walk {
    /// Goes past one field, or the end of a message; false at the end of the file.
    fn step(&mut self) -> Result<bool, &'static str> {
        let Some(&(message, end)) = self.open.last() else { return Ok(false) };
        if self.at == end {
            self.open.pop();
            return Ok(true);
        }
        let tag = self.varint(end)?;
        match tag & 7 {
            _ if tag < 8 => return Err("a field without a number"),
            0 => drop(self.varint(end)?),
            1 => self.skip(8, end)?,
            2 => self.content(message.field(tag >> 3), end)?,
            5 => self.skip(4, end)?,
            _ => return Err("a field of an unknown type"),
        }
        Ok(true)
    }

    /// Goes past the bytes of a field, or into its message.
    fn content(&mut self, content: Content, end: u64) -> Result<(), &'static str> {
        let length = self.varint(end)?;
        if length > end - self.at {
            return Err("a length beyond the end");
        }
        match content {
            Content::Message(message) => self.enter(message, self.at + length),
            Content::Numbers(size) if length % size > 0 => Err("numbers that end inside one"),
            Content::Varints if length > 0 => {
                self.skip(length - 1, end)?;
                if self.byte(end)? < 0x80 { Ok(()) } else { Err("numbers that end inside one") }
            }
            _ => self.skip(length, end),
        }
    }

    fn enter(&mut self, message: Message, end: u64) -> Result<(), &'static str> {
        self.messages += 1;
        if self.messages > MOST_MESSAGES {
            return Err("more than a million parts");
        }
        if self.open.len() == DEEPEST {
            return Err("graphs nested too deeply");
        }
        self.open.push((message, end));
        Ok(())
    }

    fn varint(&mut self, end: u64) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(end)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of too many bytes")
    }

    fn byte(&mut self, end: u64) -> Result<u8, &'static str> {
        let mut byte = [0];
        if self.at >= end {
            return Err("the end inside a field");
        }
        self.file.read_exact(&mut byte).map_err(|_| "what cannot be read")?;
        self.at += 1;
        Ok(byte[0])
    }

    fn skip(&mut self, length: u64, end: u64) -> Result<(), &'static str> {
        if length > end - self.at {
            return Err("the end inside a field");
        }
        let offset = i64::try_from(length).map_err(|_| "a length beyond the end")?;
        self.file.seek_relative(offset).map_err(|_| "what cannot be read")?;
        self.at += length;
        Ok(())
    }
}
