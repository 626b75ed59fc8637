//! The engine's models of one file: at most one in memory, loaded anew when another is needed.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calabi_api::{Factors, Layer, RunError, Tensor};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};

use super::outline::{Outline, Place};
use super::patch::{Substitute, apply};
use crate::batches::Batch;
use crate::guard::guarded;
use crate::inputs::Input;
use crate::text::shown;
use crate::wire;

/// What a model is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its outputs: the engine may merge and drop inner values, and is faster.
    Outputs,
    /// Watching: every inner value is there.
    Watching,
}

/// A model file, and the model that was last made of it.
pub(crate) struct Engine {
    path: PathBuf,
    /// Read when a layer is first asked for.
    outline: OnceCell<Outline>,
    /// By the names of the values that the layers give.
    substitutes: BTreeMap<String, Substitute>,
    threads: Arc<ThreadPool>,
    loaded: Option<(Purpose, Loaded)>,
}

/// A model in memory.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    pub(crate) inputs: Vec<Input>,
    threads: Arc<ThreadPool>,
}

impl Engine {
    /// Loads a model for its outputs.
    pub(crate) fn load(path: &Path) -> Result<Self, RunError> {
        let threads = Arc::new(ThreadPool::with_num_threads(rayon::current_num_threads()));
        let (outline, substitutes) = (OnceCell::new(), BTreeMap::new());
        let mut engine = Self { path: path.to_owned(), outline, substitutes, threads, loaded: None };
        if engine.get(Purpose::Outputs)?.model.output_ids().is_empty() {
            return Err(engine.refused("it has no outputs".to_owned()));
        }
        Ok(engine)
    }

    /// The model for this purpose, with all substitutes in it.
    pub(crate) fn get(&mut self, purpose: Purpose) -> Result<&Loaded, RunError> {
        if !matches!(&self.loaded, Some((known, _)) if *known == purpose) {
            self.loaded = None; // before the other is made: one model in memory
            let model = self.made(purpose).map_err(|problem| self.refused(problem))?;
            let loaded = Loaded { inputs: Input::all(&model), model, threads: self.threads.clone() };
            self.loaded = Some((purpose, loaded));
        }
        match &self.loaded {
            Some((_, loaded)) => Ok(loaded),
            None => Err(self.refused("it is not loaded".to_owned())),
        }
    }

    fn made(&self, purpose: Purpose) -> Result<Model, String> {
        wire::check(&self.path)?;
        let model = if self.substitutes.is_empty() {
            let mut options = ModelOptions::with_all_ops();
            options.enable_optimization(purpose == Purpose::Outputs);
            guarded(|| options.load_file(&self.path))?
        } else {
            let bytes = std::fs::read(&self.path).map_err(|error| error.to_string())?;
            let patched = apply(&bytes, self.substitutes.values())?;
            drop(bytes);
            let mut options = self.beside()?;
            options.enable_optimization(purpose == Purpose::Outputs);
            guarded(|| options.load(patched))?
        };
        model.map_err(|error| error.to_string())
    }

    /// Options that know the files beside the model. Their names passed the engine's own check when the model was
    /// first loaded.
    fn beside(&self) -> Result<ModelOptions, String> {
        let mut options = ModelOptions::with_all_ops();
        for location in self.outline()?.locations() {
            let path = self.path.with_file_name(location);
            let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            options.external_data(location, bytes);
        }
        Ok(options)
    }

    fn outline(&self) -> Result<&Outline, String> {
        if let Some(outline) = self.outline.get() {
            return Ok(outline);
        }
        let bytes = std::fs::read(&self.path).map_err(|error| error.to_string())?;
        let outline = Outline::parse(&bytes)?;
        Ok(self.outline.get_or_init(|| outline))
    }

    /// The name of the value that flows into a layer, if it can be watched.
    pub(crate) fn source(&self, layer: &Layer) -> Result<String, RunError> {
        let (input, place) = self.place(layer)?;
        if !place.features_last {
            return Err(refused(layer, "its node reads its input transposed, which cannot be watched"));
        }
        Ok(input.to_owned())
    }

    /// Puts factors in the place of a layer's weight, or the weight back.
    pub(crate) fn substitute(&mut self, layer: &Layer, factors: Option<&Factors>) -> Result<(), RunError> {
        let (_, place) = self.place(layer)?;
        let output = layer.wiring.output.clone().unwrap_or_default();
        let changed = match factors {
            Some(factors) => {
                let outline = self.outline().map_err(|problem| refused(layer, &problem))?;
                let substitute = Substitute::new(outline, layer, place, &output, factors);
                self.substitutes.insert(output, substitute.map_err(|problem| refused(layer, &problem))?);
                true
            }
            None => self.substitutes.remove(&output).is_some(),
        };
        if changed {
            self.loaded = None;
        }
        Ok(())
    }

    /// The value that flows into a layer, and where its weight enters its node.
    fn place<'l>(&self, layer: &'l Layer) -> Result<(&'l str, Place), RunError> {
        let (Some(input), Some(output)) = (&layer.wiring.input, &layer.wiring.output) else {
            return Err(refused(layer, "it stands in a subgraph or a function, where no input can be watched"));
        };
        let outline = self.outline().map_err(|problem| self.refused(problem))?;
        let Some(node) = outline.giver(output) else {
            let problem = format!("no node of the main graph gives its output {}", shown(output));
            return Err(refused(layer, &problem));
        };
        let place = node.place(input).map_err(|problem| refused(layer, &problem))?;
        Ok((input, place))
    }

    fn refused(&self, problem: String) -> RunError {
        RunError::Load { path: self.path.clone(), problem }
    }
}

impl Loaded {
    /// These values of one batch.
    pub(crate) fn run(&self, tensors: &[&Tensor], batch: &Batch, values: &[NodeId]) -> Result<Vec<Value>, RunError> {
        let feed = |(input, tensor): (&Input, &&Tensor)| {
            let samples = tensor.samples(batch.samples.start, batch.samples.end);
            Ok((input.id, ValueOrView::from(input.value(&samples, batch.size)?)))
        };
        let inputs: Vec<_> = self.inputs.iter().zip(tensors).map(feed).collect::<Result<_, _>>()?;
        let options = RunOptions::default().with_thread_pool(Some(self.threads.clone()));
        guarded(|| self.model.run(inputs, values, Some(options)))
            .map_err(RunError::Failed)?
            .map_err(|error| RunError::Failed(error.to_string()))
    }

    /// The name of a value.
    pub(crate) fn name(&self, id: NodeId) -> String {
        self.model.node_info(id).and_then(|info| info.name()).unwrap_or_default().to_owned()
    }
}

fn refused(layer: &Layer, problem: &str) -> RunError {
    RunError::Failed(format!(
        "layer {}: {problem}; exclude it, or leave out what needs to watch it",
        shown(&layer.name)
    ))
}
