//! The contract of decomposers: dense linear algebra that the engine composes.

use std::fmt::Debug;

use ndarray::{Array2, ArrayView2};
use thiserror::Error;

use crate::{Rank, Spectrum};

/// Computes singular values and vectors.
///
/// # Contract
/// - Finite input gives a finite, sorted, sign-normalised result or an error; never a guess. Input that is not finite is an error.
/// - The spectrum comes first, vectors when the rank is known: an allocator needs every spectrum, factors need `r` vectors.
/// - `limit` is the largest rank of which vectors will be asked. A decomposer may stop there: its spectrum is then
///   [truncated](Spectrum::is_complete), with the energy of the whole matrix.
/// - Singular vectors are orthonormal to the precision of `f32`, also those of singular values that are zero.
/// - Signs: the entry of largest magnitude of each vector of [`Decomposition::basis`] is positive, the first of equal ones.
/// - The result does not depend on the number of threads.
///
/// `calabi_testing::decomposers::conforms` checks all of it.
pub trait Decomposer: Debug + Send + Sync {
    /// The singular value decomposition `A = U Σ Vᵀ` of an `m × n` matrix.
    ///
    /// # Errors
    /// Where the matrix is empty or not finite, or the computation does not converge by any of its routes.
    fn svd(&self, a: ArrayView2<'_, f32>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError>;

    /// The eigendecomposition `S = U Λ Uᵀ` of a symmetric positive semidefinite `n × n` matrix.
    ///
    /// The spectrum holds the *roots* of the eigenvalues, so that its energy is the trace of `S`.
    ///
    /// # Errors
    /// Where the matrix is empty, not finite, not symmetric, or indefinite beyond rounding, or the computation does not converge.
    fn eigh(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError>;
}

/// A matrix taken apart: its spectrum is known, vectors are made when the rank is.
pub trait Decomposition: Debug + Send {
    /// All singular values, or the leading ones and the energy of the rest.
    fn spectrum(&self) -> &Spectrum;

    /// The leading `r` singular vectors of both sides; may be called again for another `r`.
    ///
    /// # Errors
    /// Where `r` is beyond the limit or `min(m, n)`, or the computation fails.
    fn vectors(&self, r: Rank) -> Result<Vectors, DecomposeError>;

    /// The leading `r` singular vectors of the smaller side alone (the left one of a square matrix): what factors need.
    ///
    /// # Errors
    /// As [`vectors`](Self::vectors).
    fn basis(&self, r: Rank) -> Result<Basis, DecomposeError> {
        let Vectors { u, v } = self.vectors(r)?;
        Ok(match v {
            Some(v) if v.nrows() < u.nrows() => Basis { side: Side::Right, vectors: v },
            _ => Basis { side: Side::Left, vectors: u },
        })
    }

    /// As [`basis`](Self::basis), to the precision of `f64` where the decomposer has it.
    ///
    /// # Errors
    /// As [`vectors`](Self::vectors).
    fn precise_basis(&self, r: Rank) -> Result<(Side, Array2<f64>), DecomposeError> {
        let Basis { side, vectors } = self.basis(r)?;
        Ok((side, vectors.mapv(f64::from)))
    }

    /// What the reader of a report should know: "3 power steps missed the tolerance: exact route taken".
    fn remark(&self) -> Option<&str> {
        None
    }
}

/// Leading singular vectors of both sides, in columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// `U_r`, `m × r`.
    pub u: Array2<f32>,
    /// `V_r`, `n × r`; none for an eigendecomposition.
    pub v: Option<Array2<f32>>,
}

/// Leading singular vectors of one side, in columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    /// Which side.
    pub side: Side,
    /// `U_r` (`m × r`) or `V_r` (`n × r`).
    pub vectors: Array2<f32>,
}

/// A side of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Outputs: left singular vectors.
    Left,
    /// Inputs: right singular vectors.
    Right,
}

/// Why a matrix could not be decomposed.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum DecomposeError {
    /// The matrix has no entries.
    #[error("the matrix is empty ({rows}x{cols})")]
    Empty {
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
    /// An entry is infinite or not a number.
    #[error("the entry at row {row}, column {col} is {value}, not a finite number")]
    NonFinite {
        /// Row, counted from zero.
        row: usize,
        /// Column, counted from zero.
        col: usize,
        /// The entry.
        value: f64,
    },
    /// A matrix handed to `eigh` is not symmetric.
    #[error("the matrix is not symmetric ({rows}x{cols})")]
    NotSymmetric {
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
    /// A matrix handed to `eigh` has a negative eigenvalue beyond rounding.
    #[error(
        "the matrix is not positive semidefinite: its smallest eigenvalue is {smallest:e}, its largest {largest:e}"
    )]
    Indefinite {
        /// The smallest eigenvalue.
        smallest: f64,
        /// The largest eigenvalue.
        largest: f64,
    },
    /// No route of the backend converged.
    #[error("{backend} did not converge ({routes})")]
    NoConvergence {
        /// The backend.
        backend: &'static str,
        /// What was tried.
        routes: String,
    },
    /// More vectors were asked for than there are.
    #[error("{asked} singular vectors were asked for and {available} are available")]
    Beyond {
        /// The rank asked for.
        asked: usize,
        /// The largest rank to be had.
        available: usize,
    },
}
