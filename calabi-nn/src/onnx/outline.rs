//! The main graph of an ONNX file in outline: which nodes and initializers it has, and where they stand in the file.
//!
//! Field numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use std::ops::Range;

use calabi_api::Window;

use crate::wire::{Field, fields, text};

/// The main graph of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// The graph's field in the model, tag and length included.
    pub(crate) field: Range<usize>,
    /// What the graph holds.
    pub(crate) content: Range<usize>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) initializers: Vec<Initializer>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its field in the graph, tag and length included.
    pub(crate) field: Range<usize>,
    /// What it holds.
    pub(crate) content: Range<usize>,
    pub(crate) op: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    /// Whether `transA` and `transB` are set.
    transposes: [bool; 2],
}

/// An initializer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Initializer {
    /// Its field in the graph, tag and length included.
    pub(crate) field: Range<usize>,
    pub(crate) name: String,
    /// The file that holds its data, where that is another one.
    pub(crate) location: Option<String>,
}

/// Where a layer's weight enters its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The name of the weight as the node reads it.
    pub(crate) weight: String,
    /// Whether the node reads it as `n × m`.
    pub(crate) turned: bool,
    /// Whether the node multiplies it from the left: its outputs then lie along the last axis but one.
    pub(crate) left: bool,
    /// Whether the features of what is read lie along its last axis.
    pub(crate) features_last: bool,
    /// The kernel of a convolution; none of a product.
    pub(crate) kernel: Vec<usize>,
}

impl Outline {
    /// The outline of a model of these bytes.
    pub(crate) fn parse(model: &[u8]) -> Result<Self, String> {
        let mut graphs = fields(model, 0..model.len()).filter(|f| f.as_ref().map_or(true, |f| f.number == 7));
        let Some(graph) = graphs.next().transpose()? else { return Err("it has no graph".to_owned()) };
        if graphs.next().is_some() {
            return Err("it has several graphs".to_owned());
        }
        let content = graph.content.clone().ok_or("its graph is no message")?;
        let mut outline =
            Self { field: graph.whole, content: content.clone(), nodes: Vec::new(), initializers: Vec::new() };
        for field in fields(model, content) {
            let field = field?;
            match field.number {
                1 => outline.nodes.push(Node::parse(model, &field)?),
                5 => outline.initializers.push(Initializer::parse(model, &field)?),
                _ => {}
            }
        }
        Ok(outline)
    }

    /// The node that gives a value.
    pub(crate) fn giver(&self, value: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.outputs.iter().any(|output| output == value))
    }

    /// The nodes that read a value, once for each input that does.
    pub(crate) fn readers(&self, value: &str) -> usize {
        self.nodes.iter().flat_map(|node| &node.inputs).filter(|input| *input == value).count()
    }

    /// The files beside the model that hold data of its initializers.
    pub(crate) fn locations(&self) -> Vec<&str> {
        let mut locations: Vec<_> = self.initializers.iter().filter_map(|i| i.location.as_deref()).collect();
        locations.sort_unstable();
        locations.dedup();
        locations
    }
}

impl Node {
    fn parse(model: &[u8], field: &Field) -> Result<Self, String> {
        let content = field.content.clone().ok_or("a node is no message")?;
        let mut node = Self {
            field: field.whole.clone(),
            content: content.clone(),
            op: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            transposes: [false; 2],
        };
        for part in fields(model, content) {
            let part = part?;
            match part.number {
                1 => node.inputs.push(text(model, &part)?),
                2 => node.outputs.push(text(model, &part)?),
                4 => node.op = text(model, &part)?,
                5 => node.attribute(model, &part)?,
                _ => {}
            }
        }
        Ok(node)
    }

    fn attribute(&mut self, model: &[u8], field: &Field) -> Result<(), String> {
        let (mut name, mut value) = (String::new(), 0);
        for part in fields(model, field.content.clone().ok_or("an attribute is no message")?) {
            let part = part?;
            match part.number {
                1 => name = text(model, &part)?,
                3 => value = part.value,
                _ => {}
            }
        }
        match name.as_str() {
            "transA" => self.transposes[0] = value != 0,
            "transB" => self.transposes[1] = value != 0,
            _ => {}
        }
        Ok(())
    }

    /// Where its weight enters, given the value that flows into it and what a convolution reads of that.
    pub(crate) fn place(&self, data: &str, window: Option<&Window>) -> Result<Place, String> {
        let gemm = match (self.op.as_str(), window) {
            ("MatMul", None) | ("Conv", Some(_)) => false,
            ("Gemm", None) => true,
            (op, None) => return Err(format!("it is a node {op}, not MatMul or Gemm")),
            (op, Some(_)) => return Err(format!("it is a node {op}, not Conv")),
        };
        let [a, b, ..] = self.inputs.as_slice() else { return Err("it has fewer than two inputs".to_owned()) };
        let [turned_a, turned_b] = self.transposes.map(|turned| turned && gemm);
        let kernel = window.map(|window| window.kernel.clone()).unwrap_or_default();
        let place = |weight: &String, turned, left, features_last| {
            Ok(Place { weight: weight.clone(), turned, left, features_last, kernel: kernel.clone() })
        };
        match (a == data, b == data) {
            (true, false) => place(b, !turned_b && window.is_none(), false, !turned_a),
            (false, true) if window.is_none() => place(a, turned_a, true, turned_b),
            _ => Err(format!("exactly one of its inputs has to be {}", crate::text::shown(data))),
        }
    }
}

impl Initializer {
    fn parse(model: &[u8], field: &Field) -> Result<Self, String> {
        let mut initializer = Self { field: field.whole.clone(), name: String::new(), location: None };
        for part in fields(model, field.content.clone().ok_or("an initializer is no message")?) {
            let part = part?;
            match part.number {
                8 => initializer.name = text(model, &part)?,
                13 => initializer.external(model, &part)?,
                _ => {}
            }
        }
        Ok(initializer)
    }

    fn external(&mut self, model: &[u8], field: &Field) -> Result<(), String> {
        let (mut key, mut value) = (String::new(), String::new());
        for part in fields(model, field.content.clone().ok_or("an entry is no message")?) {
            let part = part?;
            match part.number {
                1 => key = text(model, &part)?,
                2 => value = text(model, &part)?,
                _ => {}
            }
        }
        if key == "location" {
            self.location = Some(value);
        }
        Ok(())
    }
}
