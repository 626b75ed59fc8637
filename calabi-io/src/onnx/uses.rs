//! Counts what refers to each name, in all scopes that can see it.

use super::names::{NameId, Names};
use super::structure::{Place, Structure};

/// What refers to each name of a model.
#[derive(Debug)]
pub(crate) struct Uses(Vec<Use>);

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
        let mut uses = Self(vec![Use::default(); structure.names.len()]);
        for graph in &structure.graphs {
            // What a function's body names is its own: it sees nothing around it.
            if matches!(graph.place, Place::Function(_)) {
                continue;
            }
            for node in &graph.nodes {
                node.inputs.iter().for_each(|&name| uses.mark(name, |at| at.readers += 1));
            }
            let training = graph.place == Place::Training;
            graph.inputs.iter().for_each(|value| uses.mark(value.name, |at| at.input = true));
            graph.outputs.iter().for_each(|value| uses.mark(value.name, |at| at.output = true));
            graph.annotated.iter().for_each(|&name| uses.mark(name, |at| at.annotated = true));
            if training {
                let inputs = graph.nodes.iter().flat_map(|node| node.inputs.iter().copied());
                inputs.for_each(|name| uses.mark(name, |at| at.trained = true));
            }
        }
        structure.trained.iter().for_each(|&name| uses.mark(name, |at| at.trained = true));
        uses
    }

    pub(crate) fn get(&self, name: NameId) -> Use {
        self.0.get(Names::index(name)).copied().unwrap_or_default()
    }

    fn mark(&mut self, name: NameId, change: impl Fn(&mut Use)) {
        if let Some(at) = self.0.get_mut(Names::index(name)) {
            change(at);
        }
    }
}
