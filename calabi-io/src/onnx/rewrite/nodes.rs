//! The two nodes in the place of one: each reads a factor, and an inner value flows from the first to the second.

use calabi_api::FormatError;
use prost::Message;

use super::bias::NewBias;
use super::factors::{Halves, Stored};
use super::{Rewrite, Target};
use crate::onnx::fields::{attribute, function, graph, node};
use crate::onnx::names::NameId;
use crate::onnx::reads::{Kind, Read};
use crate::onnx::schema;
use crate::onnx::separable::Along;
use crate::onnx::splice::{Piece, message};
use crate::onnx::stores::Form;
use crate::onnx::structure::{GraphId, Node, Place};
use crate::onnx::wire::Field;

/// A change of an attribute.
struct Amended {
    name: String,
    /// What stands in its place, if anything.
    new: Option<schema::Attribute>,
}

impl Amended {
    fn dropped(name: &str) -> Self {
        Self { name: name.to_owned(), new: None }
    }
}

impl From<schema::Attribute> for Amended {
    fn from(new: schema::Attribute) -> Self {
        Self { name: new.name.clone(), new: Some(new) }
    }
}

impl Rewrite<'_> {
    /// Lets a node that reads a weight read its factors, and a new bias if it is a convolution.
    pub(super) fn read(
        &mut self,
        target: &Target<'_>,
        read: &Read,
        halves: &Halves,
        bias: Option<&NewBias>,
    ) -> Result<(), FormatError> {
        let structure = &self.model.structure;
        let output = structure.node(read.at).outputs.first().copied().unwrap_or(NameId::NONE);
        let inner = self.fresh.name(structure.text(output), "inner");
        let [first, second] = read.forms().map(|form| self.factor(target, read, halves, &form));
        if matches!(read.kind, Kind::Conv | Kind::SeparableConv(_) | Kind::Gather) {
            self.node_behind(read, [&first, &second], &inner, bias)?;
        } else {
            self.node_before(read, &first, &inner);
            self.second_node(read, &second, &inner)?;
        }
        self.inner_value(read, target.rank, &inner)
    }

    /// What a factor is called as a node reads it: behind nodes that scale, turn or convert it where it is stored otherwise.
    fn factor(&mut self, target: &Target<'_>, read: &Read, halves: &Halves, form: &Form) -> String {
        let Stored { name, form: stored, integers } = halves.get(form.half);
        let mut name = name.clone();
        if let Some((scales, axis)) = integers {
            let axis = vec![schema::Attribute::of_integer("axis", *axis)];
            name = self.derived(read, (&name, Some(scales)), "scaled", "DequantizeLinear", axis);
        }
        if stored.flipped != form.flipped {
            name = self.derived(read, (&name, None), "turned", "Transpose", Vec::new());
        }
        if target.site.element != read.element {
            let to = vec![schema::Attribute::of_integer("to", read.element.0)];
            name = self.derived(read, (&name, None), "cast", "Cast", to);
        }
        name
    }

    /// What a node makes of constants, once in a graph; called after the first.
    fn derived(
        &mut self,
        read: &Read,
        (first, second): (&str, Option<&str>),
        suffix: &'static str,
        operator: &str,
        attribute: Vec<schema::Attribute>,
    ) -> String {
        let key = (read.at.graph, first.to_owned(), suffix);
        if let Some(name) = self.made.get(&key) {
            return name.clone();
        }
        let name = self.fresh.name(first, suffix);
        let new = schema::Node {
            input: std::iter::once(first).chain(second).map(str::to_owned).collect(),
            output: vec![name.clone()],
            operator: operator.to_owned(),
            attribute,
            ..Default::default()
        };
        self.insert_before(read, &new);
        self.made.insert(key, name.clone());
        name
    }

    /// The node that the data meets first, before the original one.
    fn node_before(&mut self, read: &Read, factor: &str, inner: &str) {
        let structure = &self.model.structure;
        let node = structure.node(read.at);
        let text = |name: NameId| structure.text(name).to_owned();
        let mut input = vec![String::new(); 2];
        factor.clone_into(&mut input[read.slot]);
        input[1 - read.slot] = node.inputs.get(1 - read.slot).map(|&data| text(data)).unwrap_or_default();
        let (operator, attribute) = match &read.kind {
            &Kind::Gemm { weight, data, optional_bias: true } => (text(node.operator), flags(read.slot, weight, data)),
            Kind::Einsum(einsum) => {
                (text(node.operator), vec![schema::Attribute::of_text("equation", &einsum.first())])
            }
            Kind::ConvTranspose => ("Conv".to_owned(), pointwise(read)),
            _ => ("MatMul".to_owned(), Vec::new()),
        };
        let first = schema::Node {
            input,
            output: vec![inner.to_owned()],
            name: self.node_name(node, "right"),
            operator,
            attribute,
            domain: text(node.domain),
        };
        self.insert_before(read, &first);
    }

    /// The original node, reading the inner value by the factor that the data meets last.
    fn second_node(&mut self, read: &Read, factor: &str, inner: &str) -> Result<(), FormatError> {
        let amended = match &read.kind {
            Kind::Gemm { data: true, .. } => vec![Amended::dropped(flag_name(1 - read.slot))],
            Kind::Einsum(einsum) => vec![schema::Attribute::of_text("equation", &einsum.second()).into()],
            _ => Vec::new(),
        };
        let mut inputs = [inner, inner];
        inputs[read.slot] = factor;
        self.amend_node(self.model.structure.node(read.at), &inputs.map(Some), None, amended)
    }

    /// The original node reads the data by the first factor; one behind it gives its output by the second.
    fn node_behind(
        &mut self,
        read: &Read,
        [first, second]: [&str; 2],
        inner: &str,
        bias: Option<&NewBias>,
    ) -> Result<(), FormatError> {
        let structure = &self.model.structure;
        let node = structure.node(read.at);
        let text = |name: &NameId| structure.text(*name).to_owned();
        let data = node.inputs.get(1 - read.slot).map(text).unwrap_or_default();
        let mut inputs = [Some(data.as_str()), Some(data.as_str()), None];
        inputs[read.slot] = Some(first);
        let (amended, attribute) = match &read.kind {
            Kind::SeparableConv(axes) => {
                let mut amended: Vec<Amended> = axes.attributes(Along::Columns).into_iter().map(Into::into).collect();
                if amended.iter().all(|amended| amended.name != "pads") {
                    amended.push(Amended::dropped("pads"));
                }
                (amended, axes.attributes(Along::Rows))
            }
            Kind::Conv => (Vec::new(), pointwise(read)),
            _ => (Vec::new(), Vec::new()),
        };
        self.amend_node(node, &inputs, Some(inner), amended)?;
        let convolves = read.kind != Kind::Gather;
        let former = node.inputs.get(2).filter(|&&bias| bias != NameId::NONE).map(text);
        let own = bias.filter(|bias| bias.plain.is_none()).map(|bias| bias.name.clone());
        let third = own.or(former).filter(|_| convolves);
        let plain = bias.and_then(|bias| bias.plain.clone());
        let behind = schema::Node {
            input: [inner.to_owned(), second.to_owned()].into_iter().chain(third).collect(),
            output: plain.or_else(|| node.outputs.first().map(text)).into_iter().collect(),
            name: self.node_name(node, "left"),
            operator: if convolves { text(&node.operator) } else { "MatMul".to_owned() },
            attribute,
            domain: text(&node.domain),
        };
        let pieces = vec![Piece::Bytes(message(self.node_field(read.at.graph), &behind.encode_to_vec()))];
        let end = structure.frame(node.frame).span().end;
        self.splice.append(Some(structure.graph(read.at.graph).frame), end, pieces);
        Ok(())
    }

    /// Gives a node other inputs, those that are none being dropped, another output, or another attribute.
    fn amend_node(
        &mut self,
        node: &Node,
        inputs: &[Option<&str>],
        output: Option<&str>,
        mut amended: Vec<Amended>,
    ) -> Result<(), FormatError> {
        let (mut seen, mut given) = (0, false);
        let mut rest = self.model.structure.frame(node.frame).body;
        while let Some(field) = self.reader.next(&mut rest)? {
            let new = match field.number {
                node::INPUT => {
                    seen += 1;
                    let Some(input) = inputs.get(seen - 1) else { continue };
                    input.map(|input| message(node::INPUT, input.as_bytes()))
                }
                node::OUTPUT if !given => {
                    given = true;
                    let Some(output) = output else { continue };
                    Some(message(node::OUTPUT, output.as_bytes()))
                }
                node::ATTRIBUTE => {
                    let name = self.attribute_name(&field)?;
                    let Some(amended) = amended.iter_mut().find(|it| Some(&it.name) == name.as_ref()) else { continue };
                    amended.new.take().map(|new| message(node::ATTRIBUTE, &new.encode_to_vec()))
                }
                _ => continue,
            };
            self.splice.replace(Some(node.frame), field.span, new.map(Piece::Bytes).into_iter().collect());
        }
        let added = amended.into_iter().filter_map(|amended| amended.new);
        let added: Vec<_> = added.map(|new| Piece::Bytes(message(node::ATTRIBUTE, &new.encode_to_vec()))).collect();
        if !added.is_empty() {
            self.splice.insert(Some(node.frame), self.model.structure.frame(node.frame).body.end, added);
        }
        Ok(())
    }

    fn attribute_name(&mut self, field: &Field) -> Result<Option<String>, FormatError> {
        let mut rest = self.reader.bytes(field)?;
        let mut name = None;
        while let Some(field) = self.reader.next(&mut rest)? {
            if field.number == attribute::NAME {
                name = Some(self.reader.text(&field)?);
            }
        }
        Ok(name)
    }

    fn insert_before(&mut self, read: &Read, new: &schema::Node) {
        let structure = &self.model.structure;
        let bytes = message(self.node_field(read.at.graph), &new.encode_to_vec());
        let before = structure.frame(structure.node(read.at).frame).start;
        self.splice.insert(Some(structure.graph(read.at.graph).frame), before, vec![Piece::Bytes(bytes)]);
    }

    /// A name for a node beside another; none where that has none.
    pub(super) fn node_name(&mut self, node: &Node, suffix: &str) -> String {
        if node.name == NameId::NONE {
            return String::new();
        }
        self.fresh.name(self.model.structure.text(node.name), suffix)
    }

    /// The number of the field that holds a graph's nodes.
    pub(super) fn node_field(&self, id: GraphId) -> u32 {
        match self.model.structure.graph(id).place {
            Place::Function(_) => function::NODE,
            _ => graph::NODE,
        }
    }
}

/// What a convolution over single places says: all of it, as some runtimes want.
fn pointwise(read: &Read) -> Vec<schema::Attribute> {
    let axes = read.dims.len().saturating_sub(2);
    let ones = |name| schema::Attribute::of_integers(name, vec![1; axes]);
    let pads = schema::Attribute::of_integers("pads", vec![0; 2 * axes]);
    vec![ones("dilations"), schema::Attribute::of_integer("group", 1), ones("kernel_shape"), pads, ones("strides")]
}

fn flag_name(slot: usize) -> &'static str {
    if slot == 0 { "transA" } else { "transB" }
}

fn flags(slot: usize, weight: bool, data: bool) -> Vec<schema::Attribute> {
    let set = [(slot, weight), (1 - slot, data)].into_iter().filter(|(_, set)| *set);
    set.map(|(slot, _)| schema::Attribute::of_integer(flag_name(slot), 1)).collect()
}
