//! Plans the rewritten model: every layer that is factorized becomes two nodes, all else stays as it is.

use std::collections::{HashMap, HashSet};

use calabi_api::{FormatError, Layer, Rank};
use prost::Message;
use serde_json::{Map, Value as Json, json};

use super::Model;
use super::bias::Bias;
use super::fields::{model, tensor};
use super::names::{Fresh, NameId};
use super::schema;
use super::sites::Site;
use super::splice::{Layout, Piece, Splice, message};
use super::store::{Origin, Store, data_file};
use super::structure::{At, Data, FrameId, Graph, GraphId, Place as GraphPlace, TensorId};
use super::wire::{Reader, Span};

mod bias;
mod factors;
mod nodes;
mod orphans;
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
    pub(crate) site: &'a Site,
    pub(crate) rank: Rank,
    /// How the bias of the factors is added, where they bring one.
    pub(crate) bias: Option<Bias>,
    /// The axes of the rows of both factors, `A` before `B`, where these are stored as integers.
    pub(crate) integers: Option<[i64; 2]>,
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
    /// So many rows are the places of a kernel, and stored behind the columns.
    pub(crate) kernel: Option<usize>,
    pub(crate) place: Place,
    /// Where the scales of its rows go, if it is stored as integers.
    pub(crate) scales: Option<Place>,
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
    /// Nodes that give way to others, or to nothing.
    gone: HashSet<At>,
    /// Tensors that keep their place and get other values.
    amended: HashSet<TensorId>,
    holes: usize,
    /// Where the types of values stand.
    types: HashMap<(GraphId, NameId), FrameId>,
    /// What is made of a factor in a graph, by the factor's name and what is done to it.
    made: HashMap<(GraphId, String, &'static str), String>,
}

impl<'m> Rewrite<'m> {
    fn new(model: &'m Model, name: &str, outside: bool) -> Self {
        let structure = &model.structure;
        let mut types = HashMap::new();
        for (index, graph) in structure.graphs.iter().enumerate() {
            // A function says nothing of the types of what flows in and out.
            let ends =
                (!matches!(graph.place, GraphPlace::Function(_))).then(|| graph.inputs.iter().chain(&graph.outputs));
            let values = ends.into_iter().flatten().chain(&graph.values);
            types.extend(values.map(|value| ((GraphId(index), value.name), value.frame)));
        }
        Self {
            model,
            main: structure.graph(structure.main),
            reader: Reader::new(&model.input),
            fresh: Fresh::new(&structure.names),
            splice: Splice::default(),
            store: Store::new(data_file(name)),
            stored: false,
            outside,
            removed: HashSet::new(),
            gone: HashSet::new(),
            amended: HashSet::new(),
            holes: 0,
            types,
            made: HashMap::new(),
        }
    }

    fn run(mut self, targets: &[Target<'_>]) -> Result<Plan, FormatError> {
        let factors = targets.iter().map(|target| self.target(target)).collect::<Result<_, _>>()?;
        self.remove_orphans(targets);
        for index in 0..self.model.structure.tensors.len() {
            self.keep(TensorId(index))?;
        }
        self.drop_values_of_removed();
        self.record(targets);
        let layout = self.splice.layout(&self.model.structure.frames, self.model.input.len())?;
        Ok(Plan { layout, store: self.stored.then_some(self.store), factors })
    }

    fn target(&mut self, target: &Target<'_>) -> Result<Slots, FormatError> {
        let halves = self.halves(target)?;
        let new_bias = self.new_bias(target);
        for read in &target.site.reads {
            self.read(target, read, &halves, new_bias.as_ref())?;
        }
        let mut pieces = Vec::new();
        let [right, left] = self.factors(target, &halves, &mut pieces)?;
        let bias = match (target.bias, &new_bias) {
            (Some(Bias::Own(id)), _) => Some(BiasSlot { place: self.amend(id, target)?, base: Some(id) }),
            (_, Some(new)) => Some(self.add_bias(target, new, &mut pieces)?),
            (_, None) => None,
        };
        self.replace_weight(target, pieces);
        self.list_as_inputs(target, &halves);
        Ok(Slots { right, left, bias })
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

#[cfg(test)]
mod tests;
