//! Reduction of a symmetric matrix to a tridiagonal one by blocks of Householder reflections.
//!
//! Half of the work is one product of the matrix with a vector for each column, which reads the lower triangle once; the
//! other half is a product of blocks (Dongarra, Sorensen and Hammarling, 1989: LAPACK's `latrd`).

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply, upgrade_householder_factor,
};
use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
use faer::{Conj, Mat, MatMut, MatRef, Par};

use super::Tridiagonal;
use super::panel::Panel;
use crate::products;
use crate::real::Real;
use crate::tile::{TILE, Tile};

/// Columns that are reduced before the rest of the matrix is updated.
pub(crate) const WIDTH: usize = 32;

/// A symmetric matrix of which only the lower triangle counts, column after column.
#[derive(Debug)]
pub(crate) struct Lower<T> {
    pub(crate) entries: Vec<T>,
    pub(crate) size: usize,
}

/// `S = Q T Qᵀ` with `T` tridiagonal.
#[derive(Debug)]
pub(crate) struct Reduction<T> {
    /// Householder vectors of `Q`, below the subdiagonal; their first entry is one.
    reflectors: Lower<T>,
    coefficients: Mat<T>,
    pub(crate) tridiagonal: Tridiagonal,
}

impl<T: Real> Lower<T> {
    pub(crate) fn zeros(size: usize) -> Self {
        Self { entries: vec![T::zero_impl(); size * size], size }
    }

    pub(crate) fn as_mut(&mut self) -> MatMut<'_, T> {
        MatMut::from_column_major_slice_mut(&mut self.entries, self.size, self.size)
    }

    /// A copy of the lower triangle of `matrix`, `n × n`.
    pub(crate) fn of(matrix: MatRef<'_, T>) -> Self {
        let mut lower = Self::zeros(matrix.nrows());
        for j in 0..matrix.ncols() {
            let column = matrix.col(j).subrows(j, matrix.nrows() - j);
            lower.column_mut(j, j).iter_mut().zip(column.iter()).for_each(|(to, &v)| *to = v);
        }
        lower
    }

    /// Copies the lower triangle to the upper one, in tiles: a column of the one is a row of the other.
    pub(crate) fn mirror(&mut self) {
        let n = self.size;
        let mut tile = Tile::filled(T::zero_impl());
        for left in (0..n).step_by(TILE) {
            for top in (left..n).step_by(TILE) {
                let (columns, rows) = (TILE.min(n - left), TILE.min(n - top));
                tile.read(&self.entries[left * n + top..], n, columns, rows);
                for l in 0..rows {
                    // On the diagonal a column has nothing to give above itself.
                    let given = columns.min(top + l - left);
                    tile.give(l, &mut self.entries[(top + l) * n + left..][..given]);
                }
            }
        }
    }

    /// `S += by I`.
    pub(crate) fn add_to_diagonal(&mut self, by: T) {
        for j in 0..self.size {
            self.entries[j * (self.size + 1)] += by;
        }
    }

    /// The largest entry of the diagonal: no more than the largest eigenvalue.
    pub(crate) fn largest_diagonal(&self) -> f64 {
        (0..self.size).filter_map(|j| self.column(j, j).first()).fold(0.0, |max, v| v.wide().max(max))
    }

    pub(crate) fn as_ref(&self) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(&self.entries, self.size, self.size)
    }

    /// Column `j` from row `first` on.
    pub(super) fn column(&self, j: usize, first: usize) -> &[T] {
        &self.entries[j * self.size + first..(j + 1) * self.size]
    }

    pub(crate) fn column_mut(&mut self, j: usize, first: usize) -> &mut [T] {
        &mut self.entries[j * self.size + first..(j + 1) * self.size]
    }
}

impl<T: Real> Reduction<T> {
    /// Reduces a matrix in its own place.
    pub(crate) fn of(mut matrix: Lower<T>) -> Self {
        let n = matrix.size;
        let mut tridiagonal = Tridiagonal { diagonal: Vec::with_capacity(n), below: Vec::with_capacity(n) };
        let mut coefficients = Vec::with_capacity(n);
        for first in (0..n).step_by(WIDTH) {
            reduce_panel(&mut matrix, first, &mut tridiagonal, &mut coefficients);
        }
        let coefficients = block_coefficients(&matrix, &coefficients);
        Self { reflectors: matrix, coefficients, tridiagonal }
    }

    /// `panel = Q panel`.
    pub(crate) fn transform_back(&self, panel: MatMut<'_, T>) {
        let n = panel.nrows();
        if n == 1 {
            return;
        }
        let mut memory = MemBuffer::new(apply_scratch::<T>(n - 1, self.coefficients.nrows(), panel.ncols()));
        apply(
            self.reflectors.as_ref().submatrix(1, 0, n - 1, n - 1),
            self.coefficients.as_ref(),
            Conj::No,
            panel.subrows_mut(1, n - 1),
            Par::Seq,
            MemStack::new(&mut memory),
        );
    }
}

/// Reduces the columns of the panel that begins at `first`, and brings those behind it up to date.
pub(crate) fn reduce_panel<T: Real>(
    matrix: &mut Lower<T>,
    first: usize,
    tridiagonal: &mut Tridiagonal,
    coefficients: &mut Vec<T>,
) {
    let n = matrix.size;
    let mut panel = Panel::new(matrix, first, WIDTH.min(n - first));
    for i in first..n.min(first + WIDTH) {
        tridiagonal.diagonal.push(panel.update_column(i).wide());
        if i + 1 < n {
            let (below, coefficient) = panel.reflect(i);
            tridiagonal.below.push(below);
            coefficients.push(coefficient);
        }
    }
    panel.update_rest();
}

/// The triangular factors of blocks of reflections, as faer applies them.
fn block_coefficients<T: Real>(reflectors: &Lower<T>, coefficients: &[T]) -> Mat<T> {
    let n = coefficients.len();
    let mut blocks = Mat::zeros(recommended_block_size::<T>(n + 1, n + 1), n);
    if n == 0 {
        return blocks;
    }
    let reflectors = reflectors.as_ref().submatrix(1, 0, n, n);
    for first in (0..n).step_by(blocks.nrows()) {
        let width = blocks.nrows().min(n - first);
        let mut block = blocks.submatrix_mut(0, first, width, width);
        for k in 0..width {
            block[(k, k)] = coefficients[first + k];
        }
        upgrade_householder_factor(block, reflectors.submatrix(first, first, n - first, width), width, 1, Par::Seq);
    }
    blocks
}

/// `S -= V Wᵀ + W Vᵀ` for the part of the matrix from `first` on.
pub(super) fn subtract_products<T: Real>(
    matrix: &mut Lower<T>,
    first: usize,
    both: MatRef<'_, T>,
    swapped: MatRef<'_, T>,
) {
    let rest = matrix.size - first;
    products::subtract_lower(matrix.as_mut().submatrix_mut(first, first, rest, rest), both, swapped.transpose());
}
