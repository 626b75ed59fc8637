//! The small messages that are written anew, or read whole: as little of onnx.proto as that needs.
//!
//! Messages that are kept are never encoded from these: prost drops the fields that it does not know.

use prost::Message;

use super::element::ElementType;

/// `NodeProto`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) operator: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub(crate) domain: String,
}

/// `AttributeProto` that holds integers or a text, or whose tensor is written behind it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int64, optional, tag = "3")]
    pub(crate) integer: Option<i64>,
    #[prost(string, optional, tag = "4")]
    pub(crate) text: Option<String>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(crate) integers: Vec<i64>,
    /// `AttributeType`
    #[prost(int32, tag = "20")]
    pub(crate) kind: i32,
}

impl Attribute {
    /// `TENSOR`
    pub(crate) const TENSOR: i32 = 4;

    pub(crate) fn of_integer(name: &str, value: i64) -> Self {
        Self { name: name.to_owned(), integer: Some(value), kind: 2, ..Self::default() }
    }

    pub(crate) fn of_text(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), text: Some(value.to_owned()), kind: 3, ..Self::default() }
    }

    pub(crate) fn of_integers(name: &str, values: Vec<i64>) -> Self {
        Self { name: name.to_owned(), integers: values, kind: 7, ..Self::default() }
    }
}

/// `TensorProto` without its data.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(crate) data_type: i32,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "13")]
    pub(crate) external: Vec<Entry>,
    /// `EXTERNAL` is 1.
    #[prost(int32, optional, tag = "14")]
    pub(crate) location: Option<i32>,
}

/// `StringStringEntryProto`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

impl Entry {
    pub(crate) fn new(key: &str, value: impl ToString) -> Self {
        Self { key: key.to_owned(), value: value.to_string() }
    }
}

/// `ValueInfoProto`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) kind: Option<Type>,
}

impl Value {
    /// A tensor of these dimensions.
    pub(crate) fn of(name: &str, element: ElementType, dims: &[u64]) -> Self {
        let dims = dims.iter().map(|&dim| Dimension { value: i64::try_from(dim).ok(), parameter: None }).collect();
        let element = i32::try_from(element.0).unwrap_or_default();
        let tensor = TensorType { element, shape: Some(TensorShape { dims }) };
        Self { name: name.to_owned(), kind: Some(Type { tensor: Some(tensor) }) }
    }
}

/// `TypeProto` of a tensor.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Type {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor: Option<TensorType>,
}

/// `TypeProto.Tensor`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(crate) element: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<TensorShape>,
}

/// `TensorShapeProto`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorShape {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dims: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub(crate) value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(crate) parameter: Option<String>,
}
