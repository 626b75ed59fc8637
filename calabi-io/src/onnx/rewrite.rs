//! Plans the rewritten model: every layer that is factorized becomes two nodes, all else stays as it is.

use std::collections::{HashMap, HashSet};

use calabi_api::{FormatError, Layer, Rank};
use prost::Message;
use serde_json::{Map, Value as Json, json};

use super::Model;
use super::bias::Bias;
use super::element::ElementType;
use super::fields::{attribute, graph, model, node, tensor};
use super::layers::{Kind, Site};
use super::names::{Fresh, NameId};
use super::schema;
use super::splice::{Layout, Piece, Splice, message, message_with_hole};
use super::store::{Origin, Store, data_file};
use super::structure::{Data, FrameId, Graph, Node, Tensor, TensorId};
use super::wire::{Field, Reader, Span};

mod bias;
mod values;

/// The largest model that protobuf's parsers take is 2 GiB less a byte; a margin for what tools add to it.
pub(crate) const LIMIT: u64 = (2 << 30) - (1 << 20);

/// Tensors below this size stay in the model when others leave it.
const SMALL: u64 = 1024;

/// The key of the model's metadata that says what was done.
const KEY: &str = "calabi";

/// A layer that is factorized.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) site: Site,
    pub(crate) rank: Rank,
    /// How the bias of the factors is added, where they bring one.
    pub(crate) bias: Option<Bias>,
}

/// What will stand where in the new files.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) layout: Layout,
    /// The file of external data, where there is one.
    pub(crate) store: Option<Store>,
    /// Where the factors of each target go, in order.
    pub(crate) factors: Vec<Slots>,
}

/// Where the factors of a target go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots {
    pub(crate) right: Slot,
    pub(crate) left: Slot,
    pub(crate) bias: Option<BiasSlot>,
}

/// Where a factor goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// Whether it is stored columns first.
    pub(crate) transposed: bool,
    pub(crate) place: Place,
}

/// Where a bias goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BiasSlot {
    pub(crate) place: Place,
    /// The tensor whose values it is added to.
    pub(crate) base: Option<TensorId>,
}

/// A place for data.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// A hole in the model file, by its id.
    Hole(usize),
    /// A position in the file of external data.
    Store(u64),
}

/// Plans a model in which these layers are factorized; `name` is what its file will be called.
pub(crate) fn plan(model: &Model, targets: &[Target<'_>], name: &str, limit: u64) -> Result<Plan, FormatError> {
    let inside = Rewrite::new(model, name, false).run(targets)?;
    if inside.layout.length <= limit {
        return Ok(inside);
    }
    let outside = Rewrite::new(model, name, true).run(targets)?;
    if outside.layout.length <= limit {
        return Ok(outside);
    }
    let length = outside.layout.length;
    let problem = format!("{name} would take {length} bytes without its large weights, and protobuf allows {limit}");
    Err(FormatError::limit(problem, "export the model in parts"))
}

struct Rewrite<'m> {
    model: &'m Model,
    main: &'m Graph,
    reader: Reader<'m>,
    fresh: Fresh<'m>,
    splice: Splice,
    store: Store,
    /// Whether external data is written.
    stored: bool,
    /// Whether all large weights leave the model file.
    outside: bool,
    removed: HashSet<TensorId>,
    /// Tensors that keep their place and get other values.
    amended: HashSet<TensorId>,
    holes: usize,
    /// Where the types of the main graph's values stand.
    types: HashMap<NameId, FrameId>,
}

/// One of the two matrices of a target, as it will be stored.
struct Factor<'a> {
    name: &'a str,
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'m> Rewrite<'m> {
    fn new(model: &'m Model, name: &str, outside: bool) -> Self {
        let main = model.structure.graph(model.structure.main);
        let values = main.values.iter().chain(&main.outputs);
        Self {
            model,
            main,
            reader: Reader::new(&model.input),
            fresh: Fresh::new(&model.structure.names),
            splice: Splice::default(),
            store: Store::new(data_file(name)),
            stored: false,
            outside,
            removed: HashSet::new(),
            amended: HashSet::new(),
            holes: 0,
            types: values.map(|value| (value.name, value.frame)).collect(),
        }
    }

    fn run(mut self, targets: &[Target<'_>]) -> Result<Plan, FormatError> {
        let factors = targets.iter().map(|target| self.target(target)).collect::<Result<_, _>>()?;
        for index in 0..self.model.structure.tensors.len() {
            self.keep(TensorId(index))?;
        }
        self.drop_values_of_removed();
        self.record(targets);
        let layout = self.splice.layout(&self.model.structure.frames, self.model.input.len())?;
        Ok(Plan { layout, store: self.stored.then_some(self.store), factors })
    }

    fn target(&mut self, target: &Target<'_>) -> Result<Slots, FormatError> {
        let (model, site) = (self.model, target.site);
        let text = |name: NameId| model.structure.text(name);
        let node = &self.main.nodes[site.node];
        let weight = model.structure.tensor(site.tensor);
        let output = node.outputs.first().copied().unwrap_or(NameId::NONE);
        let right = self.fresh.name(text(weight.name), "right");
        let left = self.fresh.name(text(weight.name), "left");
        let inner = self.fresh.name(text(output), "inner");
        self.first_node(node, site, &right, &inner);
        self.second_node(node, site, &left, &inner)?;
        self.inner_value(output, site, target.rank, &inner)?;
        let mut pieces = Vec::new();
        let [right, left] = self.factors(target, weight, &right, &left, &mut pieces)?;
        let bias = target.bias.map(|bias| self.bias(target, bias, &mut pieces)).transpose()?;
        self.removed.insert(site.tensor);
        self.splice.replace(Some(self.main.frame), model.structure.frame(weight.frame).span(), pieces);
        Ok(Slots { right, left, bias })
    }

    /// Whether the first of the two nodes is a `MatMul` in the place of a Gemm, which must have `C` before opset 11.
    fn first_is_plain(site: Site) -> bool {
        matches!(site.kind, Kind::MatMul | Kind::Gemm { optional_bias: false, .. })
    }

    fn first_node(&mut self, node: &Node, site: Site, right: &str, inner: &str) {
        let structure = &self.model.structure;
        let text = |name: NameId| structure.text(name).to_owned();
        let mut input = vec![String::new(); 2];
        right.clone_into(&mut input[site.slot]);
        input[1 - site.slot] = node.inputs.get(1 - site.slot).map(|&data| text(data)).unwrap_or_default();
        let name = if node.name == NameId::NONE { String::new() } else { self.fresh.name(&text(node.name), "right") };
        let (operator, attribute) = match site.kind {
            Kind::Gemm { weight, data, optional_bias: true } => (text(node.operator), flags(site.slot, weight, data)),
            _ => ("MatMul".to_owned(), Vec::new()),
        };
        let first = schema::Node {
            input,
            output: vec![inner.to_owned()],
            name,
            operator,
            attribute,
            domain: text(node.domain),
        };
        let bytes = message(graph::NODE, &first.encode_to_vec());
        let before = structure.frame(node.frame).start;
        self.splice.insert(Some(self.main.frame), before, vec![Piece::Bytes(bytes)]);
    }

    /// The original node, reading the inner value by the left factor.
    fn second_node(&mut self, node: &Node, site: Site, left: &str, inner: &str) -> Result<(), FormatError> {
        let dropped = match site.kind {
            Kind::Gemm { data: true, .. } => Some(flag_name(1 - site.slot)),
            _ => None,
        };
        let mut inputs = 0;
        let mut rest = self.model.structure.frame(node.frame).body;
        while let Some(field) = self.reader.next(&mut rest)? {
            if field.number == node::INPUT {
                let new = if inputs == site.slot { left } else { inner };
                if inputs < 2 {
                    let bytes = message(node::INPUT, new.as_bytes());
                    self.splice.replace(Some(node.frame), field.span, vec![Piece::Bytes(bytes)]);
                }
                inputs += 1;
            }
            if field.number == node::ATTRIBUTE
                && dropped.is_some()
                && self.attribute_name(&field)?.as_deref() == dropped
            {
                self.splice.replace(Some(node.frame), field.span, Vec::new());
            }
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

    fn factors(
        &mut self,
        target: &Target<'_>,
        weight: &Tensor,
        right: &str,
        left: &str,
        pieces: &mut Vec<Piece>,
    ) -> Result<[Slot; 2], FormatError> {
        let Target { layer, site, rank, .. } = *target;
        let right_transposed = if Self::first_is_plain(site) { site.slot == 1 } else { site.transposed };
        let factors = [
            Factor { name: right, rows: rank.get(), cols: layer.shape.cols(), transposed: right_transposed },
            Factor { name: left, rows: layer.shape.rows(), cols: rank.get(), transposed: site.transposed },
        ];
        let outside = self.outside || matches!(weight.data, Data::External(..));
        let mut slots = Vec::new();
        for Factor { name, rows, cols, transposed } in factors {
            let dims = if transposed { [cols, rows] } else { [rows, cols] };
            let place = self.initializer(name, &dims.map(|dim| dim as u64), layer, outside, pieces)?;
            slots.push(Slot { transposed, place });
        }
        Ok([slots[0], slots[1]])
    }

    /// A new tensor of a layer's type whose data is written later, in the model or outside.
    fn initializer(
        &mut self,
        name: &str,
        dims: &[u64],
        layer: &Layer,
        outside: bool,
        pieces: &mut Vec<Piece>,
    ) -> Result<Place, FormatError> {
        let length = dims.iter().try_fold(layer.dtype.bytes(), |length, &dim| length.checked_mul(dim));
        let length =
            length.ok_or_else(|| FormatError::Misuse(format!("the factors of {} are too large", layer.name)))?;
        let mut tensor = schema::Tensor {
            dims: dims.iter().map(|dim| dim.cast_signed()).collect(),
            data_type: i32::try_from(ElementType::of(layer.dtype).0).unwrap_or_default(),
            name: name.to_owned(),
            external: Vec::new(),
            location: None,
        };
        Ok(if outside {
            let position = self.store.place(length)?;
            self.stored = true;
            tensor.external = self.store.entries(position, length);
            tensor.location = Some(1);
            pieces.push(Piece::Bytes(message(graph::INITIALIZER, &tensor.encode_to_vec())));
            Place::Store(position)
        } else {
            let hole = self.hole();
            pieces.extend(message_with_hole(graph::INITIALIZER, &tensor.encode_to_vec(), tensor::RAW, hole, length));
            Place::Hole(hole)
        })
    }

    fn hole(&mut self) -> usize {
        self.holes += 1;
        self.holes - 1
    }

    /// Keeps a tensor, and what it has outside of the model file beside the new one.
    fn keep(&mut self, id: TensorId) -> Result<(), FormatError> {
        let tensor = self.model.structure.tensor(id);
        if self.removed.contains(&id) || self.amended.contains(&id) {
            return Ok(());
        }
        match tensor.data {
            Data::External(file, span) => {
                let position = self.store.copy(Origin::File(file), span)?;
                self.refer(tensor.frame, position, span.len())
            }
            Data::Raw(span) if self.leaves(id, span) => {
                let position = self.store.copy(Origin::Model, span)?;
                self.refer(tensor.frame, position, span.len())
            }
            _ => Ok(()),
        }
    }

    /// Whether a tensor whose data is in the model file goes outside.
    fn leaves(&self, id: TensorId, data: Span) -> bool {
        self.outside && data.len() >= SMALL && self.main.initializers.contains(&id)
    }

    /// Lets a tensor refer to bytes of the new file of external data.
    fn refer(&mut self, frame: FrameId, position: u64, length: u64) -> Result<(), FormatError> {
        self.stored = true;
        self.drop_fields(frame, &[tensor::RAW, tensor::EXTERNAL, tensor::LOCATION])?;
        let location =
            schema::Tensor { external: self.store.entries(position, length), location: Some(1), ..Default::default() };
        let end = self.model.structure.frame(frame).body.end;
        self.splice.insert(Some(frame), end, vec![Piece::Bytes(location.encode_to_vec())]);
        Ok(())
    }

    /// Drops all fields of these numbers from a message.
    fn drop_fields(&mut self, frame: FrameId, numbers: &[u32]) -> Result<(), FormatError> {
        let mut rest = self.model.structure.frame(frame).body;
        while let Some(field) = self.reader.next(&mut rest)? {
            if numbers.contains(&field.number) {
                self.splice.replace(Some(frame), field.span, Vec::new());
            }
        }
        Ok(())
    }

    /// Says in the model's metadata what was done, under a key of its own.
    fn record(&mut self, targets: &[Target<'_>]) {
        if targets.is_empty() {
            return;
        }
        let structure = &self.model.structure;
        let taken: HashSet<_> = structure.metadata.iter().map(|&key| structure.text(key)).collect();
        let numbered = (2_u64..).map(|number| format!("{KEY}.{number}"));
        let key = std::iter::once(KEY.to_owned()).chain(numbered).find(|key| !taken.contains(key.as_str()));
        let ranks: Map<String, Json> =
            targets.iter().map(|target| (target.layer.name.clone(), target.rank.get().into())).collect();
        let value = json!({ "version": 1, "ranks": ranks }).to_string();
        let entry = schema::Entry { key: key.unwrap_or_default(), value };
        let bytes = message(model::METADATA, &entry.encode_to_vec());
        self.splice.insert(None, self.model.input.len(), vec![Piece::Bytes(bytes)]);
    }
}

fn flag_name(slot: usize) -> &'static str {
    if slot == 0 { "transA" } else { "transB" }
}

fn flags(slot: usize, weight: bool, data: bool) -> Vec<schema::Attribute> {
    let set = [(slot, weight), (1 - slot, data)].into_iter().filter(|(_, set)| *set);
    set.map(|(slot, _)| schema::Attribute::flag(flag_name(slot))).collect()
}

#[cfg(test)]
mod tests;
