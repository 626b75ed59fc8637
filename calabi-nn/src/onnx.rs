//! `onnx`: runs ONNX graphs on the CPU with rten.

mod engine;
mod graph;
mod outline;
mod patch;
mod patches;
mod runner;
mod sources;
mod watch;
#[cfg(feature = "onnxruntime")]
mod with_onnxruntime;
mod with_rten;

use std::path::Path;

use calabi_api::{Plugin, RunError, Runner, Runtime};
use schemars::JsonSchema;
use serde::Deserialize;

use engine::Engine;
use runner::OnnxRunner;

/// Runs ONNX graphs on the CPU with [rten](https://docs.rs/rten).
///
/// ```
/// # use std::path::Path;
/// use calabi_api::Runtime;
/// use calabi_nn::{OnnxRuntime, read_samples};
///
/// # let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart"));
/// # let [model, file] = ["digits.onnx", "held-out.npz"].map(|name| folder.join(name));
/// assert!(OnnxRuntime::default().detect(&model));
/// let mut runner = OnnxRuntime::default().load(&model)?;
/// assert_eq!(runner.inputs()[0].name, "image");
/// let held_out = read_samples(&file, Some("labels"))?; // 360 images
/// assert_eq!(runner.outputs(&held_out.samples)?[0].values.shape(), [360, 10]);
/// # Ok::<(), calabi_api::RunError>(())
/// ```
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
/// [`InputSpec`](calabi_api::InputSpec) calls them. Given integers are converted to the type that the model wants where no value changes,
/// floating point to integers never. Outputs are given as `f32`.
///
/// # Operators that rten lacks
/// With the crate's feature `onnxruntime`, a model that rten refuses for one of its operators is run by onnxruntime's shared
/// library, which is loaded when it is first needed: the one that `ORT_DYLIB_PATH` names, else the system's
/// `libonnxruntime.so` (1.17 or later). Everything below holds there too, but that outputs may depend on the number of
/// threads by rounding.
///
/// # Watching and substituting
/// The engine merges and drops inner values to be faster, so that watching needs another model: one of the two is in
/// memory at a time, and the file is read again when the other is needed, or another weight: it has to stay where it is
/// for as long as the runner is used so. A layer is known by [`Wiring`](calabi_api::Wiring) `input` and `output`; it has
/// to be a `MatMul`, a `Gemm` or a `Conv` of the main graph with a weight that no other node reads. What flows into a `Conv`
/// is what it reads at each place of its input, by the window of its wiring.
///
/// Where the model has an input `attention_mask` of `[samples, sequence]`, rows of what flows into a layer are left out
/// where it is zero, if the value's leading axes are these two, or both as one.
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
        Ok(Box::new(OnnxRunner::new(Engine::load(path)?)?))
    }
}
