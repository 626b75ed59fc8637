//! What nothing needs once weights are factorized: nodes between them and their readers, and what only those read.

use std::collections::HashMap;

use super::{Rewrite, Target};
use crate::onnx::names::NameId;
use crate::onnx::structure::{At, GraphId, TensorId};
use crate::onnx::uses::Uses;

/// Where a value comes from.
#[derive(Debug, Clone, Copy)]
enum Maker {
    Tensor(GraphId, TensorId),
    Node(At),
}

impl Rewrite<'_> {
    /// Removes the nodes between weights and their readers, and all that only they read.
    pub(super) fn remove_orphans(&mut self, targets: &[Target<'_>]) {
        let mut orphans: Vec<At> = targets.iter().flat_map(|target| target.site.between.iter().copied()).collect();
        if orphans.is_empty() {
            return;
        }
        let structure = &self.model.structure;
        let uses = Uses::of(structure);
        let makers = self.makers(&uses);
        let mut lost: HashMap<(GraphId, NameId), usize> = HashMap::new();
        while let Some(at) = orphans.pop() {
            if !self.gone.insert(at) {
                continue;
            }
            let node = structure.node(at);
            let span = structure.frame(node.frame).span();
            self.splice.replace(Some(structure.graph(at.graph).frame), span, Vec::new());
            for &name in node.inputs.iter().filter(|&&name| name != NameId::NONE) {
                let key = (uses.root(at.graph), name);
                let lost = lost.entry(key).or_default();
                *lost += 1;
                let known = uses.get(at.graph, name);
                let offered = known.input && !structure.lists_initializers();
                let needed = known.readers > *lost || offered || known.output || known.annotated || known.trained;
                match makers.get(&key).filter(|_| !needed) {
                    Some(&Maker::Node(maker)) => orphans.push(maker),
                    Some(&Maker::Tensor(graph, tensor)) => self.remove_tensor(graph, tensor),
                    None => {}
                }
            }
        }
    }

    /// Nodes of one output, and initializers, by what they are called.
    fn makers(&self, uses: &Uses) -> HashMap<(GraphId, NameId), Maker> {
        let structure = &self.model.structure;
        let mut makers = HashMap::new();
        for (index, graph) in structure.graphs.iter().enumerate() {
            let (id, root) = (GraphId(index), uses.root(GraphId(index)));
            for &tensor in &graph.initializers {
                makers.insert((root, structure.tensor(tensor).name), Maker::Tensor(id, tensor));
            }
            for (node, of) in graph.nodes.iter().enumerate() {
                if let [output] = *of.outputs {
                    makers.insert((root, output), Maker::Node(At { graph: id, node }));
                }
            }
        }
        makers
    }

    fn remove_tensor(&mut self, graph: GraphId, id: TensorId) {
        if !self.removed.insert(id) {
            return;
        }
        let structure = &self.model.structure;
        let tensor = structure.tensor(id);
        let frame = structure.graph(graph).frame;
        self.splice.replace(Some(frame), structure.frame(tensor.frame).span(), Vec::new());
        if graph == structure.main {
            for input in self.main.inputs.iter().filter(|input| input.name == tensor.name) {
                self.splice.replace(Some(frame), structure.frame(input.frame).span(), Vec::new());
            }
        }
    }
}
