//! Conformance suites: what an author of a calabi plugin runs in one line.

pub mod allocators;
pub mod decomposers;
pub mod matrices;
mod runner;
pub mod selectors;
