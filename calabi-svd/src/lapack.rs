//! `lapack`: all singular values by LAPACK, where the program is built with the feature `lapack`.

#[cfg(feature = "lapack")]
mod backend;

use calabi_api::Plugin;
use calabi_api::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All singular values of a weight by the system's LAPACK (`OpenBLAS`), in `f64`.
///
/// A weight that is not square is first reduced to its triangular factor (`geqrf`), then taken apart by divide and conquer
/// (`gesdd`); `eigh` is `syev`. Where LAPACK does not converge the exact route of `faer` is taken, and the remark says so.
/// Input is scanned before: LAPACK has been seen to loop for ever on one infinite entry.
///
/// # Accuracy
/// Errors of at most 1e-13 of the largest singular value.
///
/// # Memory
/// A copy of the weight, twice as much again in `f64`, and `40 s²` bytes for `s = min(m, n)`.
///
/// # Threads
/// `OpenBLAS` brings its own threads, as many as the machine has cores, and their number may change last bits. Set
/// `OPENBLAS_NUM_THREADS=1`: layers run side by side anyway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(crate = "calabi_api::schemars")]
#[allow(clippy::empty_structs_with_brackets)] // settings are a table, if an empty one
pub struct Lapack {}

#[cfg(feature = "lapack")]
calabi_api::submit! { Plugin::decomposer::<Lapack>("lapack", SUMMARY) }

#[cfg(not(feature = "lapack"))]
calabi_api::submit! {
    Plugin::<dyn calabi_api::Decomposer>::unavailable::<Lapack>(
        "lapack", SUMMARY, "rebuild with --features lapack; on Debian install libopenblas-dev first",
    )
}

const SUMMARY: &str = "all singular values, by the system's LAPACK";
