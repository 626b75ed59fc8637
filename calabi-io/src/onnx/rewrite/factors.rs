//! The two factors of a weight: what they are called, how they are stored, and where.

use calabi_api::FormatError;
use prost::Message;

use super::{Place, Rewrite, Slot, Target};
use crate::onnx::constants::Origin;
use crate::onnx::element::ElementType;
use crate::onnx::fields::{attribute, graph, node, tensor};
use crate::onnx::schema;
use crate::onnx::splice::{Piece, message, message_with_hole, nested};
use crate::onnx::stores::{Form, Half};
use crate::onnx::structure::{At, Data};

/// A factor that will be a tensor of the model.
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) form: Form,
    /// What its scales are called, and the axis of its rows, if it is stored as integers.
    pub(super) integers: Option<(String, i64)>,
}

/// Both factors of a tensor.
pub(super) struct Halves {
    a: Stored,
    b: Stored,
}

impl Halves {
    pub(super) fn get(&self, half: Half) -> &Stored {
        match half {
            Half::A => &self.a,
            Half::B => &self.b,
        }
    }
}

/// A new tensor: its name, dimensions and type.
pub(super) struct NewTensor<'a> {
    pub(super) name: &'a str,
    pub(super) dims: &'a [u64],
    pub(super) element: ElementType,
}

impl Rewrite<'_> {
    /// Names for the factors of a target.
    pub(super) fn halves(&mut self, target: &Target<'_>) -> Result<Halves, FormatError> {
        let site = target.site;
        let structure = &self.model.structure;
        let [a, b] = site.stores().map_err(FormatError::Misuse)?;
        let base = structure.text(site.name(structure));
        let [right, left] = ["right", "left"].map(|suffix| self.fresh.name(base, suffix));
        let [of_a, of_b] = if site.transposed { [right, left] } else { [left, right] };
        let [axis_of_a, axis_of_b] = target.integers.map_or([None; 2], |axes| axes.map(Some));
        let mut stored = |name: String, form, axis: Option<i64>| {
            let integers = axis.map(|axis| (self.fresh.name(&name, "scale"), axis));
            Stored { name, form, integers }
        };
        Ok(Halves { a: stored(of_a, a, axis_of_a), b: stored(of_b, b, axis_of_b) })
    }

    /// Makes room for the right factor, then the left one.
    pub(super) fn factors(
        &mut self,
        target: &Target<'_>,
        halves: &Halves,
        pieces: &mut Vec<Piece>,
    ) -> Result<[Slot; 2], FormatError> {
        let site = target.site;
        let weight = self.model.structure.tensor(site.tensor);
        let outside = self.outside && matches!(site.origin, Origin::Initializer(_));
        let outside = outside || matches!(weight.data, Data::External(..));
        let mut slots = Vec::new();
        for half in right_then_left(target) {
            let Stored { name, form, integers } = halves.get(half);
            let dims = form.dims(target.rank.get());
            let element = if integers.is_some() { ElementType::INT8 } else { site.element };
            let place = self.new_tensor(target, &NewTensor { name, dims: &dims, element }, outside, pieces)?;
            let mut scales = None;
            if let Some((name, axis)) = integers {
                let rows = usize::try_from(*axis).ok().and_then(|axis| dims.get(axis)).copied().unwrap_or_default();
                let tensor = NewTensor { name, dims: &[rows], element: site.element };
                scales = Some(self.new_tensor(target, &tensor, outside, pieces)?);
            }
            slots.push(Slot { transposed: site.transposed != form.flipped, kernel: form.kernel, place, scales });
        }
        Ok([slots[0], slots[1]])
    }

    /// A new tensor beside a weight, an initializer or in a `Constant` as that is, whose data is written later, in the
    /// model or outside.
    pub(super) fn new_tensor(
        &mut self,
        target: &Target<'_>,
        new: &NewTensor<'_>,
        outside: bool,
        pieces: &mut Vec<Piece>,
    ) -> Result<Place, FormatError> {
        let layer = target.layer;
        let elements = new.dims.iter().try_fold(1_u64, |length, &dim| length.checked_mul(dim));
        let length = elements.and_then(|elements| new.element.raw_bytes(elements));
        let length =
            length.ok_or_else(|| FormatError::Misuse(format!("the factors of {} are too large", layer.name)))?;
        let mut tensor = schema::Tensor {
            dims: new.dims.iter().map(|dim| dim.cast_signed()).collect(),
            data_type: i32::try_from(new.element.0).unwrap_or_default(),
            name: new.name.to_owned(),
            external: Vec::new(),
            location: None,
        };
        let place = if outside {
            let position = self.store.place(length)?;
            self.stored = true;
            tensor.external = self.store.entries(position, length);
            tensor.location = Some(1);
            Place::Store(position)
        } else {
            Place::Hole(self.hole())
        };
        let encoded = |number| match place {
            Place::Store(_) => vec![Piece::Bytes(message(number, &tensor.encode_to_vec()))],
            Place::Hole(hole) => message_with_hole(number, &tensor.encode_to_vec(), tensor::RAW, hole, length),
        };
        match target.site.origin {
            Origin::Node(at) => {
                let held = encoded(attribute::TENSOR);
                pieces.extend(self.constant(at, new.name, held));
            }
            Origin::Initializer(_) | Origin::Sparse => pieces.extend(encoded(graph::INITIALIZER)),
        }
        Ok(place)
    }

    /// A `Constant` beside another, of a tensor's field.
    fn constant(&mut self, at: At, name: &str, tensor: Vec<Piece>) -> Vec<Piece> {
        let former = self.model.structure.node(at);
        let suffix = name.rsplit('.').next().unwrap_or("factor");
        let head =
            schema::Attribute { name: "value".to_owned(), kind: schema::Attribute::TENSOR, ..Default::default() };
        let attribute = nested(node::ATTRIBUTE, head.encode_to_vec(), tensor);
        let head = schema::Node {
            output: vec![name.to_owned()],
            name: self.node_name(former, suffix),
            operator: "Constant".to_owned(),
            domain: self.model.structure.text(former.domain).to_owned(),
            ..Default::default()
        };
        nested(self.node_field(at.graph), head.encode_to_vec(), attribute)
    }

    /// Puts these pieces in the place of a weight.
    pub(super) fn replace_weight(&mut self, target: &Target<'_>, pieces: Vec<Piece>) {
        let structure = &self.model.structure;
        let site = target.site;
        self.removed.insert(site.tensor);
        let (graph, frame) = match site.origin {
            Origin::Node(at) => {
                self.gone.insert(at);
                (at.graph, structure.node(at).frame)
            }
            Origin::Initializer(graph) => (graph, structure.tensor(site.tensor).frame),
            Origin::Sparse => return,
        };
        self.splice.replace(Some(structure.graph(graph).frame), structure.frame(frame).span(), pieces);
    }

    /// Lists factors as inputs of the model, in the place of a weight that is.
    pub(super) fn list_as_inputs(&mut self, target: &Target<'_>, halves: &Halves) {
        let structure = &self.model.structure;
        if target.site.origin != Origin::Initializer(structure.main) {
            return;
        }
        let name = target.site.name(structure);
        let Some(listed) = self.main.inputs.iter().find(|input| input.name == name) else { return };
        let values = right_then_left(target).map(|half| {
            let Stored { name, form, .. } = halves.get(half);
            let value = schema::Value::of(name, target.site.element, &form.dims(target.rank.get()));
            Piece::Bytes(message(graph::INPUT, &value.encode_to_vec()))
        });
        self.splice.replace(Some(self.main.frame), structure.frame(listed.frame).span(), values.into());
    }
}

fn right_then_left(target: &Target<'_>) -> [Half; 2] {
    if target.site.transposed { [Half::A, Half::B] } else { [Half::B, Half::A] }
}
