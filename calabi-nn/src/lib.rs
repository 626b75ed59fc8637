//! Models that run, for calabi: what `[calibration]`, `[verify]` and `eval` run on.
//!
//! | kind | runs | on |
//! |---|---|---|
//! | `onnx` | [`OnnxRuntime`]: ONNX graphs, on the CPU | [rten](https://docs.rs/rten), pure Rust |
//! | `hf` | [`HfRuntime`]: checkpoint folders, block by block, on the CPU | [candle](https://docs.rs/candle-core), pure Rust |
//!
//! A layer of one's own models is factorized in one call and runs on its factors, in candle or on plain arrays:
//! [`LowRankLinear`]. [`gradcheck`] compares gradients of any layer with differences. `candle_core`, `candle_nn` and
//! `ndarray` are those of this crate, so that versions need no matching.
//!
//! Samples come from text, `.npz` or `.safetensors` files: [`load_data`] reads all of them and makes them fit a model,
//! [`text_windows`] cuts a text for evaluation; [`read_npz`] reads every array, [`read_samples`] splits off the labels.
//!
//! # Design
//!
//! A model and its data are input that nobody has vetted. Sizes in a file are checked against the file before they
//! size anything; a panic of the engine ends in an error; names are escaped and cut before they reach a message.

mod batches;
mod data;
mod fill;
mod gradcheck;
mod guard;
mod hf;
mod inputs;
mod low_rank;
mod npy;
mod npz;
mod onnx;
mod outputs;
mod random;
mod safetensors;
mod samples;
mod text;
mod tokens;
mod wire;

pub use data::{DataOptions, load_data, text_windows};
pub use gradcheck::{Deviation, GradCheck, gradcheck};
pub use hf::{
    Generator, HfRuntime, TrainEvent, TrainLimit, TrainObjective, TrainSettings, Trained, held_out_loss, train,
};
pub use low_rank::{CompressError, Compressed, CompressionReport, Gradients, LowRankLinear};
pub use npz::read_npz;
pub use onnx::OnnxRuntime;
pub use samples::{Labelled, read_samples};

// What the layer takes and gives, so that a user needs no versions of his own.
pub use {candle_core, candle_nn, ndarray};
