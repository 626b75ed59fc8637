//! What factors as they are written really lose: the proof beside the prediction.

use calabi_api::Factors;
use calabi_svd::dense::product64;
use ndarray::{Array1, ArrayView2, Axis};

use super::judged::times;
use super::{Metric, Room, whitened};

/// Outputs that are measured at a time.
const ROWS: usize = 256;

/// The bias that makes up for what these factors cut, `(W − left · right) μ`, to be added to the layer's own; none
/// where the metric makes up for nothing.
pub(crate) fn compensation(weight: ArrayView2<'_, f32>, factors: &Factors, metric: &Metric) -> Option<Array1<f64>> {
    let mean = metric.mean()?;
    Some(times(weight, mean) - times(factors.left.view(), &times(factors.right.view(), mean)))
}

/// The mean square error of the outputs, `tr(E D Eᵀ)` for `E = W − left · right`, in the metric that judges.
///
/// `added` is what the written bias adds to the layer's own. Where the metric makes up for a mean, what `added` leaves
/// of it counts too: `‖E μ − added‖²`. `room` is that in which the weight was taken apart, or empty.
pub(crate) fn measured_loss(
    weight: ArrayView2<'_, f32>,
    factors: &Factors,
    (metric, room): (&Metric, &Room),
    added: Option<&Array1<f64>>,
) -> f64 {
    let wanted = compensation(weight, factors, metric);
    if let Some(spread) = whitened::measured_loss(weight, factors, (metric, room), wanted.as_ref()) {
        return spread + left_over(wanted, added);
    }
    let right = factors.right.mapv(f64::from);
    let blocks = weight.axis_chunks_iter(Axis(0), ROWS).zip(factors.left.axis_chunks_iter(Axis(0), ROWS));
    let spread: f64 = blocks
        .map(|(rows, left)| {
            let error = rows.mapv(f64::from) - product64(&left.mapv(f64::from), &right);
            metric.judge().of_rows(error.view()).sum()
        })
        .sum();
    spread + left_over(wanted, added)
}

/// `‖wanted − added‖²`.
pub(super) fn left_over(wanted: Option<Array1<f64>>, added: Option<&Array1<f64>>) -> f64 {
    let square = |v: &Array1<f64>| v.dot(v);
    match (wanted, added) {
        (Some(wanted), Some(added)) => square(&(wanted - added)),
        (Some(wanted), None) => square(&wanted),
        (None, Some(added)) => square(added),
        (None, None) => 0.0,
    }
}
