//! Cholesky factors in the place of a matrix.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{
    LltError, LltInfo, LltRegularization, cholesky_in_place, cholesky_in_place_scratch,
};
use faer::traits::ComplexField;
use faer::{MatMut, Par, Spec};

/// Makes the lower triangle of `S = L Lᵀ` (`n × n`), of which no more is read, that of `L`.
///
/// # Errors
/// Where the matrix is not positive definite to the precision of `T`.
pub(crate) fn factor<T: ComplexField>(s: MatMut<'_, T>) -> Result<LltInfo, LltError> {
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<T>(s.nrows(), Par::Seq, Spec::default()));
    cholesky_in_place(s, LltRegularization::default(), Par::Seq, MemStack::new(&mut memory), Spec::default())
}
