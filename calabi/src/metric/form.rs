//! Quadratic forms: the matrix `D` of a metric, as little of it as is needed.

use crate::store::Hashed;
use calabi_svd::dense::product64;
use ndarray::{ArcArray2, Array1, Array2, ArrayRef2, ArrayView2, Axis, CowArray, Ix2};

/// A symmetric `n × n` matrix `D`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    /// The identity of this size.
    Identity(usize),
    /// A diagonal matrix.
    Diagonal(Array1<f64>),
    /// A full one, which others may hold too.
    Full(ArcArray2<f64>),
}

impl From<Array2<f64>> for Form {
    fn from(full: Array2<f64>) -> Self {
        Self::Full(full.into_shared())
    }
}

impl Form {
    /// `n`.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Identity(n) => *n,
            Self::Diagonal(d) => d.len(),
            Self::Full(d) => d.nrows(),
        }
    }

    /// Adds its entries to a hash.
    pub(super) fn hash(&self, hash: &mut Hashed) {
        match self {
            Self::Identity(n) => hash.text(&format!("identity {n}")),
            Self::Diagonal(d) => {
                hash.text("diagonal");
                hash.numbers(d);
            }
            Self::Full(d) => {
                hash.text("full");
                hash.numbers(d);
            }
        }
    }

    /// `X D`, `m × n`.
    pub(crate) fn applied(&self, x: ArrayView2<'_, f64>) -> Array2<f64> {
        match self {
            Self::Identity(_) => x.to_owned(),
            Self::Diagonal(d) => &x * d,
            Self::Full(d) => product64(&x, d),
        }
    }

    /// `x D xᵀ` of every row `x`, at least zero: what rounding makes negative is nothing.
    pub(crate) fn of_rows(&self, x: ArrayView2<'_, f64>) -> Array1<f64> {
        (&self.applied(x) * &x).sum_axis(Axis(1)).mapv_into(|v| v.max(0.0))
    }

    /// All of its entries.
    pub(crate) fn full(&self) -> CowArray<'_, f64, Ix2> {
        match self {
            Self::Full(d) => d.view().into(),
            other => other.clone().into_full().into(),
        }
    }

    /// All of its entries.
    pub(crate) fn into_full(self) -> Array2<f64> {
        match self {
            Self::Identity(n) => Array2::eye(n),
            Self::Diagonal(d) => Array2::from_diag(&d),
            Self::Full(d) => d.into_owned(),
        }
    }

    /// Its diagonal alone, at least zero.
    pub(crate) fn diagonal(&self) -> Self {
        match self {
            Self::Full(d) => Self::Diagonal(d.diag().mapv(|v| v.max(0.0))),
            other => other.clone(),
        }
    }
}

/// `D − μ μᵀ`. The variance of a feature that never varied is zero, not what rounding leaves of it.
pub(crate) fn centred(d: &ArrayRef2<f64>, mean: &Array1<f64>) -> Array2<f64> {
    const ROUNDING: f64 = 16.0 * f64::EPSILON;
    let mut centred = d.to_owned();
    rank_one(&mut centred, -1.0, mean, mean);
    for feature in 0..mean.len() {
        if centred[(feature, feature)] <= ROUNDING * d[(feature, feature)] {
            centred.row_mut(feature).fill(0.0);
            centred.column_mut(feature).fill(0.0);
        }
    }
    centred
}

/// `to += by · a bᵀ`.
pub(crate) fn rank_one(to: &mut Array2<f64>, by: f64, a: &Array1<f64>, b: &Array1<f64>) {
    for (mut row, &a) in to.rows_mut().into_iter().zip(a) {
        row.scaled_add(by * a, b);
    }
}

/// `(1−α) D + shift · I`.
pub(crate) fn shrunk(mut d: Array2<f64>, alpha: f64, shift: f64) -> Array2<f64> {
    d.mapv_inplace(|v| (1.0 - alpha) * v);
    d.diag_mut().mapv_inplace(|v| v + shift);
    d
}

/// `tr D / n`, at least zero.
pub(crate) fn mean_diagonal(d: &ArrayRef2<f64>) -> f64 {
    (d.diag().sum() / d.nrows().max(1) as f64).max(0.0)
}
