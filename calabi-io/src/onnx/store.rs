//! The file of external data that is written beside a model: what stands where in it.

use std::collections::HashMap;

use calabi_api::FormatError;

use super::schema::Entry;
use super::wire::Span;

/// From this size on, tensors begin at a page of memory.
const LARGE: u64 = 1 << 20;

/// Where bytes are copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    Model,
    /// An index into the model's external files.
    File(usize),
}

/// The layout of a file of external data.
#[derive(Debug)]
pub(crate) struct Store {
    /// Its name, beside the model.
    pub(crate) name: String,
    pub(crate) copies: Vec<(Origin, Span, u64)>,
    placed: HashMap<(Origin, Span), u64>,
    length: u64,
}

/// What the file of external data beside a model of this name is called.
pub(crate) fn data_file(model: &str) -> String {
    format!("{model}.data")
}

impl Store {
    pub(crate) fn new(name: String) -> Self {
        Self { name, copies: Vec::new(), placed: HashMap::new(), length: 0 }
    }

    /// Takes room for so many bytes: its position.
    pub(crate) fn place(&mut self, length: u64) -> Result<u64, FormatError> {
        if length == 0 {
            return Ok(0);
        }
        let alignment = if length >= LARGE { 4096 } else { 64 };
        let start = self.length.checked_next_multiple_of(alignment);
        let end = start.and_then(|start| start.checked_add(length));
        let overflow = || FormatError::Misuse("the external data would be larger than a file can be".to_owned());
        self.length = end.ok_or_else(overflow)?;
        start.ok_or_else(overflow)
    }

    /// Takes bytes that are copied, once if several tensors have them: their position.
    pub(crate) fn copy(&mut self, origin: Origin, span: Span) -> Result<u64, FormatError> {
        if let Some(&position) = self.placed.get(&(origin, span)) {
            return Ok(position);
        }
        let position = self.place(span.len())?;
        self.placed.insert((origin, span), position);
        self.copies.push((origin, span, position));
        Ok(position)
    }

    /// How a tensor of the model refers to bytes of this file.
    pub(crate) fn entries(&self, position: u64, length: u64) -> Vec<Entry> {
        vec![Entry::new("location", &self.name), Entry::new("offset", position), Entry::new("length", length)]
    }
}
