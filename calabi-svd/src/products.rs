//! Products of `f64` and `f32` matrices, in parts that depend on shapes alone.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::traits::{ComplexField, RealField};
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::threads;

/// `to = left · right`.
pub(crate) fn replace<T: ComplexField>(to: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>) {
    let (rows, cols) = to.shape();
    if rows.max(cols) < 2 * WHOLE {
        return matmul(to, Accum::Replace, left, right, T::one_impl(), Par::Seq);
    }
    let half = (rows.max(cols) / 2).next_multiple_of(64);
    if rows >= cols {
        let ((first, second), (upper, lower)) = (to.split_at_row_mut(half), left.split_at_row(half));
        threads::join(|| replace(first, upper, right), || replace(second, lower, right));
    } else {
        let ((first, second), (before, behind)) = (to.split_at_col_mut(half), right.split_at_col(half));
        threads::join(|| replace(first, left, before), || replace(second, left, behind));
    }
}

/// `to += left · right`.
pub(crate) fn add(to: MatMut<'_, f64>, left: MatRef<'_, f64>, right: MatRef<'_, f64>) {
    matmul(to, Accum::Add, left, right, 1.0, Par::Seq);
}

/// `to -= left · right`.
pub(crate) fn subtract<T: RealField>(to: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>) {
    matmul(to, Accum::Add, left, right, -T::one_impl(), Par::Seq);
}

/// Takes out of `x` what it has of orthonormal columns, once, and tells what that was: `Qᵀ X`.
pub(crate) fn take_out<T: RealField>(x: MatMut<'_, T>, columns: MatRef<'_, T>) -> Mat<T> {
    let along = product(columns.transpose(), x.as_ref());
    subtract(x, columns, along.as_ref());
    along
}

/// `left · right`.
pub(crate) fn product<T: ComplexField>(left: MatRef<'_, T>, right: MatRef<'_, T>) -> Mat<T> {
    let mut to = Mat::zeros(left.nrows(), right.ncols());
    replace(to.as_mut(), left, right);
    to
}

/// `to += x xᵀ` in the lower triangle of `to`.
pub(crate) fn add_gram<T: ComplexField>(to: MatMut<'_, T>, x: MatRef<'_, T>) {
    add_lower(to, x, x.transpose(), T::one_impl());
}

/// `to -= left · right` in the lower triangle of `to`.
pub(crate) fn subtract_lower<T: RealField>(to: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>) {
    add_lower(to, left, right, -T::one_impl());
}

/// Rows and columns up to which a product is not split.
const WHOLE: usize = 1024;

fn add_lower<T: ComplexField>(to: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>, by: T) {
    let n = to.nrows();
    if n < 2 * WHOLE {
        return triangular::matmul(
            to,
            BlockStructure::TriangularLower,
            Accum::Add,
            left,
            BlockStructure::Rectangular,
            right,
            BlockStructure::Rectangular,
            by,
            Par::Seq,
        );
    }
    // Both triangles on the diagonal are as much work as the square below them.
    let half = (n / 2).next_multiple_of(64);
    let (first, _, square, second) = to.split_at_mut(half, half);
    let ((upper, lower), (before, behind)) = (left.split_at_row(half), right.split_at_col(half));
    let triangles = || {
        threads::join(|| add_lower(first, upper, before, by.clone()), || add_lower(second, lower, behind, by.clone()))
    };
    threads::join(triangles, || add_rows(square, lower, before, by.clone()));
}

/// `to += by · left · right`, some rows at a time.
fn add_rows<T: ComplexField>(to: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>, by: T) {
    let rows = to.nrows();
    if rows < 2 * WHOLE {
        return matmul(to, Accum::Add, left, right, by, Par::Seq);
    }
    let half = (rows / 2).next_multiple_of(64);
    let ((first, second), (upper, lower)) = (to.split_at_row_mut(half), left.split_at_row(half));
    threads::join(|| add_rows(first, upper, right, by.clone()), || add_rows(second, lower, right, by.clone()));
}
