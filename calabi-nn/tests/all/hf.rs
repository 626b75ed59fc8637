//! Checkpoint folders: tiny random ones of every family, made by `tests/python/make_tiny_models.py`.

mod blocks;
mod checkpoint;
mod factors;
mod families;
mod folders;
mod generating;
mod threads;
mod training;
mod tuning;
mod watching;
