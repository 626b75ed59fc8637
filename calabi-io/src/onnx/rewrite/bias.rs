//! The bias that factors bring: added to the model's own where there is one, else a tensor of its own.

use calabi_api::{FormatError, Name};
use prost::Message;

use super::factors::NewTensor;
use super::{BiasSlot, Place, Rewrite, SMALL, Target};
use crate::onnx::bias::{BROADCASTS, Bias};
use crate::onnx::fields::{graph, node, tensor};
use crate::onnx::names::NameId;
use crate::onnx::reads::Kind;
use crate::onnx::schema;
use crate::onnx::splice::{Piece, header, message};
use crate::onnx::structure::{Data, Node, TensorId};
use crate::onnx::wire::Span;

impl Target<'_> {
    /// The parameters of its factors, and of a bias that the model does not have.
    pub(crate) fn parameters(&self) -> u64 {
        let Self { layer, rank, bias, .. } = self;
        let new_bias = matches!(bias, Some(Bias::Input(_) | Bias::Behind));
        let rows = if new_bias { layer.shape.rows() as u64 } else { 0 };
        (layer.cost.per_rank * rank.get() as u64).parameters.saturating_add(rows)
    }
}

/// A bias that will be a tensor of its own.
pub(super) struct NewBias {
    pub(super) name: String,
    /// What the output is called before an `Add` behind the layer adds the bias, if one does.
    pub(super) plain: Option<String>,
    /// The tensor whose values it is added to.
    base: Option<TensorId>,
}

impl Rewrite<'_> {
    /// What a target's bias will be called, where it is a tensor of its own.
    pub(super) fn new_bias(&mut self, target: &Target<'_>) -> Option<NewBias> {
        let structure = &self.model.structure;
        let weight = structure.text(structure.tensor(target.site.tensor).name);
        let output = structure.node(target.site.primary().at).outputs.first().copied().unwrap_or(NameId::NONE);
        match target.bias? {
            Bias::Own(_) => None,
            Bias::Input(base) => Some(NewBias { name: self.fresh.name(weight, "bias"), plain: None, base }),
            Bias::Behind => {
                let plain = Some(self.fresh.name(structure.text(output), "unbiased"));
                Some(NewBias { name: self.fresh.name(weight, "bias"), plain, base: None })
            }
        }
    }

    /// Makes room for a bias that goes with the factors, and lets it be added.
    pub(super) fn add_bias(
        &mut self,
        target: &Target<'_>,
        new: &NewBias,
        pieces: &mut Vec<Piece>,
    ) -> Result<BiasSlot, FormatError> {
        let opset = self.model.structure.opset();
        if opset < BROADCASTS {
            let problem = format!("the model is of opset {opset}, whose operators do not broadcast a bias");
            return Err(unfit(target, &problem, "convert it to opset 13 with onnx.version_converter, or set no bias"));
        }
        let structure = &self.model.structure;
        let node = structure.node(target.site.primary().at);
        let output = node.outputs.first().copied().unwrap_or(NameId::NONE);
        let weight = structure.tensor(target.site.tensor);
        let dims = self.bias_dims(target, new, output)?;
        let outside = self.outside || matches!(weight.data, Data::External(..));
        let large = dims.iter().product::<u64>().saturating_mul(target.layer.dtype.bytes()) >= SMALL;
        let tensor = NewTensor { name: &new.name, dims: &dims, element: target.site.element };
        let place = self.new_tensor(target, &tensor, outside && large, pieces)?;
        // The last node of a convolution is one of ours, and knows of the bias.
        let convolves = target.site.primary().kind == Kind::Conv;
        match &new.plain {
            Some(plain) => self.add_behind(node, output, (plain, !convolves), &new.name)?,
            None if convolves => {}
            None => self.give_gemm(node, &new.name)?,
        }
        Ok(BiasSlot { place, base: new.base })
    }

    /// The dimensions of a bias that broadcasts along the output's features.
    fn bias_dims(&self, target: &Target<'_>, new: &NewBias, output: NameId) -> Result<Vec<u64>, FormatError> {
        let outputs = target.layer.shape.rows() as u64;
        let read = target.site.primary();
        if read.kind == Kind::Conv && new.plain.is_some() {
            return Ok(std::iter::once(outputs).chain(read.dims.iter().skip(2).map(|_| 1)).collect());
        }
        if read.slot == 1 {
            return Ok(vec![outputs]);
        }
        let rank = if read.kind == Kind::MatMul { self.rank(output)? } else { Some(2) };
        match rank {
            Some(1) => Ok(vec![outputs]),
            Some(_) => Ok(vec![outputs, 1]),
            None => {
                let problem = "the model does not say how many dimensions its output has";
                Err(unfit(target, problem, "write the shapes down with onnx.shape_inference, or set no bias"))
            }
        }
    }

    /// The number of dimensions of a value, where the model says it.
    fn rank(&self, value: NameId) -> Result<Option<usize>, FormatError> {
        let value = self.typed(self.model.structure.main, value)?;
        let shape = value.and_then(|value| value.kind?.tensor?.shape);
        Ok(shape.map(|shape| shape.dims.len()))
    }

    /// Lets a Gemm read this `C`.
    fn give_gemm(&mut self, node: &Node, name: &str) -> Result<(), FormatError> {
        let input = vec![Piece::Bytes(message(node::INPUT, name.as_bytes()))];
        match self.nth(node, node::INPUT, 2)? {
            Some(former) => self.splice.replace(Some(node.frame), former, input),
            None => self.splice.insert(Some(node.frame), self.model.structure.frame(node.frame).body.end, input),
        }
        Ok(())
    }

    /// Lets an `Add` give a node's output, of this bias and what then is called `plain`: by the node itself, if it is the
    /// one that gives it.
    fn add_behind(
        &mut self,
        node: &Node,
        output: NameId,
        (plain, gives): (&str, bool),
        bias: &str,
    ) -> Result<(), FormatError> {
        let structure = &self.model.structure;
        let text = |name: NameId| structure.text(name).to_owned();
        if let Some(former) = self.nth(node, node::OUTPUT, 0)?.filter(|_| gives) {
            let new = vec![Piece::Bytes(message(node::OUTPUT, plain.as_bytes()))];
            self.splice.replace(Some(node.frame), former, new);
        }
        let name = self.node_name(node, "bias");
        let add = schema::Node {
            input: vec![plain.to_owned(), bias.to_owned()],
            output: vec![text(output)],
            name,
            operator: "Add".to_owned(),
            attribute: Vec::new(),
            domain: text(node.domain),
        };
        let add = vec![Piece::Bytes(message(graph::NODE, &add.encode_to_vec()))];
        self.splice.append(Some(self.main.frame), structure.frame(node.frame).span().end, add);
        if let Some(value) = self.typed(structure.main, output)? {
            self.add_value(structure.main, &schema::Value { name: plain.to_owned(), ..value });
        }
        Ok(())
    }

    /// Where the `index`th field of this number stands in a node.
    fn nth(&mut self, node: &Node, number: u32, index: usize) -> Result<Option<Span>, FormatError> {
        let mut rest = self.model.structure.frame(node.frame).body;
        let mut seen = 0;
        while let Some(field) = self.reader.next(&mut rest)? {
            if field.number == number {
                if seen == index {
                    return Ok(Some(field.span));
                }
                seen += 1;
            }
        }
        Ok(None)
    }

    /// Makes room for other values of a tensor: where its data is, as far as they are stored alike.
    pub(super) fn amend(&mut self, id: TensorId, target: &Target<'_>) -> Result<Place, FormatError> {
        self.amended.insert(id);
        let model = self.model;
        let tensor = model.structure.tensor(id);
        match &tensor.data {
            &Data::Raw(data) if !self.leaves(id, data) => {
                let hole = self.hole();
                self.splice.replace(Some(tensor.frame), data, vec![Piece::Hole { id: hole, length: data.len() }]);
                Ok(Place::Hole(hole))
            }
            &Data::Raw(data) | &Data::External(_, data) => {
                let position = self.store.place(data.len())?;
                self.refer(tensor.frame, position, data.len())?;
                Ok(Place::Store(position))
            }
            Data::Typed(_) => {
                let frame = tensor.frame;
                self.drop_fields(frame, &[tensor::FLOATS, tensor::DOUBLES, tensor::INT32S])?;
                let length = tensor.elements.saturating_mul(target.layer.dtype.bytes());
                let hole = self.hole();
                let raw = vec![Piece::Bytes(header(tensor::RAW, length)), Piece::Hole { id: hole, length }];
                self.splice.insert(Some(frame), model.structure.frame(frame).body.end, raw);
                Ok(Place::Hole(hole))
            }
            Data::None | Data::Pointer(_) => {
                Err(FormatError::Misuse(format!("layer {}: its bias has no data", Name::new(&target.layer.name))))
            }
        }
    }
}

/// A bias that cannot be written, and the way out.
fn unfit(target: &Target<'_>, problem: &str, help: &str) -> FormatError {
    let name = Name::new(&target.layer.name);
    FormatError::limit(format!("layer {name}: its bias cannot be added: {problem}"), help)
}
