//! The quick route: singular values of `W L` in `f32`, for `D = L Lᵀ`, where they tell all that is asked.
//!
//! `W L` errs by 6e-8 of `‖W‖ ‖L‖` at most, hence the root of a loss does. Where the loss at the largest rank that may be
//! asked for is not well above that, or losses in the metric that judges are a small difference of those in the
//! metric that finds directions, nothing is found, and [`f64`](super::basis) is the way.

use std::cell::OnceCell;

use calabi_api::{DecomposeError, Decomposer, Factors, Rank, Shape, Side};
use calabi_svd::dense::project;
use calabi_svd::whitening::{Triangle, energy, error};
use ndarray::{Array1, Array2, ArrayView2};

use super::Metric;
use super::factorize::{Basis, Factorization};
use super::judged::{Judged, times};

/// Below this size `f64` costs next to nothing.
const SMALLEST: usize = 192;

/// What the root of a loss must be of `‖W‖ ‖L‖`: the rounding of `f32` is then 1/4000 of it.
const ROOT: f64 = 2.4e-4;

/// The share of a loss in the metric that finds directions which the judging metric must leave of it.
const SHARE: f64 = 0.02;

/// A room for `W L` of one weight in one metric, which stays as long as what was found in it.
pub(crate) type Room = OnceCell<Array2<f32>>;

/// What `f32` can tell about in a metric.
struct Single<'m> {
    triangle: &'m Triangle,
    judged: &'m Judged,
    /// The smallest loss that is told to 1/1000.
    smallest: f64,
}

impl<'m> Single<'m> {
    fn of(weight: ArrayView2<'_, f32>, metric: &'m Metric) -> Option<Self> {
        let large = weight.nrows().min(weight.ncols()) >= SMALLEST && weight.ncols() == metric.judge().size();
        let judged = metric.judged.as_ref().filter(|_| large)?;
        let energy = energy(weight);
        let triangle = metric.find().triangle().filter(|_| energy.is_finite())?;
        Some(Self { triangle, judged, smallest: ROOT * ROOT * energy * triangle.energy() })
    }

    /// `W L`, made once.
    fn images<'a>(&self, weight: ArrayView2<'_, f32>, room: &'a Room) -> Result<&'a Array2<f32>, DecomposeError> {
        if let Some(images) = room.get() {
            return Ok(images);
        }
        let images = self.triangle.images(weight)?;
        Ok(room.get_or_init(|| images))
    }

    /// Whether a loss in the metric that finds directions, and what it comes to in the other one, are told.
    fn tells(&self, found: f64, judged: f64) -> bool {
        found > self.smallest && judged >= SHARE * found
    }
}

/// Takes a weight apart; none where `f32` does not tell what is lost at the `limit`.
pub(super) fn factorize<'a>(
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    decomposer: &dyn Decomposer,
    limit: Rank,
    room: &'a Room,
) -> Result<Option<Factorization<'a>>, DecomposeError> {
    let below = Shape::of(weight).is_some_and(|shape| limit < shape.full_rank());
    let Some(single) = Single::of(weight, metric).filter(|_| below && decomposer.is_for_losses()) else {
        return Ok(None);
    };
    let images = single.images(weight, room)?;
    let decomposition = decomposer.svd(images.view(), limit)?;
    let spectrum = decomposition.spectrum().clone();
    let rest = spectrum.loss(limit.get());
    if !single.tells(rest, rest) {
        return Ok(None);
    }
    let remark = decomposition.remark().map(str::to_owned);
    let basis = Basis::Images { images, decomposition };
    if single.judged.is_same() {
        let energy = spectrum.energy() + metric.mean().map_or(0.0, |mean| of_mean(weight, mean));
        let losses = (0..=spectrum.known()).map(|r| spectrum.loss(r)).collect();
        return Factorization::new(spectrum, basis, remark, losses, energy).map(Some);
    }
    let vectors = basis.vectors(limit)?;
    let rows = project(weight, calabi_api::Basis { side: Side::Left, vectors: vectors.clone() })?.right;
    let spectrum = spectrum.truncated(limit);
    let losses = single.judged.losses(weight, &rows, spectrum.values(), rest);
    if !losses.last().is_some_and(|&judged| single.tells(rest, judged)) {
        return Ok(None);
    }
    let energy = losses.first().copied().unwrap_or_default() + metric.mean().map_or(0.0, |mean| of_mean(weight, mean));
    Factorization::new(spectrum, Basis::Single(vectors), remark, losses, energy).map(Some)
}

fn of_mean(weight: ArrayView2<'_, f32>, mean: &Array1<f64>) -> f64 {
    let output = times(weight, mean);
    output.dot(&output)
}

/// What factors lose in the metric that judges, without what is left of the mean, of which the error makes `of_mean`; none
/// where `f32` does not tell. `room` holds `W L`, or will.
pub(super) fn measured_loss(
    weight: ArrayView2<'_, f32>,
    factors: &Factors,
    (metric, room): (&Metric, &Room),
    of_mean: Option<&Array1<f64>>,
) -> Option<f64> {
    let single = Single::of(weight, metric)?;
    let lost = single.triangle.lost(single.images(weight, room).ok()?.view(), factors).ok()?;
    let judged = single.judged.lost(lost, || error(weight, factors.left.view(), factors.right.view()), of_mean).ok()?;
    single.tells(lost, judged).then_some(judged)
}
