//! The Gram route: eigenpairs of the Gram matrix of the smaller side, formed in `f64`.

use faer::Mat;

use crate::eigen::Eigen;
use crate::products;
use crate::smaller::{Smaller, Solved};
use crate::weight::Weight;

/// Singular values of the scaled weight as roots of the eigenvalues of `A Aᵀ` (`Aᵀ A` where `m > n`).
///
/// Products of two `f32` are exact in `f64`; sums and eigenvalues err by some 1e-16 of `σ₁²`, hence singular values
/// by 1e-8 of `σ₁` at most (where they are zero) and by far less where they are large.
pub(crate) fn solve(weight: &Weight, kept: usize) -> Option<Solved> {
    let eigen = Eigen::of(gram(weight), kept)?;
    let values = eigen.values().iter().map(|v| v.max(0.0).sqrt()).collect();
    Some(Solved { values, smaller: Smaller::Reduced(eigen) })
}

/// The lower triangle of the Gram matrix of the smaller side, `min(m, n)²`.
fn gram(weight: &Weight) -> Mat<f64> {
    let small = weight.full_rank().get();
    let mut gram = Mat::zeros(small, small);
    weight.for_each_block(|_, block| products::add_gram(gram.as_mut(), block));
    gram
}
