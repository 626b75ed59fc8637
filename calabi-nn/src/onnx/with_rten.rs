//! Graphs that rten runs.

use std::path::Path;
use std::sync::Arc;

use rten::{
    LoadError, LoadErrorKind, Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueType,
};

use super::graph::Graph;
use crate::guard::guarded;
use crate::inputs::Input;
use crate::text::shown;

/// A model in rten's memory.
pub(super) struct RtenGraph {
    model: Model,
    threads: Arc<ThreadPool>,
}

/// Why rten does not load a model.
pub(super) enum Refusal {
    /// It lacks an operator, or one of its forms.
    Operator(String),
    Other(String),
}

impl RtenGraph {
    /// Loads a file; `optimized`: inner values may be merged and dropped.
    pub(super) fn of_file(path: &Path, optimized: bool, threads: Arc<ThreadPool>) -> Result<Self, Refusal> {
        Self::of(threads, || options(optimized).load_file(path))
    }

    /// Loads a model from memory, with the files beside it by the names that it calls them.
    pub(super) fn of_bytes(
        bytes: Vec<u8>,
        beside: Vec<(String, Vec<u8>)>,
        optimized: bool,
        threads: Arc<ThreadPool>,
    ) -> Result<Self, Refusal> {
        let mut options = options(optimized);
        for (name, data) in beside {
            options.external_data(&name, data);
        }
        Self::of(threads, || options.load(bytes))
    }

    fn of(threads: Arc<ThreadPool>, load: impl FnOnce() -> Result<Model, LoadError>) -> Result<Self, Refusal> {
        let model = guarded(load).map_err(Refusal::Other)?.map_err(|error| match error.kind() {
            LoadErrorKind::OperatorInvalid => Refusal::Operator(error.to_string()),
            _ => Refusal::Other(error.to_string()),
        })?;
        Ok(Self { model, threads })
    }

    fn name(&self, id: NodeId) -> String {
        self.model.node_info(id).and_then(|info| info.name()).unwrap_or_default().to_owned()
    }
}

impl Graph for RtenGraph {
    fn inputs(&self) -> Vec<Input> {
        let of = |&id: &NodeId| {
            let info = self.model.node_info(id);
            let dtype = match info.as_ref().and_then(rten::NodeInfo::dtype) {
                Some(ValueType::Tensor(dtype)) => Some(dtype),
                _ => None,
            };
            Input::new(self.name(id), dtype, info.and_then(|info| info.shape()))
        };
        self.model.input_ids().iter().map(of).collect()
    }

    fn outputs(&self) -> Vec<String> {
        self.model.output_ids().iter().map(|&id| self.name(id)).collect()
    }

    fn run(&mut self, inputs: Vec<Value>, names: &[&str]) -> Result<Vec<Value>, String> {
        let missing = |name: &str| format!("the model has no value {}", shown(name));
        let find = |&name: &&str| self.model.find_node(name).ok_or_else(|| missing(name));
        let wanted: Vec<NodeId> = names.iter().map(find).collect::<Result<_, _>>()?;
        let inputs = self.model.input_ids().iter().copied().zip(inputs.into_iter().map(ValueOrView::from)).collect();
        let options = RunOptions::default().with_thread_pool(Some(self.threads.clone()));
        guarded(|| self.model.run(inputs, &wanted, Some(options)))?.map_err(|error| error.to_string())
    }
}

fn options(optimized: bool) -> ModelOptions {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(optimized);
    options
}
