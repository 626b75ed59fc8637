//! Scans tensors: dimensions, type, where the data is, and whether its length is what these say.

use calabi_api::{FormatError, Name};

use super::Scan;
use crate::onnx::element::ElementType;
use crate::onnx::fields::{EXTERNAL, sparse, tensor};
use crate::onnx::names::NameId;
use crate::onnx::structure::{Data, FrameId, Pointer, Tensor, TensorId};
use crate::onnx::wire::{Field, Span, Value};

/// More dimensions than any library takes.
const DIMS: usize = 64;

/// A tensor while its fields are read.
struct Draft {
    name: NameId,
    element: ElementType,
    dims: Vec<u64>,
    raw: Option<Span>,
    /// The number of the typed field, and its pieces.
    typed: Option<(u32, Vec<Span>)>,
    strings: u64,
    pointer: Vec<[String; 2]>,
    external: bool,
}

impl Scan<'_> {
    pub(super) fn tensor(&mut self, field: &Field, parent: FrameId) -> Result<TensorId, FormatError> {
        let frame = self.enter(field, Some(parent))?;
        let draft = self.draft(frame)?;
        let elements = self.elements(&draft)?;
        let data = self.data(&draft, elements)?;
        let (name, element, dims) = (draft.name, draft.element, draft.dims.into());
        self.push_tensor(Tensor { frame, name, element, dims, elements, data, sparse: None })
    }

    pub(super) fn sparse_tensor(&mut self, field: &Field, parent: FrameId) -> Result<TensorId, FormatError> {
        let frame = self.enter(field, Some(parent))?;
        let (mut values, mut dims) = (None, Vec::new());
        let mut rest = self.body(frame);
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                sparse::VALUES => values = Some(self.tensor(&field, frame)?),
                sparse::INDICES => _ = self.tensor(&field, frame)?,
                sparse::DIMS => self.dims(&field, &mut dims)?,
                _ => {}
            }
        }
        let Some(values) = values else {
            return Err(self.reader.broken(field.span.start, &"a sparse tensor without values begins"));
        };
        self.structure.tensors[values.0].sparse = Some(dims.into());
        Ok(values)
    }

    fn draft(&mut self, frame: FrameId) -> Result<Draft, FormatError> {
        let mut draft = Draft {
            name: NameId::NONE,
            element: ElementType(0),
            dims: Vec::new(),
            raw: None,
            typed: None,
            strings: 0,
            pointer: Vec::new(),
            external: false,
        };
        let mut rest = self.body(frame);
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                tensor::NAME => draft.name = self.name(&field)?,
                tensor::DATA_TYPE => draft.element = ElementType(self.reader.integer(&field)?),
                tensor::DIMS => self.dims(&field, &mut draft.dims)?,
                tensor::RAW => self.raw(&field, &mut draft)?,
                tensor::STRINGS => draft.strings += 1,
                tensor::FLOATS | tensor::DOUBLES | tensor::INT32S | tensor::INT64S | tensor::UINT64S => {
                    self.typed(&field, &mut draft)?;
                }
                tensor::EXTERNAL => {
                    self.charge::<[u8; 128]>(1)?;
                    let entry = self.entry(&field)?;
                    self.charge::<u8>(entry[0].len() + entry[1].len())?;
                    draft.pointer.push(entry);
                }
                tensor::LOCATION => {
                    self.charge::<[Field; 2]>(1)?;
                    draft.external = self.reader.integer(&field)? == EXTERNAL;
                }
                _ => {}
            }
        }
        Ok(draft)
    }

    fn dims(&mut self, field: &Field, dims: &mut Vec<u64>) -> Result<(), FormatError> {
        let mut packed = self.reader.varints(field)?;
        while packed.start < packed.end {
            let dim = self.reader.varint(&mut packed)?.cast_signed();
            let Ok(dim) = u64::try_from(dim) else {
                return Err(self
                    .reader
                    .wrong(format!("a tensor has the dimension {dim}, at byte {}", field.span.start)));
            };
            if dims.len() == DIMS {
                let problem = format!("a tensor has more than {DIMS} dimensions, at byte {}", field.span.start);
                return Err(self.reader.wrong(problem));
            }
            dims.push(dim);
        }
        Ok(())
    }

    fn raw(&mut self, field: &Field, draft: &mut Draft) -> Result<(), FormatError> {
        match draft.raw.replace(self.reader.bytes(field)?) {
            None => Ok(()),
            Some(_) => Err(self.reader.broken(field.span.start, &"a second raw data of the same tensor begins")),
        }
    }

    fn typed(&mut self, field: &Field, draft: &mut Draft) -> Result<(), FormatError> {
        let piece = match field.value {
            Value::Bytes(span) | Value::Fixed(span) => span,
            Value::Varint(_) => Span { start: field.prefix, end: field.span.end },
            Value::Group => return Err(self.reader.unexpected(field)),
        };
        if piece.start == piece.end {
            return Ok(());
        }
        self.charge::<[Span; 2]>(1)?;
        let (number, pieces) = draft.typed.get_or_insert((field.number, Vec::new()));
        if *number != field.number {
            return Err(self.reader.broken(field.span.start, &"data of a second type of the same tensor begins"));
        }
        pieces.push(piece);
        Ok(())
    }

    fn elements(&self, draft: &Draft) -> Result<u64, FormatError> {
        let product = if draft.dims.contains(&0) {
            Some(0)
        } else {
            draft.dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim))
        };
        product
            .filter(|&elements| elements <= i64::MAX.cast_unsigned() / 16)
            .ok_or_else(|| self.wrong(draft, &format!("its dimensions {:?} overflow", draft.dims)))
    }

    fn data(&mut self, draft: &Draft, elements: u64) -> Result<Data, FormatError> {
        let held = [draft.raw.is_some(), draft.typed.is_some(), draft.strings > 0, draft.external];
        match held.iter().filter(|&&held| held).count() {
            0 if elements == 0 || !draft.element.is_known() => Ok(Data::None),
            0 => Err(self.wrong(draft, &format!("it has no data for its dimensions {:?}", draft.dims))),
            1 => self.only_data(draft, elements),
            _ => Err(self.wrong(draft, "it has its data in two places")),
        }
    }

    fn only_data(&mut self, draft: &Draft, elements: u64) -> Result<Data, FormatError> {
        if draft.external {
            return self.pointer(draft).map(Data::Pointer);
        }
        if let Some(raw) = draft.raw {
            let expected = draft.element.raw_bytes(elements);
            self.expect(draft, "bytes of raw data", raw.len(), expected)?;
            return Ok(Data::Raw(raw));
        }
        let expected = draft.element.typed(elements);
        let Some((field, pieces)) = &draft.typed else {
            self.expect(draft, "strings", draft.strings, expected.map(|expected| expected.entries))?;
            return Ok(Data::None);
        };
        if expected.is_some_and(|expected| expected.field != *field) {
            let problem = format!("field {field} holds its data, where {} has another", draft.element);
            return Err(self.wrong(draft, &problem));
        }
        let found = self.count(draft, *field, pieces)?;
        self.expect(draft, "numbers", found, expected.map(|expected| expected.entries))?;
        Ok(Data::Typed(pieces.as_slice().into()))
    }

    fn count(&mut self, draft: &Draft, field: u32, pieces: &[Span]) -> Result<u64, FormatError> {
        let width = match field {
            tensor::FLOATS => 4,
            tensor::DOUBLES => 8,
            _ => return pieces.iter().map(|&piece| self.reader.count_varints(piece)).sum(),
        };
        if pieces.iter().any(|piece| piece.len() % width != 0) {
            return Err(self.wrong(draft, "its last number is cut short"));
        }
        Ok(pieces.iter().map(|piece| piece.len() / width).sum())
    }

    fn expect(&self, draft: &Draft, what: &str, found: u64, expected: Option<u64>) -> Result<(), FormatError> {
        match expected {
            Some(expected) if expected != found => {
                let Draft { dims, element, .. } = draft;
                let problem = format!("it has {found} {what}, where {element} of dimensions {dims:?} takes {expected}");
                Err(self.wrong(draft, &problem))
            }
            _ => Ok(()),
        }
    }

    fn pointer(&mut self, draft: &Draft) -> Result<Pointer, FormatError> {
        let (mut location, mut offset, mut length) = (None, None, None);
        for [key, value] in &draft.pointer {
            let twice = match key.as_str() {
                "location" => location.replace(self.intern(value)?).is_some(),
                "offset" => offset.replace(self.position(draft, key, value)?).is_some(),
                "length" => length.replace(self.position(draft, key, value)?).is_some(),
                "checksum" | "basepath" => false,
                _ => return Err(self.wrong(draft, &format!("its external data has the key {}", Name::new(key)))),
            };
            if twice {
                return Err(self.wrong(draft, &format!("its external data has two keys {key}")));
            }
        }
        let location = location.ok_or_else(|| self.wrong(draft, "its external data has no location"))?;
        Ok(Pointer { location, offset: offset.unwrap_or(0), length })
    }

    fn position(&self, draft: &Draft, key: &str, value: &str) -> Result<u64, FormatError> {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        value.parse().ok().filter(|_| digits).ok_or_else(|| {
            self.wrong(draft, &format!("the {key} of its external data is `{}`, not a number", Name::new(value)))
        })
    }

    fn wrong(&self, draft: &Draft, problem: &str) -> FormatError {
        let name = Name::new(self.structure.text(draft.name));
        self.reader.wrong(format!("tensor {name}: {problem}"))
    }
}
