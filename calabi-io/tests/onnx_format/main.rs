//! Tests of the ONNX format.

mod bias;
mod evaluate;
mod external;
mod hostile;
mod layers;
mod norms;
mod rewrite;
mod schema;
mod support;
mod untouched;
