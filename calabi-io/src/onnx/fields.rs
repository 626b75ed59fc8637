//! The numbers of the fields of ONNX's messages that matter here, by message (onnx.proto, IR version 14).

macro_rules! fields {
    ($($(#[$doc:meta])* $message:ident { $($field:ident = $number:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        pub(crate) mod $message {
            $(pub(crate) const $field: u32 = $number;)+
        }
    )+};
}

fields! {
    /// `ModelProto`
    model { IR_VERSION = 1, GRAPH = 7, OPSET = 8, METADATA = 14, TRAINING = 20, FUNCTION = 25 }
    /// `OperatorSetIdProto`
    opset { DOMAIN = 1, VERSION = 2 }
    /// `GraphProto`
    graph { NODE = 1, INITIALIZER = 5, INPUT = 11, OUTPUT = 12, VALUE = 13, ANNOTATION = 14, SPARSE = 15 }
    /// `NodeProto`
    node { INPUT = 1, OUTPUT = 2, NAME = 3, OPERATOR = 4, ATTRIBUTE = 5, DOMAIN = 7, DEVICE = 10 }
    /// `AttributeProto`
    attribute {
        NAME = 1, FLOAT = 2, INTEGER = 3, TEXT = 4, TENSOR = 5, GRAPH = 6, INTEGERS = 8, TENSORS = 10, GRAPHS = 11, TYPE = 14, TYPES = 15,
        SPARSE = 22, SPARSES = 23,
    }
    /// `TensorProto`
    tensor {
        DIMS = 1, DATA_TYPE = 2, FLOATS = 4, INT32S = 5, STRINGS = 6, INT64S = 7, NAME = 8, RAW = 9, DOUBLES = 10,
        UINT64S = 11, EXTERNAL = 13, LOCATION = 14,
    }
    /// `SparseTensorProto`
    sparse { VALUES = 1, INDICES = 2, DIMS = 3 }
    /// `ValueInfoProto`
    value { NAME = 1, TYPE = 2 }
    /// `TypeProto`
    type_of { SEQUENCE = 4, MAP = 5, OPTIONAL = 9 }
    /// `TypeProto.Sequence`, `TypeProto.Optional`; `TypeProto.Map` has its values' type at 2
    element { TYPE = 1, MAP_VALUE = 2 }
    /// `TensorAnnotation`
    annotation { TENSOR = 1, PARAMETERS = 2 }
    /// `FunctionProto`
    function { NAME = 1, OUTPUT = 5, NODE = 7, DOMAIN = 10, VALUE = 12 }
    /// `TrainingInfoProto`
    training { INITIALIZATION = 1, ALGORITHM = 2, INITIALIZATION_BINDING = 3, UPDATE_BINDING = 4 }
    /// `StringStringEntryProto`
    entry { KEY = 1, VALUE = 2 }
}

/// `TensorProto.DataLocation.EXTERNAL`
pub(crate) const EXTERNAL: i64 = 1;
