//! Counts what refers to each name, in all scopes that can see it.

use std::collections::HashMap;

use super::names::NameId;
use super::structure::{GraphId, Place, Structure};

/// What refers to each name of a model.
#[derive(Debug)]
pub(crate) struct Uses {
    /// The graph around each graph, in the end: a function's body sees nothing around it.
    roots: Vec<GraphId>,
    counts: HashMap<(GraphId, NameId), Use>,
}

/// What refers to a name.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // independent facts, each with a message of its own
pub(crate) struct Use {
    /// Inputs of nodes, those in subgraphs included.
    pub(crate) readers: usize,
    /// Whether it is an input of the model, so that a caller may give another value.
    pub(crate) input: bool,
    /// Whether it leaves a graph as its output.
    pub(crate) output: bool,
    /// Whether quantisation annotations name it.
    pub(crate) annotated: bool,
    /// Whether training information names it.
    pub(crate) trained: bool,
}

impl Uses {
    pub(crate) fn of(structure: &Structure) -> Self {
        let mut uses = Self { roots: roots(structure), counts: HashMap::new() };
        for (index, graph) in structure.graphs.iter().enumerate() {
            let id = GraphId(index);
            for node in &graph.nodes {
                node.inputs.iter().for_each(|&name| uses.mark(id, name, |at| at.readers += 1));
            }
            graph.inputs.iter().for_each(|value| uses.mark(id, value.name, |at| at.input = true));
            graph.outputs.iter().for_each(|value| uses.mark(id, value.name, |at| at.output = true));
            graph.annotated.iter().for_each(|&name| uses.mark(id, name, |at| at.annotated = true));
            if graph.place == Place::Training {
                let inputs = graph.nodes.iter().flat_map(|node| node.inputs.iter().copied());
                inputs.for_each(|name| uses.mark(structure.main, name, |at| at.trained = true));
            }
        }
        structure.trained.iter().for_each(|&name| uses.mark(structure.main, name, |at| at.trained = true));
        uses
    }

    /// What refers to a name that this graph sees.
    pub(crate) fn get(&self, graph: GraphId, name: NameId) -> Use {
        self.counts.get(&(self.root(graph), name)).copied().unwrap_or_default()
    }

    pub(crate) fn root(&self, graph: GraphId) -> GraphId {
        self.roots.get(graph.0).copied().unwrap_or(graph)
    }

    fn mark(&mut self, graph: GraphId, name: NameId, change: impl Fn(&mut Use)) {
        change(self.counts.entry((self.root(graph), name)).or_default());
    }
}

/// Graphs stand before their subgraphs.
fn roots(structure: &Structure) -> Vec<GraphId> {
    let mut roots: Vec<GraphId> = (0..structure.graphs.len()).map(GraphId).collect();
    for (index, graph) in structure.graphs.iter().enumerate() {
        for inner in graph.nodes.iter().flat_map(|node| node.graphs.iter()) {
            roots[inner.0] = roots[index];
        }
    }
    roots
}
