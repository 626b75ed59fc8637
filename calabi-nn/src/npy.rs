//! Arrays of numpy's `.npy` format, versions 1 to 3.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. The header is a Python dictionary with
//! three known keys; it is read by a scanner of its own, since a general parser of Python literals recurses as deep as
//! a file asks for.

use calabi_api::{DType, Tensor};
use ndarray::{ArrayD, IxDyn, ShapeBuilder};

use crate::text;

/// numpy's own limit.
const MOST_DIMENSIONS: usize = 64;

/// The array in these bytes, which hold it and nothing else, in C order.
///
/// Floating point becomes `f32` (`f64` is rounded), bytes and truth values `u8`, `i8`, `i16`, `u16` and `i32` become
/// `i32`, `u32` and `i64` become `i64`.
pub(crate) fn tensor(bytes: Vec<u8>) -> Result<Tensor, String> {
    let (text, start) = header_text(&bytes)?;
    let header = Header::parse(text)?;
    let data = header.data(bytes, start)?;
    header.decoded(&data)
}

/// The array of this type and shape in these bytes, which are little-endian, in C order, and hold nothing else.
pub(crate) fn plain(item: Item, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Tensor, String> {
    if shape.len() > MOST_DIMENSIONS {
        return Err(format!("it has more than {MOST_DIMENSIONS} dimensions"));
    }
    let header = Header { item, big_endian: false, fortran: false, shape };
    let data = header.data(bytes, 0)?;
    header.decoded(&data)
}

/// The header's text, and where the data begin.
fn header_text(bytes: &[u8]) -> Result<(&str, usize), String> {
    const NO_ARRAY: &str = "it is no array in numpy's .npy format";
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or(NO_ARRAY)?;
    let (length, before) = match *rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([a, b])), 10),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
        [1..=3, ..] => return Err("it ends inside its header".to_owned()),
        [version, ..] => return Err(format!("version {version} of the .npy format is not known")),
        [] => return Err(NO_ARRAY.to_owned()),
    };
    let end = before + length;
    let text = bytes.get(before..end).ok_or("it ends inside its header")?;
    Ok((std::str::from_utf8(text).map_err(|_| "its header is no text")?, end))
}

/// What the header says.
struct Header {
    item: Item,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
}

/// The type of one number.
#[derive(Clone, Copy)]
pub(crate) enum Item {
    Float(DType),
    Bool,
    U8,
    I8,
    U16,
    I16,
    I32,
    U32,
    I64,
}

impl Item {
    fn bytes(self) -> usize {
        match self {
            Self::Float(DType::F64) | Self::I64 => 8,
            Self::Float(DType::F32) | Self::I32 | Self::U32 => 4,
            Self::Float(DType::F16 | DType::BF16) | Self::I16 | Self::U16 => 2,
            Self::Bool | Self::U8 | Self::I8 => 1,
        }
    }

    /// The type that numpy calls `name`, without its byte order.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "f2" => Self::Float(DType::F16),
            "f4" => Self::Float(DType::F32),
            "f8" => Self::Float(DType::F64),
            "b1" => Self::Bool,
            "u1" => Self::U8,
            "i1" => Self::I8,
            "u2" => Self::U16,
            "i2" => Self::I16,
            "i4" => Self::I32,
            "u4" => Self::U32,
            "i8" => Self::I64,
            _ => return None,
        })
    }
}

impl Header {
    fn parse(text: &str) -> Result<Self, String> {
        let fields = Fields::parse(text)?;
        let (order, name) = fields.descr.split_at_checked(1).ok_or("its type has no name")?;
        let item = Item::named(name).filter(|_| "<>|=".contains(order)).ok_or_else(|| {
            format!("numbers of type {} are not read: store it as float32 or int64", text::shown(fields.descr))
        })?;
        Ok(Self { item, big_endian: order == ">", fortran: fields.fortran, shape: fields.shape })
    }

    /// The numbers' bytes, little-endian: exactly as many as the shape asks for.
    fn data(&self, mut bytes: Vec<u8>, start: usize) -> Result<Vec<u8>, String> {
        let size = self.item.bytes();
        let wanted = self.shape.iter().try_fold(size, |product, &dim| product.checked_mul(dim));
        let found = bytes.len() - start;
        if wanted != Some(found) {
            return Err(format!("its header asks for shape {}, its data are {found} bytes", text::shape(&self.shape)));
        }
        bytes.drain(..start);
        if self.big_endian {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }

    fn decoded(&self, data: &[u8]) -> Result<Tensor, String> {
        Ok(match self.item {
            Item::Float(dtype) => Tensor::F32(self.array(floats(dtype, data)?)?),
            Item::Bool if data.iter().any(|&b| b > 1) => return Err("a truth value is neither 0 nor 1".to_owned()),
            Item::Bool | Item::U8 => Tensor::U8(self.array(data.to_vec())?),
            Item::I8 => Tensor::I32(self.array(data.iter().map(|b| i32::from(b.cast_signed())).collect())?),
            Item::U16 => Tensor::I32(self.array(each(data, |b| i32::from(u16::from_le_bytes(b))))?),
            Item::I16 => Tensor::I32(self.array(each(data, |b| i32::from(i16::from_le_bytes(b))))?),
            Item::I32 => Tensor::I32(self.array(each(data, i32::from_le_bytes))?),
            Item::U32 => Tensor::I64(self.array(each(data, |b| i64::from(u32::from_le_bytes(b))))?),
            Item::I64 => Tensor::I64(self.array(each(data, i64::from_le_bytes))?),
        })
    }

    fn array<T: Clone>(&self, values: Vec<T>) -> Result<ArrayD<T>, String> {
        let shape = IxDyn(&self.shape);
        let array = if self.fortran {
            ArrayD::from_shape_vec(shape.f(), values).map(|array| array.as_standard_layout().into_owned())
        } else {
            ArrayD::from_shape_vec(shape, values)
        };
        array.map_err(|error| format!("its shape {} is refused: {error}", text::shape(&self.shape)))
    }
}

/// Every `N` bytes as a number.
fn each<const N: usize, T>(data: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect()
}

/// Floating point as `f32`; a finite number must stay finite.
fn floats(dtype: DType, data: &[u8]) -> Result<Vec<f32>, String> {
    let values: Vec<f32> = dtype.decode(data).collect();
    if dtype == DType::F64 {
        let wide = each(data, f64::from_le_bytes);
        if let Some((value, _)) = wide.iter().zip(&values).find(|(wide, value)| wide.is_finite() && !value.is_finite())
        {
            return Err(format!("{value:e} is out of the range of f32"));
        }
    }
    Ok(values)
}

/// The dictionary of a header: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
struct Fields<'a> {
    descr: &'a str,
    fortran: bool,
    shape: Vec<usize>,
}

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        let mut scanner = Scanner(text);
        scanner.expect("{")?;
        while !scanner.takes("}") {
            let key = scanner.string().ok_or("its header is no dictionary of names")?;
            scanner.expect(":")?;
            match key {
                "descr" => descr = Some(scanner.string().ok_or("it is a record: only plain numbers are read")?),
                "fortran_order" => fortran = Some(scanner.truth().ok_or("its fortran_order is no truth value")?),
                "shape" => shape = Some(scanner.shape()?),
                _ => return Err(format!("its header has an unknown key {}", text::shown(key))),
            }
            if !scanner.takes(",") {
                scanner.expect("}")?;
                break;
            }
        }
        match (descr, fortran, shape, scanner.0.trim()) {
            (Some(descr), Some(fortran), Some(shape), "") => Ok(Self { descr, fortran, shape }),
            (.., "") => Err("its header lacks one of descr, fortran_order and shape".to_owned()),
            _ => Err("its header goes on after its end".to_owned()),
        }
    }
}

/// Takes tokens from the front of a text.
struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    /// Whether the text goes on with this token, which is then taken.
    fn takes(&mut self, token: &str) -> bool {
        let rest = self.0.trim_start().strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.takes(token) { Ok(()) } else { Err(format!("its header lacks a `{token}`")) }
    }

    fn string(&mut self) -> Option<&'a str> {
        let quote = ["'", "\""].into_iter().find(|quote| self.takes(quote))?;
        let (string, rest) = self.0.split_once(quote)?;
        self.0 = rest;
        Some(string)
    }

    fn truth(&mut self) -> Option<bool> {
        [("True", true), ("False", false)].into_iter().find(|(token, _)| self.takes(token)).map(|(_, truth)| truth)
    }

    fn number(&mut self) -> Result<usize, String> {
        let text = self.0.trim_start();
        let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        self.0 = rest.strip_prefix('L').unwrap_or(rest); // Python 2 marked its long numbers
        digits.parse().map_err(|_| "its shape has a dimension that is no size".to_owned())
    }

    fn shape(&mut self) -> Result<Vec<usize>, String> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.takes(")") {
            if shape.len() == MOST_DIMENSIONS {
                return Err(format!("it has more than {MOST_DIMENSIONS} dimensions"));
            }
            shape.push(self.number()?);
            if !self.takes(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }
}
