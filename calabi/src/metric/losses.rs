//! What every rank loses, for any orthonormal basis in any metric.

use calabi_svd::dense::product64;
use ndarray::{Array1, Array2, ArrayView2};

use super::form::Form;

/// `loss(r)` for `r` from 0 to the width of the basis, in the metric `judge`: what is kept is `uᵢᵀ (W D Wᵀ) uᵢ`.
///
/// A basis of `min(m, n)` vectors leaves nothing. Sums run from the last rank to the first, so that small losses keep
/// their digits.
pub(crate) fn losses(weight: ArrayView2<'_, f64>, basis: &Array2<f64>, judge: &Form) -> Vec<f64> {
    let kept = judge.of_rows(product64(&basis.t(), &weight).view());
    let all_kept = basis.ncols() == weight.nrows().min(weight.ncols());
    let rest = if all_kept { 0.0 } else { (judge.of_rows(weight).sum() - kept.sum()).max(0.0) };
    let mut losses = vec![rest; kept.len() + 1];
    for (r, kept) in kept.iter().enumerate().rev() {
        losses[r] = losses[r + 1] + kept;
    }
    losses
}

/// `‖W μ‖²`: what a mean adds to `E‖W x‖²`.
pub(crate) fn energy_of_mean(weight: ArrayView2<'_, f64>, mean: Option<&Array1<f64>>) -> f64 {
    mean.map_or(0.0, |mean| {
        let output = weight.dot(mean);
        output.dot(&output)
    })
}
