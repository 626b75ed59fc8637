//! Dense steps that the engine needs beside decompositions: on `ndarray` matrices, on the calling thread.

use calabi_api::{Basis, DecomposeError, Factors, Side};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::solve::{solve_in_place, solve_in_place_scratch};
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayRef2, ArrayView2, CowArray, Ix2};

use crate::{cholesky, orthonormal, products, signs};

/// Orthonormal columns that span those of `x` (`m × r`, `m ≥ r`): column `i` is what column `i` of `x` adds to the ones
/// before it, on the same side. Where it adds nothing, any direction that is new.
///
/// # Errors
/// Where there are more columns than rows.
pub fn orthonormal(x: ArrayView2<'_, f64>) -> Result<Array2<f64>, DecomposeError> {
    if x.ncols() > x.nrows() {
        return Err(DecomposeError::Beyond { asked: x.ncols(), available: x.nrows() });
    }
    if x.is_empty() {
        return Ok(x.to_owned());
    }
    let directions = Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)]);
    let mut columns = orthonormal::orthonormal(directions.clone());
    signs::follow(&mut columns, directions.as_ref());
    Ok(Array2::from_shape_fn(x.dim(), |place| columns[place]))
}

/// The best factors of a weight in the span of a basis: `U (Uᵀ W)` or `(W V) Vᵀ`.
///
/// # Errors
/// Where the vectors are not as long as that side of the weight.
pub fn project(weight: ArrayView2<'_, f32>, basis: Basis) -> Result<Factors, DecomposeError> {
    let Basis { side, vectors } = basis;
    let length = if side == Side::Left { weight.nrows() } else { weight.ncols() };
    if vectors.nrows() != length {
        return Err(DecomposeError::Beyond { asked: vectors.nrows(), available: length });
    }
    // Columns lie in order, whatever the layout of the basis: products run faster, and layouts do not change the result.
    let (weight, columns) = (row_major(weight), row_major(vectors.t()));
    Ok(match side {
        Side::Left => {
            let right = product(viewed(&columns), viewed(&weight));
            Factors { left: vectors.as_standard_layout().into_owned(), right, bias: None }
        }
        Side::Right => {
            let left = product(viewed(&weight), viewed(&columns).transpose());
            Factors { left, right: columns.into_owned(), bias: None }
        }
    })
}

/// `left · right`, `m × r` by `r × n`, in `f32`.
///
/// ```
/// use calabi_svd::dense::multiply;
/// use ndarray::array;
///
/// let product = multiply(array![[1.0_f32], [2.0]].view(), array![[3.0, 4.0]].view())?;
/// assert_eq!(product, array![[3.0, 4.0], [6.0, 8.0]]);
/// # Ok::<(), calabi_api::DecomposeError>(())
/// ```
///
/// # Errors
/// Where `left` does not have as many columns as `right` has rows.
pub fn multiply(left: ArrayView2<'_, f32>, right: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
    if left.ncols() != right.nrows() {
        return Err(DecomposeError::Beyond { asked: left.ncols(), available: right.nrows() });
    }
    Ok(product(viewed(&row_major(left)), viewed(&row_major(right))))
}

/// `left · right` in `f64`, `m × k` by `k × n`, of any layout.
///
/// ```
/// use calabi_svd::dense::product64;
/// use ndarray::array;
///
/// let a = array![[1.0, 2.0], [3.0, 4.0]];
/// assert_eq!(product64(&a, &a.t()), array![[5.0, 11.0], [11.0, 25.0]]);
/// ```
///
/// # Panics
/// Where `left` does not have as many columns as `right` has rows.
#[must_use]
pub fn product64(left: &ArrayRef2<f64>, right: &ArrayRef2<f64>) -> Array2<f64> {
    let mut product = Array2::zeros((left.nrows(), right.ncols()));
    let (left, right) = (in_order(left.view()), in_order(right.view()));
    if let Some(entries) = product.as_slice_mut() {
        let to = MatMut::from_row_major_slice_mut(entries, left.nrows(), right.ncols());
        products::replace(to, ordered(&left), ordered(&right));
    }
    product
}

/// A matrix whose rows, or whose columns, lie one after the other.
fn in_order(x: ArrayView2<'_, f64>) -> CowArray<'_, f64, Ix2> {
    if x.t().is_standard_layout() { x.into() } else { row_major(x) }
}

fn ordered<'a>(x: &'a CowArray<'_, f64, Ix2>) -> MatRef<'a, f64> {
    match x.as_slice() {
        Some(rows) => MatRef::from_row_major_slice(rows, x.nrows(), x.ncols()),
        None => MatRef::from_column_major_slice(x.as_slice_memory_order().unwrap_or_default(), x.nrows(), x.ncols()),
    }
}

pub(crate) fn product(left: MatRef<'_, f32>, right: MatRef<'_, f32>) -> Array2<f32> {
    let mut product = Array2::zeros((left.nrows(), right.ncols()));
    if let Some(entries) = product.as_slice_mut() {
        products::replace(MatMut::from_row_major_slice_mut(entries, left.nrows(), right.ncols()), left, right);
    }
    product
}

/// `x xᵀ` in `f32`, in the lower triangle of `to` (`n × n`, standard layout) for `x` of `n × k`; what stands above the
/// diagonal stays. Half the work of a full product.
///
/// # Errors
/// Where `to` is not `n × n`.
pub fn lower_gram(x: ArrayView2<'_, f32>, to: &mut Array2<f32>) -> Result<(), DecomposeError> {
    let n = x.nrows();
    let misfit = DecomposeError::Beyond { asked: n, available: to.nrows() };
    if to.dim() != (n, n) {
        return Err(misfit);
    }
    let x = row_major(x);
    let x = viewed(&x);
    let Some(sums) = to.as_slice_mut() else { return Err(misfit) };
    triangular::matmul(
        MatMut::from_row_major_slice_mut(sums, n, n),
        BlockStructure::TriangularLower,
        Accum::Replace,
        x,
        BlockStructure::Rectangular,
        x.transpose(),
        BlockStructure::Rectangular,
        1.0,
        Par::Seq,
    );
    Ok(())
}

/// `B S⁻¹` for a symmetric positive definite `S` (`n × n`, of which one triangle is read) and `B` of `m × n`.
///
/// # Errors
/// Where the shapes do not fit, or `S` is not positive definite to the precision of `f64`.
pub fn divided(b: ArrayView2<'_, f64>, s: ArrayView2<'_, f64>) -> Result<Array2<f64>, DecomposeError> {
    let (rows, cols) = s.dim();
    if rows != cols || b.ncols() != cols {
        return Err(DecomposeError::Beyond { asked: b.ncols(), available: cols });
    }
    let root = cholesky(s)?;
    let mut solved = Mat::from_fn(rows, b.nrows(), |i, j| b[(j, i)]);
    let mut memory = MemBuffer::new(solve_in_place_scratch::<f64>(rows, b.nrows(), Par::Seq));
    solve_in_place::<f64, f64>(root.as_ref(), solved.as_mut(), Par::Seq, MemStack::new(&mut memory));
    Ok(Array2::from_shape_fn(b.dim(), |(i, j)| solved[(j, i)]))
}

/// `L` of `S = L Lᵀ` in the lower triangle, for a symmetric positive definite `S` (`n × n`, of which one triangle is read).
pub(crate) fn cholesky(s: ArrayView2<'_, f64>) -> Result<Mat<f64>, DecomposeError> {
    let (n, s) = (s.nrows(), row_major(s));
    let mut root = MatRef::from_column_major_slice(s.as_slice().unwrap_or_default(), n, s.ncols()).to_owned();
    cholesky::factor(root.as_mut()).map_err(|error| DecomposeError::NoConvergence {
        backend: "Cholesky",
        routes: format!("not positive definite: {error:?}"),
    })?;
    Ok(root)
}

/// A matrix in standard layout.
pub(crate) fn viewed<'a>(x: &'a CowArray<'_, f32, Ix2>) -> MatRef<'a, f32> {
    MatRef::from_row_major_slice(x.as_slice().unwrap_or_default(), x.nrows(), x.ncols())
}

pub(crate) fn row_major<T: Clone>(x: ArrayView2<'_, T>) -> CowArray<'_, T, Ix2> {
    if x.is_standard_layout() { x.into() } else { x.as_standard_layout().into_owned().into() }
}

#[cfg(test)]
mod tests {
    use calabi_testing::matrices::{gaussian, rounded};
    use proptest::prelude::*;

    use super::*;

    fn largest(a: &Array2<f64>) -> f64 {
        a.iter().fold(0.0, |max, v| max.max(v.abs()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn columns_become_orthonormal_and_span_what_they_did(m in 1_usize..40, r in 1_usize..40, twins: bool, seed: u64) {
            let r = r.min(m);
            let mut x = gaussian(m, r, seed);
            if twins && r > 1 {
                let first = x.column(0).to_owned();
                x.column_mut(r - 1).assign(&first);
            }
            let q = orthonormal(x.view()).unwrap();
            prop_assert!(largest(&(q.t().dot(&q) - Array2::<f64>::eye(r))) < 1e-13);
            prop_assert!(largest(&(&x - &q.dot(&q.t().dot(&x)))) < 1e-12 * largest(&x));
            prop_assert!(x.column(0).dot(&q.column(0)) > 0.0);
        }

        #[test]
        fn the_lower_triangle_is_the_products(n in 1_usize..40, k in 0_usize..60, seed: u64) {
            let x = calabi_testing::matrices::rounded(&gaussian(n, k.max(1), seed));
            let mut to = Array2::from_elem((n, n), f32::NAN);
            lower_gram(x.view(), &mut to).unwrap();
            let wanted = x.mapv(f64::from).dot(&x.t().mapv(f64::from));
            for i in 0..n {
                for j in 0..n {
                    let off = (f64::from(to[(i, j)]) - wanted[(i, j)]).abs();
                    let as_wanted = if j <= i { off < 1e-5 * (k as f64 + 1.0) } else { off.is_nan() };
                    prop_assert!(as_wanted, "{i} {j}: {off}");
                }
            }
        }

        #[test]
        fn a_quotient_times_its_divisor_is_the_dividend(m in 1_usize..20, n in 1_usize..40, seed: u64) {
            let (b, x) = (gaussian(m, n, seed), gaussian(n, n + 5, seed ^ 1));
            let s = x.dot(&x.t()) + Array2::<f64>::eye(n);
            let q = divided(b.view(), s.view()).unwrap();
            prop_assert!(largest(&(q.dot(&s) - &b)) < 1e-10 * largest(&b));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(orthonormal(gaussian(2, 3, 1).view()).is_err());
        assert!(lower_gram(Array2::zeros((3, 2)).view(), &mut Array2::zeros((2, 2))).is_err());
        assert!(divided(gaussian(2, 3, 1).view(), (-Array2::<f64>::eye(3)).view()).is_err());
        assert!(divided(gaussian(2, 3, 1).view(), Array2::eye(2).view()).is_err());
    }

    /// Both layouts of a basis give the same bits, on both sides.
    #[test]
    fn layouts_of_a_basis_do_not_change_factors() {
        let weight = rounded(&gaussian(40, 30, 1));
        for (side, length) in [(Side::Left, 40), (Side::Right, 30)] {
            let rows = rounded(&gaussian(length, 7, 2));
            let columns = rows.t().as_standard_layout().into_owned().reversed_axes();
            assert!(rows == columns && !columns.is_standard_layout());
            let made = |vectors| project(weight.view(), Basis { side, vectors }).unwrap();
            let (one, other) = (made(rows), made(columns));
            assert_eq!(one, other);
            assert!(other.left.is_standard_layout() && other.right.is_standard_layout());
        }
    }
}
