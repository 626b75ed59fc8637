//! safetensors: a single file, or a folder of the Hugging Face kind.
//!
//! The file begins with a header: eight bytes of length, then a JSON object that gives each tensor's type, shape and
//! place; after it the tensors' bytes stand back to back (<https://github.com/huggingface/safetensors>). The header is
//! read strictly: what the reference implementation accepts but no model can mean is refused.
//!
//! A factorized layer `x.weight` (m × n) becomes `x.right.weight` (r × n) and `x.left.weight` (m × r), and its bias
//! `x.left.bias`, to which the bias of the factors is added: two plain linear layers. All other tensors are copied byte for
//! byte, unless they are amended.

mod bias_keys;
mod config;
mod densify;
mod dtype;
mod encode;
mod factor;
mod folder;
mod header;
mod index;
mod json;
mod layers;
mod loader;
mod norms;
mod order;
mod plan;
mod roles;
mod sink;
mod source;
mod weights;

pub use loader::FILE as MODELLING_FILE;
pub use roles::is_head;

use std::path::Path;

use calabi_api::{FormatError, LayerFormat, LayerSource, Plugin};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::file::Input;

/// The kind, as the pipeline file and reports call it.
const KIND: &str = "safetensors";

/// The format safetensors. It has no settings.
///
/// What it reads and writes:
///
/// - a `.safetensors` file, of which a `.safetensors` file is made;
/// - a folder with `model.safetensors`, or with shards and `model.safetensors.index.json`, of which a folder is made.
///   The other files at the top of the folder (tokenizer, generation settings) are copied. Weights in other formats and
///   `.safetensors` files that are no part of the model are not, nor are subfolders. `config.json` is copied as it is
///   where nothing is factorized; else it says `model_type = "calabi"`, and `calabi` holds the base model's type and
///   the ranks, so that no loader can mistake the checkpoint for the dense model. Beside it then lies
///   `modeling_calabi.py` (in the place of a file of that name), by which transformers 5 loads the checkpoint with
///   `trust_remote_code=True`.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SafeTensors {}

calabi_api::submit! { Plugin::format::<SafeTensors>("safetensors", "a .safetensors file, or a Hugging Face folder") }

impl LayerFormat for SafeTensors {
    fn detect(&self, path: &Path) -> bool {
        if path.is_dir() { folder::detect(path) } else { has_extension(path, KIND) || starts_as_header(path) }
    }

    fn open(&self, path: &Path) -> Result<Box<dyn LayerSource>, FormatError> {
        Ok(Box::new(source::Source::open(path)?))
    }
}

/// Whether the file ends in `.extension`, in letters of either case.
fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn starts_as_header(path: &Path) -> bool {
    Input::open(path).is_ok_and(|file| header::begins(&file))
}
