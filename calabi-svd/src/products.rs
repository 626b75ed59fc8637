//! Products of `f64` and `f32` matrices on one thread.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::traits::{ComplexField, RealField};
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// `to = left · right`.
pub(crate) fn replace<T: ComplexField>(to: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>) {
    matmul(to, Accum::Replace, left, right, T::one_impl(), Par::Seq);
}

/// `to += left · right`.
pub(crate) fn add(to: MatMut<'_, f64>, left: MatRef<'_, f64>, right: MatRef<'_, f64>) {
    matmul(to, Accum::Add, left, right, 1.0, Par::Seq);
}

/// `to -= left · right`.
pub(crate) fn subtract<T: RealField>(to: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>) {
    matmul(to, Accum::Add, left, right, -T::one_impl(), Par::Seq);
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

fn add_lower<T: ComplexField>(to: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>, by: T) {
    triangular::matmul(
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
