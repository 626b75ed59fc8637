//! `hf`: runs checkpoint folders of the Hugging Face kind, block by block.

mod adam;
mod architecture;
mod attention;
mod balance;
mod block;
mod blocks;
mod checkpoint;
mod config;
mod embed;
mod generate;
mod head;
mod layers;
mod linear;
mod mlp;
mod names;
mod norm;
pub(crate) mod ops;
mod pass;
mod rotary;
mod runner;
mod shuffle;
mod store;
mod tokens;
mod train;
mod tune;

use std::path::Path;

use calabi_api::{Plugin, RunError, Runner, Runtime};
use schemars::JsonSchema;
use serde::Deserialize;

pub use generate::Generator;
pub use train::{TrainEvent, TrainLimit, TrainObjective, TrainSettings, Trained, held_out_loss, train};

use runner::HfRunner;

/// Runs checkpoint folders (`config.json` and safetensors) on the CPU with [candle](https://docs.rs/candle-core).
///
/// ```
/// use calabi_api::{Runtime, Samples, Tensor};
/// use calabi_nn::{HfRuntime, ndarray::array};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/llama").as_ref();
/// let mut model = HfRuntime::default().load(folder)?;
/// let tokens = Tensor::I64(array![[1, 2, 3]].into_dyn());
/// let outputs = model.outputs(&Samples { inputs: vec![("input_ids".to_owned(), tokens)] })?;
/// assert_eq!((outputs[0].name.as_str(), outputs[0].values.shape()), ("logits", &[1, 3, 80][..]));
/// # Ok::<(), calabi_api::RunError>(())
/// ```
///
/// # Models
/// Decoders of the Llama family (`llama`, `mistral`, `qwen2`, `qwen3`) and `gemma3`, `gpt2`, and the encoder `bert`; as
/// they are published or factorized by calabi. Whatever else `config.json` says that would change the computation is
/// refused by the name of its key.
///
/// # Inputs and outputs
/// `input_ids` (samples × sequence), and where they are given `attention_mask` (0 marks padding) and for BERT
/// `token_type_ids`; a decoder gives `logits`, BERT `last_hidden_state` and, where the checkpoint has a pooler,
/// `pooler_output`. What stands at padded positions of an output means nothing.
///
/// # Memory
/// One block's weights, or the head's, are in memory at a time, in `f32`; embeddings are read row by row. The hidden
/// states of all samples are kept by [`States`](calabi_api::States), in a file where they pass its bound.
///
/// # Batches and threads
/// Samples of one length run together, at most 1024 tokens at once; results depend on that by rounding alone, and never
/// on the number of threads.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HfRuntime {}

calabi_api::submit! { Plugin::runtime::<HfRuntime>("hf", "run checkpoint folders block by block, on the CPU (candle)") }

impl Runtime for HfRuntime {
    /// A folder with `config.json` and safetensors.
    fn detect(&self, path: &Path) -> bool {
        path.join("config.json").is_file() && checkpoint::is_folder(path)
    }

    fn load(&self, path: &Path) -> Result<Box<dyn Runner>, RunError> {
        Ok(Box::new(HfRunner::open(path)?))
    }
}

/// What the engine said.
fn failed(error: candle_core::Error) -> RunError {
    RunError::Failed(error.to_string())
}
