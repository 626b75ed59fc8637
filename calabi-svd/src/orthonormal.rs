//! Orthonormal columns by Householder reflections.

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply,
};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::traits::ComplexField;
use faer::{Conj, Mat, Par, Spec};

/// Orthonormal columns that span those of `x` (`rows ≥ columns`), completed where `x` is rank-deficient.
///
/// Column `i` is what column `i` of `x` adds to the ones before it, up to its sign.
pub(crate) fn orthonormal<T: ComplexField>(mut x: Mat<T>) -> Mat<T> {
    let (rows, cols) = x.shape();
    let block = recommended_block_size::<T>(rows, cols);
    let mut coefficients = Mat::zeros(block, cols);
    let mut memory = MemBuffer::new(StackReq::any_of(&[
        qr_in_place_scratch::<T>(rows, cols, block, Par::Seq, Spec::default()),
        apply_scratch::<T>(rows, block, cols),
    ]));
    let stack = MemStack::new(&mut memory);
    qr_in_place(x.as_mut(), coefficients.as_mut(), Par::Seq, stack, Spec::default());
    let mut q = Mat::identity(rows, cols);
    apply(x.as_ref(), coefficients.as_ref(), Conj::No, q.as_mut(), Par::Seq, stack);
    q
}
