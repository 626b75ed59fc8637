//! The format safetensors: what it refuses, what it finds, what it writes.

mod amend;
mod bias;
mod config;
mod damage;
mod densify;
mod folder;
mod layers;
mod malformed;
mod norms;
mod roundtrip;
mod support;
