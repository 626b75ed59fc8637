//! What a model is made of, without its weights: messages and where they stand, graphs, nodes, tensors, names.

use std::collections::HashSet;

use super::element::ElementType;
use super::names::{NameId, Names};
use super::wire::Span;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) usize);
    )+};
}

ids! {
    /// A message of the file: an index into [`Structure::frames`].
    FrameId,
    /// An index into [`Structure::tensors`].
    TensorId,
    /// An index into [`Structure::graphs`].
    GraphId
}

/// Where a message stands: `key length body`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    /// Where its key begins.
    pub(crate) start: u64,
    /// Where its length begins.
    pub(crate) prefix: u64,
    /// Its fields.
    pub(crate) body: Span,
    /// The message that holds it; none is the model itself.
    pub(crate) parent: Option<FrameId>,
    /// How deep it is nested.
    pub(crate) depth: usize,
}

impl Frame {
    /// All of it, from its key on.
    pub(crate) fn span(&self) -> Span {
        Span { start: self.start, end: self.body.end }
    }
}

/// All that is known of a model.
#[derive(Debug)]
pub(crate) struct Structure {
    pub(crate) names: Names,
    pub(crate) frames: Vec<Frame>,
    pub(crate) tensors: Vec<Tensor>,
    /// The main graph, subgraphs, bodies of functions and training graphs, as they come.
    pub(crate) graphs: Vec<Graph>,
    /// Domain and name of each model-local function; the standard's domain has no name here.
    pub(crate) functions: HashSet<(NameId, NameId)>,
    /// The numbers in attributes that hold several.
    pub(crate) lists: Vec<Box<[i64]>>,
    /// Domain and version of each operator set.
    pub(crate) opsets: Vec<(NameId, i64)>,
    pub(crate) ir_version: i64,
    /// Values that training refers to.
    pub(crate) trained: Vec<NameId>,
    /// Keys of the model's metadata.
    pub(crate) metadata: Vec<NameId>,
    /// The graph of the model itself.
    pub(crate) main: GraphId,
}

/// Where a graph belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Main,
    /// In an attribute of a node of this name and operator.
    Subgraph {
        node: NameId,
        operator: NameId,
    },
    /// The body of a function of this name.
    Function(NameId),
    Training,
}

/// A graph, or the body of a function.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) frame: FrameId,
    pub(crate) place: Place,
    pub(crate) inputs: Vec<Value>,
    pub(crate) outputs: Vec<Value>,
    /// Types of values in between.
    pub(crate) values: Vec<Value>,
    pub(crate) initializers: Vec<TensorId>,
    pub(crate) sparse: Vec<TensorId>,
    /// Tensors with a quantisation annotation, and those that annotations name.
    pub(crate) annotated: Vec<NameId>,
    pub(crate) nodes: Vec<Node>,
}

/// A value's name, and where its `ValueInfoProto` stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value {
    pub(crate) name: NameId,
    pub(crate) frame: FrameId,
}

/// A node, by its graph and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) graph: GraphId,
    pub(crate) node: usize,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) frame: FrameId,
    pub(crate) name: NameId,
    pub(crate) operator: NameId,
    pub(crate) domain: NameId,
    pub(crate) inputs: Box<[NameId]>,
    pub(crate) outputs: Box<[NameId]>,
    pub(crate) attributes: Box<[Attribute]>,
    /// Subgraphs in its attributes.
    pub(crate) graphs: Box<[GraphId]>,
    /// Whether it says how it is spread over devices, which names its tensors.
    pub(crate) devices: bool,
}

/// An attribute of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute {
    pub(crate) name: NameId,
    pub(crate) value: AttributeValue,
}

/// What an attribute holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum AttributeValue {
    Integer(i64),
    Float(f32),
    /// An index into [`Structure::lists`].
    Integers(usize),
    Text(NameId),
    Tensor(TensorId),
    Other,
}

/// A tensor without its data.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) frame: FrameId,
    pub(crate) name: NameId,
    pub(crate) element: ElementType,
    pub(crate) dims: Box<[u64]>,
    /// The number of its elements: the product of `dims`.
    pub(crate) elements: u64,
    pub(crate) data: Data,
    /// The dimensions of the sparse tensor whose values these are.
    pub(crate) sparse: Option<Box<[u64]>>,
}

/// Where the data of a tensor is.
#[derive(Debug)]
pub(crate) enum Data {
    /// Nowhere that matters here: no elements, or strings.
    None,
    /// In the model file, as it would be in memory.
    Raw(Span),
    /// In the model file, in pieces of a typed field.
    Typed(Box<[Span]>),
    /// In another file, at first as the model says it, then as it was found.
    Pointer(Pointer),
    /// In another file: an index into the model's files, and where in it.
    External(usize, Span),
}

/// Where the model says that a tensor's data is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pointer {
    pub(crate) location: NameId,
    pub(crate) offset: u64,
    pub(crate) length: Option<u64>,
}

impl Tensor {
    /// The dimensions of the matrix that it stands for.
    pub(crate) fn shown_dims(&self) -> &[u64] {
        self.sparse.as_deref().unwrap_or(&self.dims)
    }
}

impl Structure {
    pub(crate) fn frame(&self, id: FrameId) -> &Frame {
        &self.frames[id.0]
    }

    pub(crate) fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    pub(crate) fn graph(&self, id: GraphId) -> &Graph {
        &self.graphs[id.0]
    }

    pub(crate) fn node(&self, at: At) -> &Node {
        &self.graph(at.graph).nodes[at.node]
    }

    pub(crate) fn text(&self, id: NameId) -> &str {
        self.names.text(id)
    }

    /// Whether the format wants every initializer to be an input as well: before IR version 4.
    pub(crate) fn lists_initializers(&self) -> bool {
        self.ir_version < 4
    }

    /// The values of an attribute, if the node has it. Some writers fill in the fields of all types.
    pub(crate) fn attribute<'n>(
        &self,
        node: &'n Node,
        name: &str,
    ) -> impl Iterator<Item = AttributeValue> + use<'_, 'n> {
        let id = self.names.find(name);
        node.attributes.iter().filter(move |attribute| Some(attribute.name) == id).map(|attribute| attribute.value)
    }

    /// The integer of an attribute.
    pub(crate) fn integer(&self, node: &Node, name: &str) -> Option<i64> {
        self.attribute(node, name).find_map(|value| match value {
            AttributeValue::Integer(value) => Some(value),
            _ => None,
        })
    }

    /// The integers of an attribute that holds several.
    pub(crate) fn integers(&self, node: &Node, name: &str) -> Option<&[i64]> {
        self.attribute(node, name).find_map(|value| match value {
            AttributeValue::Integers(list) => self.lists.get(list).map(|list| &**list),
            _ => None,
        })
    }

    /// The text of an attribute.
    pub(crate) fn attribute_text(&self, node: &Node, name: &str) -> Option<&str> {
        self.attribute(node, name).find_map(|value| match value {
            AttributeValue::Text(text) => Some(self.text(text)),
            _ => None,
        })
    }

    /// Whether a domain is that of the standard's own operators.
    pub(crate) fn is_standard(&self, domain: NameId) -> bool {
        matches!(self.text(domain), "" | "ai.onnx")
    }

    /// The version of the standard's own operators.
    pub(crate) fn opset(&self) -> i64 {
        self.opsets
            .iter()
            .filter(|(domain, _)| self.is_standard(*domain))
            .map(|(_, version)| *version)
            .max()
            .unwrap_or(1)
    }

    /// Whether a node calls a function of the model.
    pub(crate) fn calls_function(&self, node: &Node) -> bool {
        let domain = if self.is_standard(node.domain) { NameId::NONE } else { node.domain };
        self.functions.contains(&(domain, node.operator))
    }
}
