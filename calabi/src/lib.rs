//! calabi makes neural networks smaller by low-rank factorization: the engine.
//!
//! [`run`] takes a [`Pipeline`] and gives a [`Report`]: it opens a model, decomposes its weights one at a time, chooses
//! ranks, and writes a model in which two small factors stand for each weight that is worth it.
//!
//! ```no_run
//! use calabi::{Pipeline, RunOptions, Silent, run};
//! use calabi::api::settings::Fraction;
//! use calabi::rank::Budget;
//!
//! let keep = Fraction::new(0.6).ok_or("not a share")?;
//! let pipeline = Pipeline::with_allocator("model.safetensors", "small.safetensors", Budget::new(keep));
//! let report = run(&pipeline, &RunOptions::default(), &Silent)?;
//! println!("{} of {} parameters", report.parameters.after, report.parameters.before);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A pipeline is read from a file by [`Pipeline::load`], or made of typed values as above. Plugins of other crates take part
//! once the program names their crate: `use my_selector as _;`.

mod calibrate;
mod choose;
mod compare;
mod compress;
mod data;
mod decompose;
mod densify;
mod error;
mod estimate;
mod eval;
mod finetune;
mod hub;
mod made;
mod matrix;
mod memory;
mod metric;
mod metrics;
mod observe;
mod parts;
mod pattern;
mod pipeline;
mod plan;
mod plan_file;
mod reference;
mod report;
mod room;
mod run;
mod runtime;
mod search;
mod sensitivity;
mod sequential;
mod shard;
mod share;
mod sited;
mod size;
mod staging;
mod statistics;
mod store;
mod substitute;
mod survey;
mod target;
mod tokens;
mod turns;
mod uniform;
mod verify;

pub use calabi_api as api;
// The linker drops crates that no code names, and their plugins with them.
use calabi_io as _;
#[cfg(feature = "runtimes")]
pub use calabi_nn as nn;
pub use calabi_rank as rank;
pub use calabi_svd as svd;

pub use calibrate::{Gathered, gather as calibrate};
pub use compress::{Compression, Weights, compress_hf_model, compress_model, heads};
pub use densify::{Densified, DensifyOptions, densify};
pub use error::Error;
pub use estimate::Estimate;
pub use eval::{EvalOptions, Evaluation, evaluate};
pub use finetune::{FinetuneOptions, FinetuneReport, finetune};
pub use hub::{is_hosted, locate};
pub use matrix::{Factorized, InputMetric, Matrix, allocate_ranks, choose_rank, selector_of};
pub use metric::{Bias, Objective};
pub use observe::{Observer, Silent, Stage};
pub use pattern::Pattern;
pub use pipeline::{
    Assignment, CalibrationSettings, FinetuneObjective, FinetuneSettings, LayerSettings, ModelSettings, OnError,
    Override, Pipeline, PipelineError, RefineSection, ReportSettings, SearchSettings, Source, VerifySettings,
    parse_decomposer, parse_rule, pipeline_schema,
};
pub use plan::{Decision, Plan, PlannedLayer, Rule};
pub use reference::{PluginEntry, SettingEntry, catalogue, reference};
pub use report::{
    AllocationReport, BlockReport, CalibrationReport, Change, LayerReport, Outcome, Report, SensitivityReport,
};
pub use run::{RunOptions, open_model, plan, plan_with, reads, run, spectra};
pub use search::{SearchReport, SearchStep};
pub use shard::Shard;
pub use share::{Shared, run_share};
pub use sited::Sited;
pub use size::ByteSize;
pub use store::{Cleaned, clean};
pub use target::Target;
pub use verify::{CommandReport, GateReport, OutputReport, VerifyReport};
