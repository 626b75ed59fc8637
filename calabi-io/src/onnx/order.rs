//! Refuses graphs that mean nothing: a value defined twice in one scope, or nodes that wait for each other.

use std::collections::{HashMap, HashSet};

use calabi_api::{FormatError, Name};

use super::names::NameId;
use super::structure::{Graph, Node, Structure};
use crate::file::Input;

/// Checks every graph of a model.
pub(crate) fn check(input: &Input, structure: &Structure) -> Result<(), FormatError> {
    for graph in &structure.graphs {
        if let Some(name) = defined_twice(structure, graph) {
            let name = Name::new(structure.text(name));
            return Err(FormatError::malformed(
                input.path(),
                format!("the value {name} is defined twice in one graph"),
            ));
        }
        if let Some(node) = cycle(structure, graph) {
            let shown = [node.name, node.operator].map(|name| Name::new(structure.text(name)));
            let problem = format!("the node {} ({}) waits for its own output", shown[0], shown[1]);
            return Err(FormatError::malformed(input.path(), problem));
        }
    }
    Ok(())
}

/// Inputs may have an initializer, their default.
fn defined_twice(structure: &Structure, graph: &Graph) -> Option<NameId> {
    let inputs = graph.inputs.iter().map(|value| value.name);
    let tensors = graph.initializers.iter().chain(&graph.sparse).map(|&tensor| structure.tensor(tensor).name);
    let outputs = || graph.nodes.iter().flat_map(|node| node.outputs.iter().copied());
    first_twice(inputs.clone().chain(outputs())).or_else(|| first_twice(tensors.chain(outputs())))
}

fn first_twice(names: impl Iterator<Item = NameId>) -> Option<NameId> {
    let mut seen = HashSet::new();
    names.filter(|&name| name != NameId::NONE).find(|&name| !seen.insert(name))
}

/// A node that is part of a cycle, or behind one.
fn cycle<'s>(structure: &'s Structure, graph: &'s Graph) -> Option<&'s Node> {
    let mut maker = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        maker.extend(node.outputs.iter().filter(|&&output| output != NameId::NONE).map(|&output| (output, index)));
    }
    let needs: Vec<Vec<usize>> = graph
        .nodes
        .iter()
        .map(|node| {
            let mut inputs = Vec::new();
            collect_inputs(structure, node, &mut inputs);
            inputs.iter().filter_map(|input| maker.get(input).copied()).collect()
        })
        .collect();
    let in_order = needs.iter().enumerate().all(|(index, needs)| needs.iter().all(|&need| need < index));
    if in_order { None } else { stuck(&needs).and_then(|index| graph.nodes.get(index)) }
}

/// What a node reads, and its subgraphs read from around them.
fn collect_inputs(structure: &Structure, node: &Node, inputs: &mut Vec<NameId>) {
    inputs.extend(&node.inputs);
    for &graph in &node.graphs {
        let graph = structure.graph(graph);
        let mut captured: Vec<_> = graph.outputs.iter().map(|value| value.name).collect();
        graph.nodes.iter().for_each(|node| collect_inputs(structure, node, &mut captured));
        let own: HashSet<_> = defined(structure, graph).collect();
        inputs.extend(captured.into_iter().filter(|name| !own.contains(name)));
    }
}

fn defined<'s>(structure: &'s Structure, graph: &'s Graph) -> impl Iterator<Item = NameId> + 's {
    let inputs = graph.inputs.iter().map(|value| value.name);
    let tensors = graph.initializers.iter().chain(&graph.sparse).map(|&tensor| structure.tensor(tensor).name);
    let outputs = graph.nodes.iter().flat_map(|node| node.outputs.iter().copied());
    inputs.chain(tensors).chain(outputs)
}

/// A node that can never run, by Kahn's algorithm.
fn stuck(needs: &[Vec<usize>]) -> Option<usize> {
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut readers = vec![Vec::new(); needs.len()];
    for (index, needs) in needs.iter().enumerate() {
        for &need in needs {
            readers[need].push(index);
        }
    }
    let mut ready: Vec<usize> = (0..needs.len()).filter(|&index| waiting[index] == 0).collect();
    while let Some(done) = ready.pop() {
        for &reader in &readers[done] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(reader);
            }
        }
    }
    waiting.iter().position(|&left| left > 0)
}
