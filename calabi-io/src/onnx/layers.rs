//! Finds the layers of a model, and says of every other weight why it is none.

use std::collections::{BTreeMap, HashMap, HashSet};

use calabi_api::{DType, Layer, LayerCost, LeftAlone, Name, Role, Wiring};

use super::Model;
use super::bias::{Bias, Biases};
use super::constants::{Constant, Scope};
use super::names::NameId;
use super::operators::{self, Operator};
use super::reads::{Kind, Read, read};
use super::sites::{Site, gather};
use super::structure::{At, Data, GraphId, Node, Place, Structure, Tensor, TensorId};
use super::uses::Uses;
use super::windows::window;

/// The layers of a model.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) layers: Vec<Layer>,
    /// Where each layer is, in the same order.
    pub(crate) sites: Vec<Site>,
    /// How a bias is added to each layer, in the same order; none where it cannot be.
    pub(crate) biases: Vec<Option<Bias>>,
    pub(crate) left_alone: Vec<LeftAlone>,
}

/// A node's input that may be a layer's weight.
pub(crate) struct Candidate {
    name: String,
    pub(crate) constant: Constant,
    pub(crate) read: Result<Read, String>,
}

/// Finds all layers of a model, in the order of its nodes.
pub(crate) fn find(model: &Model) -> Found {
    let structure = &model.structure;
    let mut search = Search { model, labels: HashMap::new(), candidates: Vec::new() };
    search.graph(structure.main, None);
    for (index, graph) in structure.graphs.iter().enumerate() {
        if matches!(graph.place, Place::Function(_)) {
            search.graph(GraphId(index), None);
        }
    }
    search.decide()
}

struct Search<'m> {
    model: &'m Model,
    /// Names that layers have, and the number that the next of the same name tries.
    labels: HashMap<String, u64>,
    candidates: Vec<Candidate>,
}

impl Search<'_> {
    fn graph(&mut self, id: GraphId, outer: Option<&Scope<'_>>) {
        let model = self.model;
        let mut scope = Scope::new(&model.structure, id, outer);
        for (index, node) in model.structure.graph(id).nodes.iter().enumerate() {
            let at = At { graph: id, node: index };
            self.node(at, node, &scope);
            node.graphs.iter().for_each(|&inner| self.graph(inner, Some(&scope)));
            scope.learn(model, at, node);
        }
    }

    fn node(&mut self, at: At, node: &Node, scope: &Scope<'_>) {
        let structure = &self.model.structure;
        let Some((operator, slots)) = operators::of(structure, node) else { return };
        let mut seen = HashSet::new();
        for slot in slots {
            let Some(constant) = node.inputs.get(slot).and_then(|&input| scope.get(input)) else { continue };
            let tensor = structure.tensor(constant.tensor);
            if !may_be_weight(operator, constant, tensor) || !seen.insert(constant.tensor) {
                continue;
            }
            let read = if scope.all_constant(node) {
                Err("all inputs of its node are constant: fold them first".to_owned())
            } else {
                read(structure, at, slot, operator, constant)
            };
            let name = self.label(node, tensor);
            self.candidates.push(Candidate { name, constant: constant.clone(), read });
        }
    }

    /// The node's name, else the weight's, else that of the node's first output; numbered where several are alike.
    fn label(&mut self, node: &Node, tensor: &Tensor) -> String {
        let output = node.outputs.first().copied().unwrap_or(NameId::NONE);
        let names = [node.name, tensor.name, output];
        let name = names.into_iter().find(|&name| name != NameId::NONE).unwrap_or(NameId::NONE);
        let name = self.model.structure.text(name).to_owned();
        let mut label = name.clone();
        while self.labels.contains_key(&label) {
            let number = self.labels.entry(name.clone()).or_insert(1);
            *number += 1;
            label = format!("{name}#{number}");
        }
        self.labels.insert(label.clone(), 1);
        label
    }

    /// Which weights are layers: those that nothing reads but nodes that can read factors.
    fn decide(self) -> Found {
        let structure = &self.model.structure;
        let uses = Uses::of(structure);
        let biases = Biases::new(structure, &uses, structure.main);
        let mut readers: BTreeMap<TensorId, Vec<&Candidate>> = BTreeMap::new();
        for candidate in &self.candidates {
            readers.entry(candidate.constant.tensor).or_default().push(candidate);
        }
        let mut found = Found::default();
        for candidate in &self.candidates {
            let group = &readers[&candidate.constant.tensor];
            let site = candidate.read.clone().and_then(|_| {
                let reads: Vec<_> = group.iter().map(|of| (&of.constant, of.read.as_ref())).collect();
                gather(structure, &uses, &reads).map_err(|why| shared(candidate, group, why))
            });
            match site {
                Ok((site, dtype)) if candidate.read.as_ref() == Ok(site.primary()) => {
                    found.add(structure, &biases, candidate.name.clone(), site, dtype);
                }
                Ok(_) => {} // the layer is that of the weight's first reader
                Err(why) => found.leave(structure, candidate, why),
            }
        }
        found
    }
}

/// Whether a constant may be a weight: vectors are none, and a computed one is where nothing else can be.
fn may_be_weight(operator: Operator, constant: &Constant, tensor: &Tensor) -> bool {
    match &constant.view {
        Ok(view) => view.dims.len() > 1 || tensor.sparse.as_ref().is_some_and(|dims| dims.len() > 1),
        Err(_) => {
            tensor.shown_dims().len() > 1
                || matches!(operator, Operator::MatMul | Operator::Gemm | Operator::Conv | Operator::ConvTranspose)
        }
    }
}

/// Why a weight that several nodes read is left alone, as one of them tells it.
fn shared(candidate: &Candidate, group: &[&Candidate], why: String) -> String {
    match group.iter().find(|other| other.read.is_err()) {
        Some(other) => format!("{} shares the weight, and is left alone: {why}", Name::new(&other.name)),
        None if group.len() > 1 => format!("shared by {} nodes: {why}", group.len()),
        None => {
            debug_assert!(candidate.read.is_ok());
            why
        }
    }
}

impl Found {
    fn add(&mut self, structure: &Structure, biases: &Biases<'_>, name: String, site: Site, dtype: DType) {
        let mut cost = LayerCost::new(site.shape, dtype, dtype);
        cost.dense.bytes = match &structure.tensor(site.tensor).data {
            Data::Typed(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
            Data::Raw(span) | Data::External(_, span) => span.len(),
            Data::None | Data::Pointer(_) => cost.dense.bytes,
        };
        let place = biases.find(&site, dtype);
        let bias = matches!(place, Some(Bias::Own(_)));
        let role = match site.primary().kind {
            _ if site.reads.iter().any(|read| read.kind == Kind::Gather) => Role::Embedding,
            Kind::Conv | Kind::SeparableConv(_) | Kind::ConvTranspose => Role::Convolution,
            Kind::Gather | Kind::MatMul | Kind::Gemm { .. } | Kind::Einsum(_) => Role::Linear,
        };
        let (wiring, key, shape) = (wiring(structure, &site), self.sites.len(), site.shape);
        self.sites.push(site);
        self.biases.push(place);
        self.layers.push(Layer { name, shape, dtype, role, cost, wiring, bias, key });
    }

    fn leave(&mut self, structure: &Structure, candidate: &Candidate, why: String) {
        let tensor = structure.tensor(candidate.constant.tensor);
        let (dims, dtype) = (tensor.shown_dims().to_vec(), tensor.element.to_string());
        self.left_alone.push(LeftAlone { name: candidate.name.clone(), dims, dtype, why });
    }
}

/// The names of a layer's values; that of its input only where it can be watched.
fn wiring(structure: &Structure, site: &Site) -> Wiring {
    let text = |name: &NameId| Some(structure.text(*name).to_owned()).filter(|text| !text.is_empty());
    let read = site.primary();
    let node = structure.node(read.at);
    let window = if read.kind == Kind::Conv { window(structure, node, &read.dims) } else { None };
    let unseen = unseen(structure, site, window.is_some()).map(str::to_owned);
    let input = node.inputs.get(1_usize.saturating_sub(read.slot)).filter(|_| unseen.is_none()).and_then(text);
    let weight = structure.text(site.name(structure)).to_owned();
    Wiring { weight, input, window, output: node.outputs.first().and_then(text), unseen }
}

/// Why a runtime cannot see what flows into a layer.
fn unseen(structure: &Structure, site: &Site, has_window: bool) -> Option<&'static str> {
    let read = site.primary();
    if site.reads.len() > 1 {
        return Some("several nodes read its weight");
    }
    match read.kind {
        Kind::SeparableConv(_) => return Some("it is a convolution that becomes one along each axis"),
        Kind::ConvTranspose => return Some("it is a transposed convolution, whose outputs overlap"),
        Kind::Conv if !has_window => return Some("its node's attributes are not understood"),
        Kind::Gather => return Some("it is an embedding"),
        Kind::Einsum(_) => return Some("it is an Einsum"),
        Kind::MatMul | Kind::Gemm { .. } | Kind::Conv => {}
    }
    if read.at.graph != structure.main {
        return Some("it stands in a subgraph or a function");
    }
    if !site.is_alone(structure) {
        return Some("it is no operator of the standard's with one matrix");
    }
    (read.kind != Kind::Conv && !read.features_last()).then_some("its node reads its input transposed")
}
