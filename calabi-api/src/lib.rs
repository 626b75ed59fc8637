//! The contracts of calabi, and the registry through which plugins meet the pipeline.
//!
//! A plugin implements one trait and registers itself with one line; the pipeline file then knows it by its kind:
//!
//! | trait | a plugin that | named in the pipeline file by |
//! |---|---|---|
//! | [`RankSelector`] | chooses the rank of one layer from its spectrum | `[rank]`, `[[override]]` |
//! | [`RankAllocator`] | shares one budget among all layers | `[rank]` |
//! | [`Decomposer`] | computes singular values and vectors | `[decomposer]` |
//! | [`LayerFormat`] | reads and writes model files | `[model] format`, else by the file |
//! | [`Runtime`] | runs a model on samples | by the file, for `[calibration]` and `[verify]` |
//!
//! ```
//! use calabi_api::{Choice, LayerSpectrum, Plugin, Rank, RankSelector, SelectError};
//! use serde::Deserialize;
//!
//! /// Keeps half of the rank, whatever the spectrum.
//! #[derive(Debug, Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Half {}
//!
//! impl RankSelector for Half {
//!     fn select(&self, layer: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
//!         let full = layer.shape().full_rank().get();
//!         Ok(Choice::at_most(Rank::clamped(full / 2, layer.shape()), "half of the full rank"))
//!     }
//! }
//!
//! calabi_api::submit! { Plugin::selector::<Half>("half", "keep half of the rank") }
//!
//! assert!(calabi_api::registry::find::<calabi_api::RankRule>("half").is_ok());
//! ```
//!
//! # Design
//!
//! `ndarray` is the matrix type of the contracts. Spectra are `f64`, weights and factors `f32`; files may hold `f16`,
//! `bf16` and `f64`. Settings are plain structs: a value that makes no sense cannot be parsed ([`settings`]), so
//! no plugin has a `validate` to forget.

mod allocate;
mod blocks;
mod choice;
mod config;
mod cost;
mod decompose;
mod dtype;
mod factors;
mod format;
mod integers;
mod needs;
mod plugin;
pub mod registry;
mod runtime;
mod select;
pub mod settings;
mod shape;
mod spectrum;
mod states;

pub use allocate::{Allocation, LayerOptions, RankAllocator};
pub use blocks::{BlockRunner, RefineSettings, Refined, Watch};
pub use choice::{Choice, Kept, Rounding};
pub use config::{ConfigError, nearest};
pub use cost::{Cost, LayerCost};
pub use decompose::{Basis, DecomposeError, Decomposer, Decomposition, Side, Vectors};
pub use dtype::DType;
pub use factors::Factors;
pub use format::{
    FormatError, Layer, LayerFormat, LayerSink, LayerSource, LeftAlone, Name, Normalisation, Padding, Replacement,
    Role, Totals, Window, WindowAxis, Wiring, WriteOptions, Written,
};
pub use integers::IntegerRows;
pub use needs::{Needs, Sensitivity, SensitivitySource, Statistics};
pub use plugin::{Plugin, RankRule, Settings};
pub use runtime::{InputSpec, Output, RunError, Runner, Runtime, Samples, Tensor};
pub use select::{LayerSpectrum, RankSelector, ReadStatistics, ReadWeight, SelectError};
pub use shape::{Rank, Shape};
pub use spectrum::{Spectrum, SpectrumError};
pub use states::{StateSpace, States};

// What a plugin needs besides this crate comes through it, so that versions cannot differ.
#[doc(hidden)]
pub use inventory;
pub use {ndarray, schemars, serde, toml};
