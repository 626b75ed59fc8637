//! The format safetensors: what it refuses, what it finds, what it writes.

mod config;
mod damage;
mod folder;
mod layers;
mod malformed;
mod roundtrip;
mod support;
