//! Tests of the ONNX format.

mod bias;
mod evaluate;
mod external;
mod hostile;
mod integers;
mod layers;
mod norms;
mod places;
mod rewrite;
mod schema;
mod support;
mod untouched;
