//! `onnx`: runs ONNX graphs on the CPU with rten.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use calabi_api::{InputSpec, Output, Plugin, RunError, Runner, Runtime, Samples, Tensor};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::batches::{Batch, Batches};
use crate::inputs::{Input, matched};
use crate::outputs::Joined;
use crate::wire;

/// Runs ONNX graphs on the CPU with [rten](https://docs.rs/rten).
///
/// # Batches
/// Samples run in batches along the first axis of every input. Where the model fixes that axis, so many samples run at
/// once, and the last one is repeated to fill the last batch, its surplus outputs cut. Where the axis is free, at most
/// 32 samples run at once, and so few that no input has more than 4096 values, at least one: memory is bounded, and
/// the batches of the same samples are always the same. A model that treats its samples one by one, as nearly all do,
/// gives the same outputs in other batches, up to rounding.
///
/// # Types
/// rten runs `int64`, `int32` and `bool` inputs as `i32`, `float16` and `double` inputs as `f32`, and so
/// [`InputSpec`] calls them. Given integers are converted to the type that the model wants where no value changes,
/// floating point to integers never. Outputs are given as `f32`.
///
/// # Threads
/// As many as rayon's current pool has when the model is loaded. Outputs do not depend on it.
///
/// # Hostile models
/// A file is checked before the engine reads it, since the engine believes every length in it. A panic of the engine
/// becomes [`RunError::Load`] or [`RunError::Failed`] (the panic hook prints before that). How much memory and time the
/// operators of a well-formed model take is not bounded.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnnxRuntime {}

calabi_api::submit! { Plugin::runtime::<OnnxRuntime>("onnx", "run ONNX graphs on the CPU (rten)") }

impl Runtime for OnnxRuntime {
    /// Judged by the name alone: a damaged file of that name is better refused by [`load`](Self::load), with a reason.
    fn detect(&self, path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")) && path.is_file()
    }

    fn load(&self, path: &Path) -> Result<Box<dyn Runner>, RunError> {
        let refused = |problem| RunError::Load { path: path.to_owned(), problem };
        wire::check(path).map_err(refused)?;
        let options = ModelOptions::with_all_ops();
        let model =
            guarded(|| options.load_file(path)).map_err(refused)?.map_err(|error| refused(error.to_string()))?;
        if model.output_ids().is_empty() {
            return Err(refused("it has no outputs".to_owned()));
        }
        Ok(Box::new(OnnxRunner::new(model)))
    }
}

/// An ONNX graph that runs.
struct OnnxRunner {
    model: Model,
    inputs: Vec<Input>,
    threads: Arc<ThreadPool>,
}

impl OnnxRunner {
    fn new(model: Model) -> Self {
        let threads = Arc::new(ThreadPool::with_num_threads(rayon::current_num_threads()));
        Self { inputs: Input::all(&model), model, threads }
    }

    /// The outputs of one batch, in the model's order.
    fn run(&self, tensors: &[&Tensor], batch: &Batch) -> Result<Vec<Value>, RunError> {
        let feed = |(input, tensor): (&Input, &&Tensor)| {
            let samples = tensor.samples(batch.samples.start, batch.samples.end);
            Ok((input.id, ValueOrView::from(input.value(&samples, batch.size)?)))
        };
        let values: Vec<_> = self.inputs.iter().zip(tensors).map(feed).collect::<Result<_, _>>()?;
        let options = RunOptions::default().with_thread_pool(Some(self.threads.clone()));
        guarded(|| self.model.run(values, self.model.output_ids(), Some(options)))
            .map_err(RunError::Failed)?
            .map_err(|error| RunError::Failed(error.to_string()))
    }

    fn name(&self, id: NodeId) -> String {
        self.model.node_info(id).and_then(|info| info.name()).unwrap_or_default().to_owned()
    }
}

impl Runner for OnnxRunner {
    fn inputs(&self) -> Vec<InputSpec> {
        self.inputs.iter().map(Input::spec).collect()
    }

    fn sources(&self, _: &[&calabi_api::Layer]) -> Result<Vec<String>, RunError> {
        Err(RunError::Failed("inner values cannot be watched yet".to_owned()))
    }

    fn observe(
        &mut self,
        _: &Samples,
        _: &[&calabi_api::Layer],
        _: &mut calabi_api::Watch<'_>,
    ) -> Result<(), RunError> {
        Err(RunError::Failed("inner values cannot be watched yet".to_owned()))
    }

    fn substitute(&mut self, _: &calabi_api::Layer, _: Option<&calabi_api::Factors>) -> Result<(), RunError> {
        Err(RunError::Failed("layers cannot be substituted yet".to_owned()))
    }

    fn outputs(&mut self, samples: &Samples) -> Result<Vec<Output>, RunError> {
        let tensors = matched(&self.inputs, samples)?;
        let batches = Batches::new(&self.inputs, &tensors)?;
        let mut outputs: Vec<_> = self.model.output_ids().iter().map(|&id| Joined::new(self.name(id))).collect();
        for batch in batches {
            let values = self.run(&tensors, &batch)?;
            for (output, value) in outputs.iter_mut().zip(&values) {
                output.push(value, &batch)?;
            }
        }
        outputs.into_iter().map(Joined::finish).collect()
    }
}

/// What `work` gives, or what it panicked with.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| format!("the engine panicked: {}", said(panic.as_ref())))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_engine_is_an_error_with_its_words() {
        let (number, literal) = (guarded(|| -> u8 { panic!("node {}", 7) }), guarded(|| -> u8 { panic!("no node") }));
        assert_eq!(number, Err("the engine panicked: node 7".to_owned()));
        assert_eq!(literal, Err("the engine panicked: no node".to_owned()));
        assert_eq!(guarded(|| 7), Ok(7));
    }
}
