//! Products with a lower triangle, of which the other half costs nothing.

use calabi_api::DecomposeError;
use faer::{Mat, MatMut, MatRef};
use ndarray::{Array2, ArrayView2};

use crate::dense::{row_major, viewed};
use crate::real::Real;
use crate::{products, threads};

/// Rows of a weight that are multiplied at a time, where it has twice as many.
const PART: usize = 512;

/// Columns that lie together, and that are made at a time.
const COLUMNS: usize = 48;

/// A lower triangular matrix, `n × n`.
#[derive(Debug, Clone)]
pub(super) struct LowerTriangle {
    size: usize,
    /// Its columns, some at a time, each from the row down where the first of them begins.
    blocks: Vec<Mat<f32>>,
}

impl LowerTriangle {
    /// The matrix with these columns, each from the diagonal down, rounded.
    pub(super) fn of<'a>(size: usize, mut columns: impl Iterator<Item = &'a [f64]>) -> Self {
        let block = |first: usize| {
            let mut block = Mat::zeros(size - first, COLUMNS.min(size - first));
            for (k, (to, column)) in block.col_iter_mut().zip(&mut columns).enumerate() {
                to.iter_mut().skip(k).zip(column).for_each(|(to, &v)| *to = Real::of(v));
            }
            block
        };
        Self { size, blocks: (0..size).step_by(COLUMNS).map(block).collect() }
    }

    /// The matrix with half of its diagonal.
    pub(super) fn with_half_diagonal(mut self) -> Self {
        for block in &mut self.blocks {
            (0..block.ncols()).for_each(|k| block[(k, k)] *= 0.5);
        }
        self
    }

    /// `n`.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// `X T`, of as many columns as there are rows here.
    pub(super) fn multiplied(&self, x: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
        let (rows, cols) = x.dim();
        if cols != self.size {
            return Err(DecomposeError::Beyond { asked: cols, available: self.size });
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
        let mut to = to;
        for (first, block) in (0..self.size).step_by(COLUMNS).zip(&self.blocks) {
            let x = x.subcols(first, self.size - first);
            products::replace(to.as_mut().subcols_mut(first, block.ncols()), x, block.as_ref());
        }
    }
}
