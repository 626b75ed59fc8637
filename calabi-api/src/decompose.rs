//! The contract of decomposers: dense linear algebra that the engine composes.

use std::fmt::Debug;

use ndarray::{Array2, ArrayView2};
use thiserror::Error;

use crate::{Rank, Shape, Spectrum};

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
///
/// ```
/// # use calabi_api::{Basis, Side, SpectrumError};
/// use calabi_api::ndarray::{Array2, ArrayView2, array};
/// use calabi_api::{DecomposeError, Decomposer, Decomposition, Rank, Spectrum, Vectors};
///
/// /// Takes apart weights of one output: the only singular value is the norm, the left vector is 1.
/// #[derive(Debug)]
/// struct OneRow;
///
/// impl Decomposer for OneRow {
///     fn svd(&self, a: ArrayView2<'_, f32>, _limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
///         let norm = a.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
///         if a.nrows() != 1 || norm == 0.0 {
///             return Err(refused(a.dim()));
///         }
///         found(norm, Some(a.t().mapv(|x| (f64::from(x) / norm) as f32))).ok_or_else(|| refused(a.dim()))
///     }
///
///     fn eigh(&self, s: ArrayView2<'_, f64>, _limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
///         let root = if s.dim() == (1, 1) { s[[0, 0]].sqrt() } else { f64::NAN };
///         found(root, None).ok_or_else(|| refused(s.dim()))
///     }
/// }
///
/// fn refused((rows, cols): (usize, usize)) -> DecomposeError {
///     DecomposeError::NoConvergence { backend: "one-row", routes: format!("no route for {rows}x{cols}") }
/// }
///
/// fn found(value: f64, v: Option<Array2<f32>>) -> Option<Box<dyn Decomposition>> {
///     let spectrum = Spectrum::complete(vec![value]).ok()?; // refuses what is not finite
///     Some(Box::new(Found { spectrum, vectors: Vectors { u: array![[1.0]], v } }))
/// }
/// # #[derive(Debug)]
/// # struct Found { spectrum: Spectrum, vectors: Vectors }
/// # impl Decomposition for Found {
/// #     fn spectrum(&self) -> &Spectrum { &self.spectrum }
/// #     fn vectors(&self, _: Rank) -> Result<Vectors, DecomposeError> { Ok(self.vectors.clone()) }
/// # }
///
/// let row = array![[3.0, 4.0]];
/// let parts = OneRow.svd(row.view(), Rank::ONE)?;
/// assert_eq!(parts.spectrum().values(), [5.0]);
/// assert_eq!(parts.vectors(Rank::ONE)?.v, Some(array![[0.6], [0.8]]));
/// assert_eq!(OneRow.eigh(array![[25.0]].view(), Rank::ONE)?.spectrum().energy(), 25.0);
/// assert!(OneRow.svd(array![[f32::NAN]].view(), Rank::ONE).is_err());
/// # Ok::<(), DecomposeError>(())
/// ```
pub trait Decomposer: Debug + Send + Sync {
    /// The singular value decomposition `A = U Σ Vᵀ` of an `m × n` matrix, which it may go on to read.
    ///
    /// # Errors
    /// Where the matrix is empty or not finite, or the computation does not converge by any of its routes.
    fn svd<'a>(&self, a: ArrayView2<'a, f32>, limit: Rank) -> Result<Box<dyn Decomposition + 'a>, DecomposeError>;

    /// Whether the spectrum of such a weight is complete although no more than so many values were asked for, and a smaller limit
    /// saves next to nothing. Then an engine may ask for more vectors than a selector needs, and keep them for other selectors.
    fn is_complete(&self, _shape: Shape, _limit: Rank) -> bool {
        false
    }

    /// Whether no more is asked of it than what each rank loses, to 0.1 %. Then an engine may hand over a product that it
    /// rounded to `f32`, where that tells as much.
    fn is_for_losses(&self) -> bool {
        false
    }

    /// How many seconds a weight of this shape takes on one thread of this machine, with the basis of the leading `rank`; none
    /// where that cannot be said beforehand. It may measure the machine, once.
    fn seconds(&self, _shape: Shape, _rank: Rank) -> Option<f64> {
        None
    }

    /// How many times as fast a weight of this shape is taken apart where this decomposer may use so many threads inside it; 1 where
    /// it uses one. Threads never change the result.
    fn speedup(&self, _shape: Shape, _threads: usize) -> f64 {
        1.0
    }

    /// The eigendecomposition `S = U Λ Uᵀ` of a symmetric positive semidefinite `n × n` matrix.
    ///
    /// The spectrum holds the *roots* of the eigenvalues, so that its energy is the trace of `S`.
    ///
    /// # Errors
    /// Where the matrix is empty, not finite, not symmetric, or indefinite beyond rounding, or the computation does not converge.
    fn eigh(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError>;

    /// As [`eigh`](Self::eigh), where no more is asked than what each rank up to the limit loses, to 0.1 %: the spectrum may be
    /// truncated, and one triangle of the matrix may stand for both.
    ///
    /// # Errors
    /// As those of [`eigh`](Self::eigh).
    fn eigh_for_losses(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        self.eigh(s, limit)
    }
}

/// A matrix taken apart: its spectrum is known, vectors are made when the rank is.
///
/// ```
/// use calabi_api::ndarray::{Array2, array};
/// use calabi_api::{DecomposeError, Decomposition, Rank, Side, Spectrum, Vectors};
///
/// /// A weight of one row: its singular value, and the direction in which it points.
/// #[derive(Debug)]
/// struct Row(Spectrum, Array2<f32>);
///
/// impl Decomposition for Row {
///     fn spectrum(&self) -> &Spectrum {
///         &self.0
///     }
///
///     fn vectors(&self, r: Rank) -> Result<Vectors, DecomposeError> {
///         if r > Rank::ONE {
///             return Err(DecomposeError::Beyond { asked: r.get(), available: 1 });
///         }
///         Ok(Vectors { u: array![[1.0]], v: Some(self.1.clone()) })
///     }
/// }
///
/// let row = Row(Spectrum::complete(vec![5.0])?, array![[0.6], [0.8]]); // of [[3, 4]]
/// let rank = row.spectrum().rank_for_loss(1.0).ok_or("no rank reaches it")?;
/// assert_eq!(row.basis(rank)?.side, Side::Left); // one output, two inputs
/// assert_eq!(row.precise_basis(rank)?, (Side::Left, array![[1.0_f64]]));
/// assert!(row.remark().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi_api::Vectors;
/// use calabi_api::ndarray::array;
///
/// // The weight [[3, 0], [0, 2]], whose singular values are 3 and 2, at rank 1.
/// let Vectors { u, v } = Vectors { u: array![[1.0], [0.0]], v: Some(array![[1.0], [0.0]]) };
/// let nearest = (u * 3.0).dot(&v.ok_or("an eigendecomposition")?.t());
/// assert_eq!(nearest, array![[3.0, 0.0], [0.0, 0.0]]);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// `U_r`, `m × r`.
    pub u: Array2<f32>,
    /// `V_r`, `n × r`; none for an eigendecomposition.
    pub v: Option<Array2<f32>>,
}

/// Leading singular vectors of one side, in columns.
///
/// ```
/// use calabi_api::ndarray::{Array2, array};
/// use calabi_api::{Basis, Factors, Side};
///
/// /// Projects a weight on a basis: the best factors of that rank.
/// fn factors(weight: &Array2<f32>, Basis { side, vectors }: Basis) -> Factors {
///     match side {
///         Side::Left => Factors { right: vectors.t().dot(weight), left: vectors, bias: None },
///         Side::Right => Factors { left: weight.dot(&vectors), right: vectors.reversed_axes(), bias: None },
///     }
/// }
///
/// let weight = array![[3.0, 0.0], [0.0, 2.0]];
/// let Factors { left, right, .. } = factors(&weight, Basis { side: Side::Left, vectors: array![[1.0], [0.0]] });
/// assert_eq!(left.dot(&right), array![[3.0, 0.0], [0.0, 0.0]]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    /// Which side.
    pub side: Side,
    /// `U_r` (`m × r`) or `V_r` (`n × r`).
    pub vectors: Array2<f32>,
}

/// A side of a weight.
///
/// ```
/// use calabi_api::{Shape, Side};
///
/// /// The side whose vectors are shorter.
/// fn smaller(shape: Shape) -> Side {
///     if shape.cols() < shape.rows() { Side::Right } else { Side::Left }
/// }
///
/// assert_eq!(Shape::new(768, 3072).map(smaller), Some(Side::Left));
/// assert_eq!(Shape::new(3072, 768).map(smaller), Some(Side::Right));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Outputs: left singular vectors.
    Left,
    /// Inputs: right singular vectors.
    Right,
}

/// Why a matrix could not be decomposed.
///
/// ```
/// use calabi_api::DecomposeError;
/// use calabi_api::ndarray::array;
///
/// let a = array![[1.0, f64::INFINITY]];
/// let bad = a.indexed_iter().find(|(_, value)| !value.is_finite());
/// let error = bad.map(|((row, col), &value)| DecomposeError::NonFinite { row, col, value });
/// let said = error.map(|error| error.to_string());
/// assert_eq!(said.as_deref(), Some("the entry at row 0, column 1 is inf, not a finite number"));
/// ```
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
