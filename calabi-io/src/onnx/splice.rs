//! Edits of a wire-format file: pieces take the place of ranges, lengths around them follow, all else is copied.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use calabi_api::FormatError;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::structure::{Frame, FrameId};
use super::wire::Span;

/// What stands in the place of a range.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// Room for data that is written later.
    Hole {
        id: usize,
        length: u64,
    },
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Hole { length, .. } => *length,
        }
    }
}

#[derive(Debug)]
struct Edit {
    range: Span,
    /// The message that it changes; none is the model itself.
    frame: Option<FrameId>,
    pieces: Vec<Piece>,
    /// Whether it stands before what others insert at the same place.
    first: bool,
}

/// A set of edits.
#[derive(Debug, Default)]
pub(crate) struct Splice {
    edits: Vec<Edit>,
}

/// A file after its edits: what stands where.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) parts: Vec<Part>,
    /// Where each hole begins, by its id.
    pub(crate) holes: BTreeMap<usize, u64>,
    pub(crate) length: u64,
}

/// A part of the new file.
#[derive(Debug)]
pub(crate) enum Part {
    Copy { from: Span, to: u64 },
    Bytes { bytes: Vec<u8>, to: u64 },
}

impl Splice {
    /// Puts pieces in the place of whole fields of a message.
    pub(crate) fn replace(&mut self, frame: Option<FrameId>, range: Span, pieces: Vec<Piece>) {
        self.edits.push(Edit { range, frame, pieces, first: false });
    }

    /// Puts pieces between two fields of a message, or behind its last.
    pub(crate) fn insert(&mut self, frame: Option<FrameId>, at: u64, pieces: Vec<Piece>) {
        self.replace(frame, Span { start: at, end: at }, pieces);
    }

    /// Puts pieces behind a field of a message, before what is inserted between it and the next.
    pub(crate) fn append(&mut self, frame: Option<FrameId>, end: u64, pieces: Vec<Piece>) {
        self.edits.push(Edit { range: Span { start: end, end }, frame, pieces, first: true });
    }

    /// Lays out the new file. Frames are in the order of their keys, those around others first.
    pub(crate) fn layout(mut self, frames: &[Frame], length: u64) -> Result<Layout, FormatError> {
        self.correct_lengths(frames)?;
        // At one position what is inside a message stands before what follows the message.
        self.edits.sort_by_key(|edit| (edit.range.start, edit.range.end, Reverse(edit.frame), !edit.first));
        let mut layout = Layout { parts: Vec::new(), holes: BTreeMap::new(), length: 0 };
        let mut done = 0;
        for edit in self.edits {
            if edit.range.start < done || edit.range.end > length {
                return Err(FormatError::Misuse(format!("two edits of byte {} of the model", edit.range.start)));
            }
            layout.copy(Span { start: done, end: edit.range.start });
            edit.pieces.into_iter().for_each(|piece| layout.put(piece));
            done = edit.range.end;
        }
        layout.copy(Span { start: done, end: length });
        Ok(layout)
    }

    /// Adds an edit of each length that changes, from the innermost message out.
    fn correct_lengths(&mut self, frames: &[Frame]) -> Result<(), FormatError> {
        let overflow = || FormatError::Misuse("the model would be larger than a file can be".to_owned());
        let mut growths: BTreeMap<FrameId, i64> = BTreeMap::new();
        for edit in &self.edits {
            if let Some(frame) = edit.frame {
                let growth = growth(edit).ok_or_else(overflow)?;
                let sum = growths.entry(frame).or_insert(0);
                *sum = sum.checked_add(growth).ok_or_else(overflow)?;
            }
        }
        while let Some((id, grown)) = growths.pop_last() {
            let Some(frame) = frames.get(id.0).filter(|_| grown != 0) else { continue };
            let length = frame.body.len().checked_add_signed(grown).ok_or_else(overflow)?;
            let mut prefix = Vec::new();
            encode_varint(length, &mut prefix);
            let range = Span { start: frame.prefix, end: frame.body.start };
            let edit = Edit { range, frame: frame.parent, pieces: vec![Piece::Bytes(prefix)], first: false };
            if let Some(parent) = frame.parent {
                let growth = growth(&edit).and_then(|prefix| prefix.checked_add(grown)).ok_or_else(overflow)?;
                let sum = growths.entry(parent).or_insert(0);
                *sum = sum.checked_add(growth).ok_or_else(overflow)?;
            }
            self.edits.push(edit);
        }
        Ok(())
    }
}

fn growth(edit: &Edit) -> Option<i64> {
    let new = edit.pieces.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.len()))?;
    i64::try_from(new).ok()?.checked_sub(i64::try_from(edit.range.len()).ok()?)
}

impl Layout {
    fn copy(&mut self, from: Span) {
        if from.len() > 0 {
            self.parts.push(Part::Copy { from, to: self.length });
            self.length += from.len();
        }
    }

    fn put(&mut self, piece: Piece) {
        let length = piece.len();
        match piece {
            Piece::Bytes(bytes) => self.parts.push(Part::Bytes { bytes, to: self.length }),
            Piece::Hole { id, .. } => _ = self.holes.insert(id, self.length),
        }
        self.length += length;
    }
}

/// A field that holds a message, as it is written.
pub(crate) fn message(number: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(number, body.len() as u64);
    bytes.extend_from_slice(body);
    bytes
}

/// A field that holds a message which ends in a field of data that is written later.
pub(crate) fn message_with_hole(number: u32, body: &[u8], data: u32, hole: usize, length: u64) -> Vec<Piece> {
    let data = header(data, length);
    let mut bytes = header(number, body.len() as u64 + data.len() as u64 + length);
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&data);
    vec![Piece::Bytes(bytes), Piece::Hole { id: hole, length }]
}

/// A field that holds a message which ends in these pieces.
pub(crate) fn nested(number: u32, mut body: Vec<u8>, last: Vec<Piece>) -> Vec<Piece> {
    let length = body.len() as u64 + last.iter().map(Piece::len).sum::<u64>();
    let mut bytes = header(number, length);
    bytes.append(&mut body);
    [Piece::Bytes(bytes)].into_iter().chain(last).collect()
}

/// The key and the length of a field of bytes.
pub(crate) fn header(number: u32, length: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + encoded_len_varint(length));
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(length, &mut bytes);
    bytes
}
