//! Tests of the ONNX format.

mod evaluate;
mod external;
mod hostile;
mod layers;
mod rewrite;
mod schema;
mod support;
mod untouched;
