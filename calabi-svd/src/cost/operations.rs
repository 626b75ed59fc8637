//! Operations of the steps by shape and rank: the same on every machine.

use calabi_api::{Rank, Shape};

use crate::gram::SMALLEST;
use crate::tridiagonal::WIDTH;

/// How often an entry of a weight is read, on its way through a decomposition: from its file, into new memory, checked,
/// hashed, measured. As found on layers of few operations.
const READ_FOR_SPECTRUM: f64 = 6.0;
/// And on its way to factors: from its file, into new memory, checked, compared with them.
const READ_FOR_FACTORS: f64 = 6.0;
/// An entry of the factors: made, rounded, written.
const WRITTEN: f64 = 8.0;

/// Of all singular values of a weight, and the basis of the leading `rank`: by the Gram matrix of the smaller side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decomposition {
    small: usize,
    large: usize,
    rank: usize,
}

impl Decomposition {
    pub(super) fn of(shape: Shape, rank: Rank) -> Self {
        let small = shape.full_rank().get();
        Self { small, large: shape.rows().max(shape.cols()), rank: rank.get().min(small) }
    }

    /// The size of the Gram matrix.
    pub(super) fn size(self) -> usize {
        self.small
    }

    /// Numbers of the precision in the place of one `f32`: small weights are taken in `f64`.
    pub(super) fn width(self) -> f64 {
        if self.small < SMALLEST { 2.0 } else { 1.0 }
    }

    /// The triangle of a product: half of `2 s² l`.
    pub(super) fn gram(self) -> f64 {
        (self.small as f64).powi(2) * self.large as f64
    }

    /// Of each panel of the reduction: the size of what is left of the matrix, and its operations. Together `4/3 s³`.
    pub(super) fn panels(self) -> impl Iterator<Item = (usize, f64)> {
        (0..self.small).step_by(WIDTH).map(move |first| (self.small - first, panel(self.small - first)))
    }

    /// Eigenvalues take a few sweeps each: `s²`.
    pub(super) fn values(self) -> f64 {
        (self.small as f64).powi(2)
    }

    /// Entries of the vectors.
    pub(super) fn vectors(self) -> f64 {
        self.small as f64 * self.rank as f64
    }

    /// Two products of the reflections with the vectors, `s² r` each, as half of the reflections is zero.
    pub(super) fn back(self) -> f64 {
        2.0 * (self.small as f64).powi(2) * self.rank as f64
    }

    /// Entries that are read.
    pub(super) fn entries(self) -> f64 {
        READ_FOR_SPECTRUM * self.small as f64 * self.large as f64
    }
}

/// Of a panel where so much of the matrix is left: a product with a vector for each column, and an update of rank `2 WIDTH`.
pub(super) fn panel(left: usize) -> f64 {
    4.0 * WIDTH.min(left) as f64 * (left as f64).powi(2)
}

/// Of the factors of a weight, and their error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    rows: f64,
    cols: f64,
    rank: f64,
}

impl Factors {
    pub(super) fn of(shape: Shape, rank: Rank) -> Self {
        Self { rows: shape.rows() as f64, cols: shape.cols() as f64, rank: rank.get() as f64 }
    }

    /// The projection of the weight, and the product of the factors.
    pub(super) fn products(self) -> f64 {
        4.0 * self.rows * self.cols * self.rank
    }

    /// Entries that are read and written.
    pub(super) fn entries(self) -> f64 {
        READ_FOR_FACTORS * self.rows * self.cols + WRITTEN * self.rank * (self.rows + self.cols)
    }
}
