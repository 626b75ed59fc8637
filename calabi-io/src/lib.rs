//! Model formats for calabi: safetensors (a file or a Hugging Face folder) and ONNX.

mod file;
mod onnx;
mod safetensors;

pub use onnx::Onnx;
pub use safetensors::{MODELLING_FILE, SafeTensors, is_head};
