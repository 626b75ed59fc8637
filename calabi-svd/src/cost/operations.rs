//! Operations of the steps by shape and rank: the same on every machine.

use calabi_api::{Rank, Shape};

use crate::gram::SMALLEST;
use crate::partial;
use crate::tridiagonal::WIDTH;

/// How often an entry of a weight is read, on its way through a decomposition: from its file, into new memory, checked,
/// hashed, measured. As found on layers of few operations.
const READ_FOR_SPECTRUM: f64 = 6.0;
/// And on its way to factors: from its file, into new memory, checked, compared with them.
const READ_FOR_FACTORS: f64 = 6.0;
/// An entry of the factors: made, rounded, written.
const WRITTEN: f64 = 8.0;

/// Blocks of a Krylov subspace until its proof succeeds, looks at it until then (five, of which the first ones see less, are as
/// much as three at its end), and proofs that are tried: as is usual where spectra are flat. Where they fade two thirds of all are
/// enough.
const BLOCKS: usize = 14;
const LOOKS: f64 = 3.0;
const PROOFS: f64 = 3.0;
/// How often an entry of the matrix is read and written for a proof, in new memory, besides its Cholesky factorization.
const READ_FOR_PROOF: f64 = 8.0;

/// Of singular values of a weight, and the basis of the leading `rank`, by the Gram matrix of the smaller side.
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

    /// Numbers of the precision in the place of one `f32`: small weights are taken in `f64`.
    pub(super) fn width(self) -> f64 {
        if self.small < SMALLEST { 2.0 } else { 1.0 }
    }

    /// The triangle of a product: half of `2 s² l`.
    pub(super) fn gram(self) -> f64 {
        (self.small as f64).powi(2) * self.large as f64
    }

    /// All eigenvalues of the Gram matrix, and the vectors that are wanted.
    pub(super) fn eigenpairs(self) -> Eigenpairs {
        Eigenpairs { size: self.small, rank: self.rank }
    }

    /// The leading ones alone, where that is what is done.
    pub(super) fn leading(self) -> Option<Leading> {
        let dimensions = || self.small.min(BLOCKS * partial::width(self.rank));
        partial::pays(self.small, self.rank).then(|| Leading {
            size: self.small,
            dimensions: dimensions(),
            rank: self.rank,
        })
    }

    /// Entries that are read.
    pub(super) fn entries(self) -> f64 {
        READ_FOR_SPECTRUM * self.small as f64 * self.large as f64
    }
}

/// Of all eigenvalues of a symmetric matrix, and vectors of the leading ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eigenpairs {
    size: usize,
    rank: usize,
}

impl Eigenpairs {
    pub(super) fn size(self) -> usize {
        self.size
    }

    /// Of each panel of the reduction: the size of what is left of the matrix, and its operations. Together `4/3 s³`.
    pub(super) fn panels(self) -> impl Iterator<Item = (usize, f64)> {
        (0..self.size).step_by(WIDTH).map(move |first| (self.size - first, panel(self.size - first)))
    }

    /// Eigenvalues take a few sweeps each: `s²`.
    pub(super) fn values(self) -> f64 {
        (self.size as f64).powi(2)
    }

    /// Entries of the vectors.
    pub(super) fn vectors(self) -> f64 {
        self.size as f64 * self.rank as f64
    }

    /// Two products of the reflections with the vectors, `s² r` each, as half of the reflections is zero.
    pub(super) fn back(self) -> f64 {
        2.0 * (self.size as f64).powi(2) * self.rank as f64
    }
}

/// Of the leading eigenpairs of a symmetric matrix, `s × s`, from a Krylov subspace of `d` dimensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leading {
    size: usize,
    dimensions: usize,
    rank: usize,
}

impl Leading {
    /// Images of the basis, `2 s² d`; its products with itself, `2 s d²`; vectors in whole, `2 s d r`; and what is claimed of
    /// them, `2 s r² + s² r` for a proof.
    pub(super) fn products(self) -> f64 {
        let (s, d, r) = (self.size as f64, self.dimensions as f64, self.rank as f64);
        2.0 * s * d * (s + d + r) + PROOFS * s * r * (2.0 * r + s)
    }

    /// Cholesky factors, `s³ / 3` for a proof.
    pub(super) fn proofs(self) -> f64 {
        PROOFS * (self.size as f64).powi(3) / 3.0
    }

    pub(super) fn size(self) -> usize {
        self.size
    }

    /// Entries that are read and written.
    pub(super) fn entries(self) -> f64 {
        PROOFS * READ_FOR_PROOF * (self.size as f64).powi(2)
    }

    /// How often the eigenpairs of what is projected are found, and these.
    pub(super) fn looks(self) -> (f64, Eigenpairs) {
        (LOOKS, Eigenpairs { size: self.dimensions, rank: self.rank })
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
