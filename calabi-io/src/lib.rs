//! Model formats for calabi: safetensors (a file or a Hugging Face folder) and ONNX.

mod file;
mod onnx;
mod safetensors;

pub use safetensors::SafeTensors;
