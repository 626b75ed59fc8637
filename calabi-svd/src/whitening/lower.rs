//! Products with a lower triangle, of which the other half costs nothing.

use calabi_api::DecomposeError;
use faer::{Mat, MatMut, MatRef};
use ndarray::{Array2, ArrayView2};

use crate::dense::{row_major, viewed};
use crate::real::Real;
use crate::{products, threads};

/// Rows of a weight that are multiplied at a time, where it has twice as many.
const PART: usize = 512;

/// Columns of a product that are made at a time: of the triangle's they begin where it does.
const COLUMNS: usize = 96;

/// A lower triangular matrix, `n × n`.
#[derive(Debug, Clone)]
pub(super) struct LowerTriangle {
    entries: Mat<f32>,
}

impl LowerTriangle {
    /// The matrix with these columns, each from the diagonal down, rounded.
    pub(super) fn of<'a>(n: usize, columns: impl Iterator<Item = &'a [f64]>) -> Self {
        let mut entries = Mat::zeros(n, n);
        for (j, column) in columns.take(n).enumerate() {
            let below = entries.col_mut(j).subrows_mut(j, n - j);
            below.iter_mut().zip(column).for_each(|(to, &v)| *to = Real::of(v));
        }
        Self { entries }
    }

    /// The matrix with half of its diagonal.
    pub(super) fn with_half_diagonal(mut self) -> Self {
        (0..self.entries.nrows()).for_each(|i| self.entries[(i, i)] *= 0.5);
        self
    }

    /// `n`.
    pub(super) fn size(&self) -> usize {
        self.entries.nrows()
    }

    /// `X T`, of as many columns as there are rows here.
    pub(super) fn multiplied(&self, x: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
        let (rows, cols) = x.dim();
        if cols != self.entries.nrows() {
            return Err(DecomposeError::Beyond { asked: cols, available: self.entries.nrows() });
        }
        let (x, mut product) = (row_major(x), Array2::zeros(x.dim()));
        if let Some(to) = product.as_slice_mut() {
            self.multiply_rows(viewed(&x), MatMut::from_row_major_slice_mut(to, rows, cols));
        }
        Ok(product)
    }

    /// `to = X T`, some rows at a time.
    fn multiply_rows(&self, x: MatRef<'_, f32>, to: MatMut<'_, f32>) {
        if x.nrows() >= 2 * PART {
            let half = (x.nrows() / 2).next_multiple_of(64);
            let ((upper, lower), (first, second)) = (x.split_at_row(half), to.split_at_row_mut(half));
            threads::join(|| self.multiply_rows(upper, first), || self.multiply_rows(lower, second));
            return;
        }
        let (n, mut to) = (self.entries.ncols(), to);
        for first in (0..n).step_by(COLUMNS) {
            let width = COLUMNS.min(n - first);
            let below = self.entries.submatrix(first, first, n - first, width);
            products::replace(to.as_mut().subcols_mut(first, width), x.subcols(first, n - first), below);
        }
    }
}
