//! Tests of what the crate promises, as one program: rten is linked once.

mod convolution;
mod data;
mod hf;
mod low_rank;
mod models;
mod npz;
mod onnx;
mod onnxruntime;
mod quickstart;
mod substitute;
mod watch;
