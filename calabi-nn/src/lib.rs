//! Models that run, for calabi: what `[verify]` measures on.
//!
//! | kind | runs | on |
//! |---|---|---|
//! | `onnx` | [`OnnxRuntime`]: ONNX graphs, on the CPU | [rten](https://docs.rs/rten), pure Rust |
//! | `hf` | [`HfRuntime`]: checkpoint folders, block by block, on the CPU | [candle](https://docs.rs/candle-core), pure Rust |
//!
//! Samples come from `.npz` files: [`read_npz`] reads every array, [`read_samples`] splits off the labels.
//!
//! # Design
//!
//! A model and its data are input that nobody has vetted. Sizes in a file are checked against the file before they
//! size anything; a panic of the engine ends in an error; names are escaped and cut before they reach a message.

mod batches;
mod hf;
mod inputs;
mod npy;
mod npz;
mod onnx;
mod outputs;
mod samples;
mod text;
mod wire;

pub use hf::HfRuntime;
pub use npz::read_npz;
pub use onnx::OnnxRuntime;
pub use samples::{Labelled, read_samples};
