//! Orthonormal columns by Householder reflections, or by Cholesky factors of the products of columns.

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply,
};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::traits::ComplexField;
use faer::{Conj, Mat, Par, Spec};

use crate::cholesky;
use crate::products::add_gram;

/// How far products of columns may be from those of orthonormal ones for a Cholesky factor: its rounding then grows no more
/// than twofold.
const NEARLY: f32 = 0.1;

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

/// As [`orthonormal`], each column on its own side, by Cholesky factors of the products of columns, twice: half the work. None
/// where the columns are too near to being dependent.
pub(crate) fn orthonormal_by_products(x: Mat<f32>) -> Option<Mat<f32>> {
    let products = products_of_columns(&x);
    nearly_orthonormal(divided(x, products)?)
}

fn products_of_columns(x: &Mat<f32>) -> Mat<f32> {
    let mut products = Mat::zeros(x.ncols(), x.ncols());
    add_gram(products.as_mut(), x.transpose());
    products
}

/// `X L⁻ᵀ` for products `L Lᵀ`.
fn divided(mut x: Mat<f32>, mut products: Mat<f32>) -> Option<Mat<f32>> {
    cholesky::factor(products.as_mut()).ok()?;
    solve_lower_triangular_in_place(products.as_ref(), x.transpose_mut(), Par::Seq);
    Some(x)
}

/// Columns of length one that are nearly orthogonal, made so to rounding: column `i` is what it adds to the ones before it, on
/// the same side. None where they are not nearly orthogonal.
pub(crate) fn nearly_orthonormal(x: Mat<f32>) -> Option<Mat<f32>> {
    let (r, products) = (x.ncols(), products_of_columns(&x));
    let off = (0..r).map(|j| products.col(j).subrows(j + 1, r - j - 1).squared_norm_l2()).sum::<f32>().sqrt();
    if !(off < NEARLY && (0..r).all(|j| (products[(j, j)] - 1.0).abs() < NEARLY)) {
        return None;
    }
    divided(x, products)
}

#[cfg(test)]
mod tests {
    use calabi_testing::matrices::gaussian;

    use super::*;
    use crate::signs;

    /// Columns of length one, of which every two have a small product.
    fn columns(off: f64) -> Mat<f32> {
        let (q, x) = (orthonormal(Mat::from_fn(90, 40, |i, j| gaussian(90, 40, 1)[(i, j)])), gaussian(90, 40, 2));
        let mut columns = Mat::from_fn(90, 40, |i, j| crate::real::Real::of(q[(i, j)] + off * x[(i, j)]));
        for mut column in columns.col_iter_mut() {
            let length = column.norm_l2();
            column /= faer::Scale(length);
        }
        columns
    }

    #[test]
    fn nearly_orthonormal_columns_become_what_reflections_make_of_them() {
        let x = columns(1e-4);
        let found = nearly_orthonormal(x.clone()).unwrap();
        let mut wanted = orthonormal(x.clone());
        signs::follow(&mut wanted, x.as_ref());
        assert!((&found - &wanted).norm_max() < 1e-6);
        assert!((found.transpose() * &found - Mat::<f32>::identity(40, 40)).norm_max() < 1e-6);
    }

    #[test]
    fn products_of_columns_make_them_orthonormal() {
        let x = columns(0.5);
        let found = orthonormal_by_products(x.clone()).unwrap();
        let mut wanted = orthonormal(x.clone());
        signs::follow(&mut wanted, x.as_ref());
        assert!((&found - &wanted).norm_max() < 1e-5);
        assert!((found.transpose() * &found - Mat::<f32>::identity(40, 40)).norm_max() < 1e-6);
        let dependent = Mat::from_fn(90, 40, |i, j| x[(i, j / 2)]);
        assert!(orthonormal_by_products(dependent).is_none());
    }

    #[test]
    fn others_are_left_to_reflections() {
        assert!(nearly_orthonormal(columns(0.1)).is_none());
        assert!(nearly_orthonormal(Mat::full(9, 2, f32::NAN)).is_none());
    }
}
