//! The engine's models of one file: at most one in memory, loaded anew when another is needed.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calabi_api::{Factors, Layer, RunError, Tensor};
use rten::{ThreadPool, Value};

use super::graph::Graph;
use super::outline::{Outline, Place};
use super::patch::{Substitute, apply};
use super::sources::Source;
#[cfg(feature = "onnxruntime")]
use super::with_onnxruntime::OrtGraph;
use super::with_rten::{Refusal, RtenGraph};
use crate::batches::Batch;
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
    pub(crate) inputs: Vec<Input>,
    /// The names of its outputs.
    pub(crate) outputs: Vec<String>,
    graph: Box<dyn Graph>,
}

impl Engine {
    /// Loads a model for its outputs.
    pub(crate) fn load(path: &Path) -> Result<Self, RunError> {
        let threads = Arc::new(ThreadPool::with_num_threads(rayon::current_num_threads()));
        let (outline, substitutes) = (OnceCell::new(), BTreeMap::new());
        let mut engine = Self { path: path.to_owned(), outline, substitutes, threads, loaded: None };
        if engine.get(Purpose::Outputs)?.outputs.is_empty() {
            return Err(engine.refused("it has no outputs".to_owned()));
        }
        Ok(engine)
    }

    /// The model for this purpose, with all substitutes in it.
    pub(crate) fn get(&mut self, purpose: Purpose) -> Result<&mut Loaded, RunError> {
        if !matches!(&self.loaded, Some((known, _)) if *known == purpose) {
            self.loaded = None; // before the other is made: one model in memory
            let graph = self.made(purpose).map_err(|problem| self.refused(problem))?;
            self.loaded = Some((purpose, Loaded { inputs: graph.inputs(), outputs: graph.outputs(), graph }));
        }
        match &mut self.loaded {
            Some((_, loaded)) => Ok(loaded),
            None => Err(RunError::Load { path: self.path.clone(), problem: "it is not loaded".to_owned() }),
        }
    }

    fn made(&self, purpose: Purpose) -> Result<Box<dyn Graph>, String> {
        wire::check(&self.path)?;
        match self.with_rten(purpose) {
            Ok(graph) => Ok(Box::new(graph)),
            Err(Refusal::Operator(problem)) => self.with_another(&problem, purpose),
            Err(Refusal::Other(problem)) => Err(problem),
        }
    }

    fn with_rten(&self, purpose: Purpose) -> Result<RtenGraph, Refusal> {
        let (optimized, threads) = (purpose == Purpose::Outputs, self.threads.clone());
        if self.substitutes.is_empty() {
            return RtenGraph::of_file(&self.path, optimized, threads);
        }
        let bytes = self.patched().map_err(Refusal::Other)?;
        RtenGraph::of_bytes(bytes, self.beside().map_err(Refusal::Other)?, optimized, threads)
    }

    /// A model that has an operator which rten lacks.
    #[cfg(feature = "onnxruntime")]
    fn with_another(&self, problem: &str, purpose: Purpose) -> Result<Box<dyn Graph>, String> {
        let told = |other| format!("{problem}; {other}");
        let graph = self.with_onnxruntime(purpose).map_err(told)?;
        Ok(Box::new(graph))
    }

    #[cfg(not(feature = "onnxruntime"))]
    #[allow(clippy::unused_self)]
    fn with_another(&self, problem: &str, _: Purpose) -> Result<Box<dyn Graph>, String> {
        Err(format!("{problem}; a calabi built with the feature `onnxruntime` gives such a model to onnxruntime"))
    }

    #[cfg(feature = "onnxruntime")]
    fn with_onnxruntime(&self, purpose: Purpose) -> Result<OrtGraph, String> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (bytes, folder) = (self.patched()?, folder.canonicalize().map_err(|error| error.to_string())?);
        if purpose == Purpose::Outputs {
            return OrtGraph::of_bytes(&bytes, &folder, None, true);
        }
        let (bytes, outputs) = super::patch::watched(&bytes)?;
        OrtGraph::of_bytes(&bytes, &folder, Some(outputs), false)
    }

    /// The model's bytes, with all substitutes in them.
    fn patched(&self) -> Result<Vec<u8>, String> {
        let bytes = std::fs::read(&self.path).map_err(|error| error.to_string())?;
        if self.substitutes.is_empty() { Ok(bytes) } else { apply(&bytes, self.substitutes.values()) }
    }

    /// The files beside the model. Their names passed the engine's own check when the model was first loaded.
    fn beside(&self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let locations = self.outline()?.locations().into_iter();
        let read = |location: &str| {
            let path = self.path.with_file_name(location);
            let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok((location.to_owned(), bytes))
        };
        locations.map(read).collect()
    }

    fn outline(&self) -> Result<&Outline, String> {
        if let Some(outline) = self.outline.get() {
            return Ok(outline);
        }
        let bytes = std::fs::read(&self.path).map_err(|error| error.to_string())?;
        let outline = Outline::parse(&bytes)?;
        Ok(self.outline.get_or_init(|| outline))
    }

    /// What a layer reads, if it can be watched.
    pub(crate) fn source(&self, layer: &Layer) -> Result<Source, RunError> {
        let (input, place) = self.place(layer)?;
        if !place.features_last {
            return Err(refused(layer, "its node reads its input transposed, which cannot be watched"));
        }
        Ok(Source::of(layer, input))
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
        let place = node.place(input, layer.wiring.window.as_ref()).map_err(|problem| refused(layer, &problem))?;
        Ok((input, place))
    }

    fn refused(&self, problem: String) -> RunError {
        RunError::Load { path: self.path.clone(), problem }
    }
}

impl Loaded {
    /// Its outputs on one batch.
    pub(crate) fn run(&mut self, tensors: &[&Tensor], batch: &Batch) -> Result<Vec<Value>, RunError> {
        let inputs = self.fed(tensors, batch)?;
        let names: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        self.graph.run(inputs, &names).map_err(RunError::Failed)
    }

    /// The values of these names on one batch.
    pub(crate) fn values(
        &mut self,
        tensors: &[&Tensor],
        batch: &Batch,
        names: &[&str],
    ) -> Result<Vec<Value>, RunError> {
        let inputs = self.fed(tensors, batch)?;
        self.graph.run(inputs, names).map_err(RunError::Failed)
    }

    fn fed(&self, tensors: &[&Tensor], batch: &Batch) -> Result<Vec<Value>, RunError> {
        let feed = |(input, tensor): (&Input, &&Tensor)| {
            let samples = tensor.samples(batch.samples.start, batch.samples.end);
            input.value(&samples, batch.size)
        };
        self.inputs.iter().zip(tensors).map(feed).collect()
    }
}

fn refused(layer: &Layer, problem: &str) -> RunError {
    RunError::Failed(format!(
        "layer {}: {problem}; exclude it, or leave out what needs to watch it",
        shown(&layer.name)
    ))
}
