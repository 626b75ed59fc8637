//! Finds the layers of a model, and says of every other weight why it is none.

use std::collections::{HashMap, HashSet};

use calabi_api::{DType, Layer, LayerCost, LeftAlone, Name, Role, Shape, Wiring};

use super::bias::{Bias, Biases};
use super::constants::{Constant, Origin, Scope};
use super::names::NameId;
use super::operators::{self, Operator};
use super::structure::{AttributeValue, Data, Graph, GraphId, Node, Place, Structure, Tensor, TensorId};
use super::uses::Uses;

/// The first version of the standard in which Gemm does without `C`.
const GEMM_WITHOUT_BIAS: i64 = 11;

/// The layers of a model.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) layers: Vec<Layer>,
    /// Where each layer is, in the same order.
    pub(crate) sites: Vec<Site>,
    /// How a bias is added to each layer, in the same order.
    pub(crate) biases: Vec<Bias>,
    pub(crate) left_alone: Vec<LeftAlone>,
}

/// Where a layer is: a node of the main graph whose weight is an initializer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Site {
    /// An index into the main graph's nodes.
    pub(crate) node: usize,
    /// The input that is the weight: 0 or 1. The data is the other.
    pub(crate) slot: usize,
    pub(crate) tensor: TensorId,
    /// Whether the weight is stored `n × m`.
    pub(crate) transposed: bool,
    pub(crate) kind: Kind,
}

impl Site {
    /// Whether the features of the data lie along its last axis.
    pub(crate) fn features_last(self) -> bool {
        let data_transposed = matches!(self.kind, Kind::Gemm { data: true, .. });
        (self.slot == 1) != data_transposed
    }
}

/// The operator of a layer's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    MatMul,
    Gemm {
        /// Whether the node transposes its weight.
        weight: bool,
        /// Whether the node transposes its data.
        data: bool,
        /// Whether a Gemm may stand without `C`.
        optional_bias: bool,
    },
}

/// Finds all layers of a model, in the order of its nodes.
pub(crate) fn find(structure: &Structure) -> Found {
    let uses = Uses::of(structure);
    let biases = Biases::new(structure, &uses, structure.graph(structure.main));
    let mut search = Search { structure, uses: &uses, biases, labels: HashMap::new(), found: Found::default() };
    search.graph(structure.main, None);
    for (index, graph) in structure.graphs.iter().enumerate() {
        if matches!(graph.place, Place::Function(_)) {
            search.graph(GraphId(index), None);
        }
    }
    search.found
}

struct Search<'m> {
    structure: &'m Structure,
    uses: &'m Uses,
    biases: Biases<'m>,
    /// Names that layers have, and the number that the next of the same name tries.
    labels: HashMap<String, u64>,
    found: Found,
}

impl Search<'_> {
    fn graph(&mut self, id: GraphId, outer: Option<&Scope<'_>>) {
        let structure = self.structure;
        let graph = structure.graph(id);
        let mut scope = Scope::new(structure, graph, outer);
        for (index, node) in graph.nodes.iter().enumerate() {
            self.node(graph, index, node, &scope);
            node.graphs.iter().for_each(|&inner| self.graph(inner, Some(&scope)));
            scope.learn(structure, node);
        }
    }

    fn node(&mut self, graph: &Graph, index: usize, node: &Node, scope: &Scope<'_>) {
        let Some((operator, slots)) = operators::of(self.structure, node) else { return };
        let mut seen = HashSet::new();
        for slot in slots {
            let Some(constant) = node.inputs.get(slot).and_then(|&input| scope.get(input)) else { continue };
            let tensor = self.structure.tensor(constant.tensor);
            if tensor.shown_dims().len() < 2 || !seen.insert(constant.tensor) {
                continue;
            }
            let name = self.label(node, tensor);
            let site = self.site(graph, index, slot, operator, scope, constant);
            match site {
                Ok(weight) => self.add_layer(name, node, weight),
                Err(why) => self.found.left_alone.push(LeftAlone {
                    name,
                    dims: tensor.shown_dims().to_vec(),
                    dtype: tensor.element.to_string(),
                    why,
                }),
            }
        }
    }

    fn add_layer(&mut self, name: String, node: &Node, (site, shape, dtype): (Site, Shape, DType)) {
        let mut cost = LayerCost::new(shape, dtype, dtype);
        if let Data::Typed(pieces) = &self.structure.tensor(site.tensor).data {
            cost.dense.bytes = pieces.iter().map(|piece| piece.len()).sum();
        }
        let key = self.found.sites.len();
        let (wiring, role) = (self.wiring(site, node), Role::Linear);
        let place = self.biases.find(site, node, shape.rows(), dtype);
        let bias = matches!(place, Bias::Own(_));
        self.found.sites.push(site);
        self.found.biases.push(place);
        self.found.layers.push(Layer { name, shape, dtype, role, cost, wiring, bias, key });
    }

    fn wiring(&self, site: Site, node: &Node) -> Wiring {
        let text = |name: &NameId| Some(self.structure.text(*name).to_owned()).filter(|text| !text.is_empty());
        Wiring {
            weight: self.structure.text(self.structure.tensor(site.tensor).name).to_owned(),
            input: node.inputs.get(1 - site.slot).filter(|_| site.features_last()).and_then(text),
            output: node.outputs.first().and_then(text),
        }
    }

    /// The node's name, else the weight's, else that of the node's first output; numbered where several are alike.
    fn label(&mut self, node: &Node, tensor: &Tensor) -> String {
        let output = node.outputs.first().copied().unwrap_or(NameId::NONE);
        let names = [node.name, tensor.name, output];
        let name = names.into_iter().find(|&name| name != NameId::NONE).unwrap_or(NameId::NONE);
        let name = self.structure.text(name).to_owned();
        let mut label = name.clone();
        while self.labels.contains_key(&label) {
            let number = self.labels.entry(name.clone()).or_insert(1);
            *number += 1;
            label = format!("{name}#{number}");
        }
        self.labels.insert(label.clone(), 1);
        label
    }

    fn site(
        &self,
        graph: &Graph,
        index: usize,
        slot: usize,
        operator: Operator,
        scope: &Scope<'_>,
        constant: &Constant,
    ) -> Result<(Site, Shape, DType), String> {
        let node = &graph.nodes[index];
        self.within_reach(graph.place)?;
        if scope.all_constant(node) {
            return Err("all inputs of its node are constant: fold them first".to_owned());
        }
        let kind = match operator {
            Operator::MatMul => Kind::MatMul,
            Operator::Gemm => self.gemm(node, slot)?,
            Operator::Other(why) => return Err(why.to_owned()),
        };
        self.stands_alone(constant)?;
        let tensor = self.structure.tensor(constant.tensor);
        let (rows, cols) = matrix(tensor)?;
        let dtype =
            tensor.element.dtype().ok_or_else(|| format!("stored as {}: only floating point", tensor.element))?;
        self.used_once(node, tensor)?;
        // As input 1, `x · B` is `Bᵀ` to the outputs.
        let flipped = matches!(kind, Kind::Gemm { weight: true, .. });
        let transposed = (slot == 1) != flipped;
        let shape = if transposed { Shape::new(cols, rows) } else { Shape::new(rows, cols) };
        let shape = shape.ok_or("an empty matrix")?;
        Ok((Site { node: index, slot, tensor: constant.tensor, transposed, kind }, shape, dtype))
    }

    fn within_reach(&self, place: Place) -> Result<(), String> {
        match place {
            Place::Main => Ok(()),
            Place::Subgraph { node, operator } => {
                let [node, operator] = [node, operator].map(|name| Name::new(self.structure.text(name)));
                Err(format!("in a subgraph of {operator} {node}: not handled yet"))
            }
            Place::Function(name) => {
                let name = Name::new(self.structure.text(name));
                Err(format!("in the body of the function {name}: not handled yet"))
            }
            Place::Training => Err("in a training graph: not handled".to_owned()),
        }
    }

    /// Whether a weight comes straight from an initializer.
    fn stands_alone(&self, constant: &Constant) -> Result<(), String> {
        if !constant.via.is_empty() {
            let via: Vec<_> = constant.via.iter().map(|&name| self.structure.text(name)).collect();
            return Err(format!("the weight comes through {}: not handled yet", Name::new(&via.join(", "))));
        }
        match constant.origin {
            Origin::Initializer => Ok(()),
            Origin::Sparse => Err("a sparse initializer: not handled".to_owned()),
            Origin::Node => Err("the weight is in a Constant node: not handled yet".to_owned()),
        }
    }

    /// Whether a weight is used by this node and nothing else.
    fn used_once(&self, node: &Node, tensor: &Tensor) -> Result<(), String> {
        let uses = self.uses.get(tensor.name);
        let why = if uses.readers > 1 {
            format!("shared by {} inputs of nodes: not handled yet", uses.readers)
        } else if uses.output {
            "the weight is an output of a graph as well".to_owned()
        } else if uses.input {
            "the weight is an input of the model as well, so a caller may replace it: not handled yet".to_owned()
        } else if uses.annotated {
            "the weight has a quantisation annotation: not handled yet".to_owned()
        } else if uses.trained {
            "training information refers to the weight".to_owned()
        } else if node.devices {
            "its node says how it is spread over devices: not handled".to_owned()
        } else if node.outputs.first().is_none_or(|&output| output == NameId::NONE) {
            "its node has no output".to_owned()
        } else {
            return Ok(());
        };
        Err(why)
    }

    fn gemm(&self, node: &Node, slot: usize) -> Result<Kind, String> {
        let [a, b] = [self.flag(node, "transA")?, self.flag(node, "transB")?];
        let (weight, data) = if slot == 0 { (a, b) } else { (b, a) };
        let optional_bias = self.structure.opset() >= GEMM_WITHOUT_BIAS;
        if data && !optional_bias {
            return Err(format!("its data is transposed before opset {GEMM_WITHOUT_BIAS}: not handled"));
        }
        Ok(Kind::Gemm { weight, data, optional_bias })
    }

    fn flag(&self, node: &Node, name: &str) -> Result<bool, String> {
        let mut values =
            node.attributes.iter().filter(|attribute| self.structure.text(attribute.name) == name).peekable();
        if values.peek().is_none() {
            return Ok(false);
        }
        // Some writers fill in the fields of all types.
        let number = values.find_map(|attribute| match attribute.value {
            AttributeValue::Integer(value) => Some(value != 0),
            _ => None,
        });
        number.ok_or_else(|| format!("its attribute {name} is not a number"))
    }
}

fn matrix(tensor: &Tensor) -> Result<(usize, usize), String> {
    let size = |dim: u64| usize::try_from(dim).map_err(|_| "larger than memory can be".to_owned());
    match *tensor.dims {
        [rows, cols] => Ok((size(rows)?, size(cols)?)),
        _ => Err(format!("a batched weight of {} dimensions: not handled yet", tensor.dims.len())),
    }
}
