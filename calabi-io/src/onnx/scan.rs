//! Scans a model file into its structure, within a budget: weights are passed over, hostile structure is refused.

use std::collections::HashSet;
use std::mem::size_of;

use calabi_api::FormatError;

use super::fields::{annotation, element, entry, function, graph, model, node, opset, training, type_of, value};
use super::names::{NameId, Names};
use super::structure::{Frame, FrameId, Graph, GraphId, Node, Place, Structure, Tensor, TensorId, Value};
use super::wire::{Field, NESTING, Reader, Span};
use crate::file::Input;

mod attributes;
mod tensors;

/// What the structure of a model may take in memory. The largest real ones take a few MiB.
const BUDGET: usize = 128 << 20;

/// Scans a model file.
pub(crate) fn scan(input: &Input) -> Result<Structure, FormatError> {
    let mut scan = Scan {
        reader: Reader::new(input),
        budget: BUDGET,
        structure: Structure {
            names: Names::new(),
            frames: Vec::new(),
            tensors: Vec::new(),
            graphs: Vec::new(),
            functions: HashSet::new(),
            lists: Vec::new(),
            opsets: Vec::new(),
            ir_version: 0,
            trained: Vec::new(),
            metadata: Vec::new(),
            main: GraphId(0),
        },
        main: None,
    };
    scan.model()?;
    scan.complete()
}

struct Scan<'a> {
    reader: Reader<'a>,
    budget: usize,
    structure: Structure,
    main: Option<GraphId>,
}

impl Scan<'_> {
    fn model(&mut self) -> Result<(), FormatError> {
        let mut rest = self.reader.all();
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                model::IR_VERSION => self.structure.ir_version = self.reader.integer(&field)?,
                model::GRAPH => self.main_graph(&field)?,
                model::OPSET => self.opset(&field)?,
                model::METADATA => self.metadata(&field)?,
                model::TRAINING => self.training(&field)?,
                model::FUNCTION => self.function(&field)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn complete(mut self) -> Result<Structure, FormatError> {
        let end = self.reader.all().end;
        let Some(main) = self.main else {
            return Err(self.reader.broken(end, &"it has no graph: it ends"));
        };
        if self.structure.ir_version < 1 {
            return Err(self.reader.broken(end, &"it has no IR version: it ends"));
        }
        if self.structure.ir_version >= 3 && self.structure.opsets.is_empty() {
            return Err(self.reader.broken(end, &"it imports no operator set: it ends"));
        }
        self.structure.main = main;
        Ok(self.structure)
    }

    fn main_graph(&mut self, field: &Field) -> Result<(), FormatError> {
        if self.main.is_some() {
            return Err(self.reader.broken(field.span.start, &"a second graph begins"));
        }
        self.main = Some(self.graph(field, None, Place::Main)?);
        Ok(())
    }

    fn opset(&mut self, field: &Field) -> Result<(), FormatError> {
        let (mut domain, mut version) = (NameId::NONE, 0);
        let mut rest = self.reader.bytes(field)?;
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                opset::DOMAIN => domain = self.name(&field)?,
                opset::VERSION => version = self.reader.integer(&field)?,
                _ => {}
            }
        }
        self.charge::<(NameId, i64)>(1)?;
        self.structure.opsets.push((domain, version));
        Ok(())
    }

    /// Values of metadata may be long, and do not matter here.
    fn metadata(&mut self, field: &Field) -> Result<(), FormatError> {
        let mut rest = self.reader.bytes(field)?;
        while let Some(field) = self.reader.next(&mut rest)? {
            if field.number == entry::KEY {
                let key = self.name(&field)?;
                self.structure.metadata.push(key);
            }
        }
        Ok(())
    }

    fn training(&mut self, field: &Field) -> Result<(), FormatError> {
        let frame = self.enter(field, None)?;
        let mut rest = self.body(frame);
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                training::INITIALIZATION | training::ALGORITHM => {
                    _ = self.graph(&field, Some(frame), Place::Training)?;
                }
                training::INITIALIZATION_BINDING | training::UPDATE_BINDING => {
                    for text in self.entry(&field)? {
                        let name = self.intern(&text)?;
                        self.structure.trained.push(name);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn function(&mut self, field: &Field) -> Result<(), FormatError> {
        let frame = self.enter(field, None)?;
        let (mut domain, mut name) = (NameId::NONE, NameId::NONE);
        let id = self.place_graph(frame, Place::Function(name))?;
        let mut body = Graph::new(frame, Place::Function(name));
        let mut rest = self.body(frame);
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                function::NAME => name = self.name(&field)?,
                function::DOMAIN => domain = self.name(&field)?,
                function::OUTPUT => body.outputs.push(Value { name: self.name(&field)?, frame }),
                function::NODE => body.nodes.push(self.node(&field, frame)?),
                function::VALUE => body.values.push(self.value(&field, frame)?),
                _ => {}
            }
        }
        body.place = Place::Function(name);
        self.structure.graphs[id.0] = body;
        let domain = if self.structure.is_standard(domain) { NameId::NONE } else { domain };
        self.charge::<[NameId; 4]>(1)?;
        self.structure.functions.insert((domain, name));
        Ok(())
    }

    fn graph(&mut self, field: &Field, parent: Option<FrameId>, place: Place) -> Result<GraphId, FormatError> {
        let frame = self.enter(field, parent)?;
        let id = self.place_graph(frame, place)?;
        let mut body = Graph::new(frame, place);
        let mut rest = self.body(frame);
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                graph::NODE => body.nodes.push(self.node(&field, frame)?),
                graph::INITIALIZER => body.initializers.push(self.tensor(&field, frame)?),
                graph::SPARSE => body.sparse.push(self.sparse_tensor(&field, frame)?),
                graph::INPUT => body.inputs.push(self.value(&field, frame)?),
                graph::OUTPUT => body.outputs.push(self.value(&field, frame)?),
                graph::VALUE => body.values.push(self.value(&field, frame)?),
                graph::ANNOTATION => self.annotation(&field, &mut body.annotated)?,
                _ => {}
            }
        }
        self.structure.graphs[id.0] = body;
        Ok(id)
    }

    /// Takes a graph's place before its subgraphs take theirs.
    fn place_graph(&mut self, frame: FrameId, place: Place) -> Result<GraphId, FormatError> {
        self.charge::<Graph>(1)?;
        self.structure.graphs.push(Graph::new(frame, place));
        Ok(GraphId(self.structure.graphs.len() - 1))
    }

    fn node(&mut self, field: &Field, parent: FrameId) -> Result<Node, FormatError> {
        let frame = self.enter(field, Some(parent))?;
        self.charge::<Node>(1)?;
        let (mut name, mut operator, mut domain, mut devices) = (NameId::NONE, NameId::NONE, NameId::NONE, false);
        let (mut inputs, mut outputs, mut attributes) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = self.body(frame);
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                node::INPUT => inputs.push(self.name(&field)?),
                node::OUTPUT => outputs.push(self.name(&field)?),
                node::NAME => name = self.name(&field)?,
                node::OPERATOR => operator = self.name(&field)?,
                node::DOMAIN => domain = self.name(&field)?,
                node::ATTRIBUTE => {
                    self.charge::<Field>(1)?;
                    attributes.push(field);
                }
                node::DEVICE => devices = true,
                _ => {}
            }
        }
        let mut graphs = Vec::new();
        let place = Place::Subgraph { node: name, operator };
        let attributes = attributes
            .into_iter()
            .map(|field| self.attribute(&field, frame, place, &mut graphs))
            .collect::<Result<Vec<_>, _>>()?
            .concat();
        Ok(Node {
            frame,
            name,
            operator,
            domain,
            inputs: inputs.into(),
            outputs: outputs.into(),
            attributes: attributes.into(),
            graphs: graphs.into(),
            devices,
        })
    }

    fn value(&mut self, field: &Field, parent: FrameId) -> Result<Value, FormatError> {
        let frame = self.enter(field, Some(parent))?;
        self.charge::<Value>(1)?;
        let (mut name, mut rest) = (NameId::NONE, self.body(frame));
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                value::NAME => name = self.name(&field)?,
                value::TYPE => self.check_type(&field, frame)?,
                _ => {}
            }
        }
        Ok(Value { name, frame })
    }

    /// Types of sequences, maps and optionals hold types: bounded like all nesting.
    fn check_type(&mut self, field: &Field, parent: FrameId) -> Result<(), FormatError> {
        let frame = self.enter(field, Some(parent))?;
        let mut rest = self.body(frame);
        while let Some(field) = self.reader.next(&mut rest)? {
            let inner = match field.number {
                type_of::SEQUENCE | type_of::OPTIONAL => element::TYPE,
                type_of::MAP => element::MAP_VALUE,
                _ => continue,
            };
            let holder = self.enter(&field, Some(frame))?;
            let mut rest = self.body(holder);
            while let Some(field) = self.reader.next(&mut rest)? {
                if field.number == inner {
                    self.check_type(&field, holder)?;
                }
            }
        }
        Ok(())
    }

    fn annotation(&mut self, field: &Field, annotated: &mut Vec<NameId>) -> Result<(), FormatError> {
        let mut rest = self.reader.bytes(field)?;
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                annotation::TENSOR => annotated.push(self.name(&field)?),
                annotation::PARAMETERS => {
                    let [_, tensor] = self.entry(&field)?;
                    annotated.push(self.intern(&tensor)?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Key and value of an entry.
    fn entry(&mut self, field: &Field) -> Result<[String; 2], FormatError> {
        let (mut key, mut value) = (String::new(), String::new());
        let mut rest = self.reader.bytes(field)?;
        while let Some(field) = self.reader.next(&mut rest)? {
            match field.number {
                entry::KEY => key = self.reader.text(&field)?,
                entry::VALUE => value = self.reader.text(&field)?,
                _ => {}
            }
        }
        Ok([key, value])
    }

    fn name(&mut self, field: &Field) -> Result<NameId, FormatError> {
        let text = self.reader.text(field)?;
        self.intern(&text)
    }

    fn intern(&mut self, text: &str) -> Result<NameId, FormatError> {
        self.charge::<[NameId; 2]>(1)?;
        let (id, new) = self.structure.names.intern(text);
        if new {
            self.charge::<[u8; 96]>(1)?;
            self.charge::<u8>(text.len())?;
        }
        Ok(id)
    }

    /// Goes into a message.
    fn enter(&mut self, field: &Field, parent: Option<FrameId>) -> Result<FrameId, FormatError> {
        let body = self.reader.bytes(field)?;
        let depth = parent.map_or(1, |parent| self.structure.frame(parent).depth + 1);
        if depth > NESTING {
            let what = format_args!("messages are nested more than {NESTING} deep");
            return Err(self.reader.broken(field.span.start, &what));
        }
        self.charge::<Frame>(1)?;
        self.structure.frames.push(Frame { start: field.span.start, prefix: field.prefix, body, parent, depth });
        Ok(FrameId(self.structure.frames.len() - 1))
    }

    fn body(&self, frame: FrameId) -> Span {
        self.structure.frame(frame).body
    }

    /// Counts so many `T` before they are kept.
    fn charge<T>(&mut self, count: usize) -> Result<(), FormatError> {
        match size_of::<T>().checked_mul(count).and_then(|bytes| self.budget.checked_sub(bytes)) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(self
                .reader
                .wrong(format!("its nodes, names and tensors would take more than {} MiB of memory", BUDGET >> 20))
                .with_help("no real model does: the file is damaged, or made to do harm")),
        }
    }

    fn push_tensor(&mut self, tensor: Tensor) -> Result<TensorId, FormatError> {
        self.charge::<Tensor>(1)?;
        self.structure.tensors.push(tensor);
        Ok(TensorId(self.structure.tensors.len() - 1))
    }
}

impl Graph {
    fn new(frame: FrameId, place: Place) -> Self {
        Self {
            frame,
            place,
            inputs: Vec::new(),
            outputs: Vec::new(),
            values: Vec::new(),
            initializers: Vec::new(),
            sparse: Vec::new(),
            annotated: Vec::new(),
            nodes: Vec::new(),
        }
    }
}
