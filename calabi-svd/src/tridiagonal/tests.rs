//! Reductions and eigenpairs against what defines them, for matrices of all kinds.

use faer::Mat;
use proptest::prelude::*;

use super::{Lower, Reduction, Tridiagonal};
use crate::products::product;
use crate::real::Real;

fn symmetric(n: usize, seed: u64) -> Mat<f64> {
    let x = calabi_testing::matrices::gaussian(n, n, seed);
    Mat::from_fn(n, n, |i, j| x[(i, j)] + x[(j, i)])
}

fn dense(t: &Tridiagonal) -> Mat<f64> {
    Mat::from_fn(t.size(), t.size(), |i, j| match i.abs_diff(j) {
        0 => t.diagonal[i],
        1 => t.below[i.min(j)],
        _ => 0.0,
    })
}

fn largest_difference(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    let places = (0..a.nrows()).flat_map(|i| (0..a.ncols()).map(move |j| (i, j)));
    places.map(|at| (a[at] - b[at]).abs()).fold(0.0, f64::max)
}

/// How far `Q T Qᵀ` is from the matrix, and `QᵀQ` from the identity.
fn errors<T: Real>(s: &Mat<f64>) -> (f64, f64) {
    let n = s.nrows();
    let reduction = Reduction::of(Lower::of(Mat::from_fn(n, n, |i, j| T::of(s[(i, j)])).as_ref()));
    let mut q = Mat::<T>::identity(n, n);
    reduction.transform_back(q.as_mut());
    let q = Mat::from_fn(n, n, |i, j| q[(i, j)].wide());
    let back = product(product(q.as_ref(), dense(&reduction.tridiagonal).as_ref()).as_ref(), q.transpose());
    (largest_difference(&back, s), largest_difference(&product(q.transpose(), q.as_ref()), &Mat::identity(n, n)))
}

/// Checks eigenvalues and the leading `r` vectors of `T` by what defines them.
fn check(t: &Tridiagonal, r: usize) -> Result<(), TestCaseError> {
    let (n, norm) = (t.size(), t.norm());
    let values = t.values().expect("two sweeps a value are usual");
    let sum: f64 = values.iter().sum();
    prop_assert!((sum - t.diagonal.iter().sum::<f64>()).abs() <= 1e-13 * norm * n as f64);
    prop_assert!(values.is_sorted_by(|a, b| a >= b));
    check_vectors(t, &values, t.vectors_one_by_one(&values, r).expect("or divide and conquer"), 1e-7)?;
    check_vectors(t, &values, t.vectors_by_division(r).expect("divide and conquer"), 1e-13)?;
    Ok(())
}

fn check_vectors(t: &Tridiagonal, values: &[f64], vectors: Mat<f64>, orthonormal: f64) -> Result<(), TestCaseError> {
    let (n, r, norm) = (t.size(), vectors.ncols(), t.norm());
    let images = product(dense(t).as_ref(), vectors.as_ref());
    let scaled = Mat::from_fn(n, r, |i, j| vectors[(i, j)] * values[j]);
    prop_assert!(largest_difference(&images, &scaled) <= 1e-12 * norm, "T v is not λ v");
    let gram = product(vectors.transpose(), vectors.as_ref());
    let off = largest_difference(&gram, &Mat::identity(r, r));
    prop_assert!(off <= orthonormal, "orthonormal to {off:e}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_reduction_is_the_matrix(n in 1_usize..110, seed: u64) {
        let s = symmetric(n, seed);
        let (off, turned) = errors::<f64>(&s);
        prop_assert!(off < 1e-12 * n as f64 && turned < 1e-13 * n as f64, "f64: {off:e} {turned:e}");
        let (off, turned) = errors::<f32>(&s);
        prop_assert!(off < 1e-5 * n as f64 && turned < 1e-6 * n as f64, "f32: {off:e} {turned:e}");
    }

    #[test]
    fn eigenpairs_are_eigenpairs(n in 1_usize..120, r in 1_usize..120, whole: bool, seed: u64) {
        let mut noise = calabi_testing::matrices::gaussian(n, 2, seed);
        if whole {
            // Shifts of whole numbers are often eigenvalues, and blocks come apart within a sweep.
            noise.mapv_inplace(f64::round);
        }
        let t = Tridiagonal { diagonal: noise.column(0).to_vec(), below: noise.column(1).to_vec()[1..].to_vec() };
        check(&t, r.min(n))?;
    }

    /// Blocks that repeat, apart or barely coupled: every eigenvalue comes several times.
    #[test]
    fn repeated_eigenvalues_have_orthogonal_vectors(block in 1_usize..20, times in 1_usize..6, coupling in -18_i32..-3, seed: u64) {
        let noise = calabi_testing::matrices::gaussian(block, 2, seed);
        let diagonal = (0..times).flat_map(|_| noise.column(0).to_vec()).collect();
        let mut below: Vec<f64> = (0..times).flat_map(|_| noise.column(1).to_vec()).collect();
        for last in (1..times).map(|k| k * block - 1) {
            below[last] = if coupling < -16 { 0.0 } else { 10_f64.powi(coupling) };
        }
        below.truncate(block * times - 1);
        check(&Tridiagonal { diagonal, below }, block * times)?;
    }
}

/// Vectors of a cluster that are made orthogonal stay eigenvectors, or divide and conquer takes over.
#[test]
fn orthogonal_vectors_of_a_cluster_are_eigenvectors() {
    for seed in 0..60 {
        let noise = calabi_testing::matrices::gaussian(10, 2, seed);
        for coupling in -16..-5 {
            let diagonal = (0..3).flat_map(|_| noise.column(0).to_vec()).collect();
            let mut below: Vec<f64> = (0..3).flat_map(|_| noise.column(1).to_vec()).collect();
            (below[9], below[19]) = (10_f64.powi(coupling), 10_f64.powi(coupling));
            below.truncate(29);
            check(&Tridiagonal { diagonal, below }, 30).unwrap();
        }
    }
}

#[test]
fn matrices_without_anything_in_them_have_vectors() {
    for n in [1, 2, 40] {
        check(&Tridiagonal { diagonal: vec![0.0; n], below: vec![0.0; n - 1] }, n).unwrap();
        check(&Tridiagonal { diagonal: vec![3.0; n], below: vec![0.0; n - 1] }, n).unwrap();
    }
}

/// Wilkinson's matrix: its large eigenvalues come in pairs that agree to all digits, and are not equal.
#[test]
fn pairs_that_agree_to_all_digits_are_told_apart() {
    let diagonal = (0..61).map(|i| f64::from(i - 30).abs()).collect();
    check(&Tridiagonal { diagonal, below: vec![1.0; 60] }, 61).unwrap();
}

/// A vector is the same whatever the number that is asked for.
#[test]
fn fewer_vectors_are_the_first_of_more() {
    let diagonal = (0..61).map(|i| f64::from(i - 30).abs()).collect();
    let t = Tridiagonal { diagonal, below: vec![1.0; 60] };
    let values = t.values().unwrap();
    let all = t.vectors_one_by_one(&values, 61).unwrap();
    for r in 1..61 {
        assert_eq!(t.vectors_one_by_one(&values, r).unwrap(), all.subcols(0, r).to_owned(), "{r} vectors");
    }
}
