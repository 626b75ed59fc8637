//! The quick route: `f32`, where it tells all that is asked. Singular values of `W L` for `D = L Lᵀ`; of weights that are far wider
//! than tall, eigenvalues of `W D Wᵀ`, for which no root of `D` is taken.
//!
//! What rounding does to `W L` is known as a share of `‖W‖` and `‖L‖`; what it does to `W D Wᵀ` is seen, by a few products in
//! `f64`. Where the loss at the largest rank that may be asked for is not well above that, or losses in the metric that judges
//! are a small difference of those in the metric that finds directions, nothing is found, and [`f64`](super::basis) is the way.

use std::cell::OnceCell;

use calabi_api::{DecomposeError, Decomposer, Decomposition, Factors, Rank, Shape, Side};
use calabi_svd::dense::project;
use calabi_svd::whitening::{Halved, Triangle, energy, error};
use ndarray::{Array1, Array2, ArrayView2};

use super::factorize::{Basis, Factorization};
use super::judged::{Judged, times};
use super::{Form, Metric};

/// Below this size `f64` costs next to nothing.
const SMALLEST: usize = 192;

/// How many times as wide as tall a weight is whose outputs are cheaper than a root of the metric of its inputs.
const WIDE: f64 = 1.5;

/// What a loss must be of `‖W‖² ‖L‖²`: `W L` errs by 6e-8 of the root of that, the root of a loss then by 1/4000.
const OF_ROOT: f64 = 5.8e-8;

/// How many times what `W D Wᵀ`, or the loss of factors in it, is off by a loss must be: so much of one sign would count.
const TIMES_OFF: f64 = 1000.0;

/// `‖W‖² ‖D‖` beyond this, or below its inverse, may leave the range of `f32`.
const MODEST: f64 = (1_u64 << 60) as f64;

/// The share of a loss in the metric that finds directions which the judging metric must leave of it.
const SHARE: f64 = 0.02;

/// A room for `W L`, or `W T`, of one weight in one metric, which stays as long as what was found in it.
pub(crate) type Room = OnceCell<Array2<f32>>;

/// What a weight is multiplied with.
enum Root<'m> {
    /// `L` of `D = L Lᵀ`, and the smallest loss that it tells.
    Triangle(&'m Triangle, f64),
    /// `T` of `D = T + Tᵀ`, and `D`.
    Halved(&'m Halved, ArrayView2<'m, f64>),
}

/// A weight in the metric, taken apart, and the smallest loss that this tells to 1/1000.
struct Apart<'a> {
    decomposition: Box<dyn Decomposition + 'a>,
    smallest: f64,
}

/// What factors lose in the metric, and the smallest loss that would be told.
struct Measured {
    weighed: f64,
    /// `‖E‖²`, where it is known.
    plain: Option<f64>,
    smallest: f64,
}

impl<'m> Root<'m> {
    fn of(weight: ArrayView2<'_, f32>, metric: &'m Metric) -> Option<Self> {
        let energy = Some(energy(weight)).filter(|energy| energy.is_finite())?;
        if weight.ncols() as f64 >= WIDE * weight.nrows() as f64
            && let (Some(halved), Form::Full(d)) = (metric.find().halved(), metric.find().form())
            && (MODEST.recip()..MODEST).contains(&(energy * halved.norm()))
        {
            return Some(Self::Halved(halved, d.view()));
        }
        let triangle = metric.find().triangle()?;
        Some(Self::Triangle(triangle, OF_ROOT * energy * triangle.energy()))
    }

    fn images(&self, weight: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
        match self {
            Self::Triangle(triangle, _) => triangle.images(weight),
            Self::Halved(halved, _) => halved.images(weight),
        }
    }

    /// None where rounding made the metric indefinite.
    fn decomposed<'a>(
        &self,
        weight: ArrayView2<'_, f32>,
        images: &'a Array2<f32>,
        decomposer: &dyn Decomposer,
        limit: Rank,
    ) -> Result<Option<Apart<'a>>, DecomposeError> {
        let (outputs, smallest) = match self {
            Self::Triangle(_, smallest) => {
                let decomposition = decomposer.svd(images.view(), limit)?;
                return Ok(Some(Apart { decomposition, smallest: *smallest }));
            }
            Self::Halved(halved, d) => {
                let outputs = halved.outputs(weight, images.view())?;
                let off = halved.rounding(*d, weight, outputs.view())?;
                (outputs, TIMES_OFF * off)
            }
        };
        match decomposer.eigh_for_losses(outputs.view(), limit) {
            Err(DecomposeError::Indefinite { .. }) => Ok(None),
            found => found.map(|decomposition| Some(Apart { decomposition, smallest })),
        }
    }

    fn lost(
        &self,
        weight: ArrayView2<'_, f32>,
        images: &Array2<f32>,
        factors: &Factors,
    ) -> Result<Measured, DecomposeError> {
        Ok(match self {
            Self::Triangle(triangle, smallest) => {
                let weighed = triangle.lost(images.view(), factors)?;
                Measured { weighed, plain: None, smallest: *smallest }
            }
            Self::Halved(halved, d) => {
                let lost = halved.lost(*d, weight, images.view(), factors)?;
                Measured { weighed: lost.weighed, plain: Some(lost.plain), smallest: TIMES_OFF * lost.rounding }
            }
        })
    }
}

/// What `f32` can tell about in a metric.
struct Single<'m> {
    root: Root<'m>,
    judged: &'m Judged,
}

impl<'m> Single<'m> {
    fn of(weight: ArrayView2<'_, f32>, metric: &'m Metric) -> Option<Self> {
        let large = weight.nrows().min(weight.ncols()) >= SMALLEST && weight.ncols() == metric.judge().size();
        let judged = metric.judged.as_ref().filter(|_| large)?;
        Some(Self { root: Root::of(weight, metric)?, judged })
    }

    /// `W L` or `W T`, made once.
    fn images<'a>(&self, weight: ArrayView2<'_, f32>, room: &'a Room) -> Result<&'a Array2<f32>, DecomposeError> {
        if let Some(images) = room.get() {
            return Ok(images);
        }
        let images = self.root.images(weight)?;
        Ok(room.get_or_init(|| images))
    }
}

/// Whether a loss in the metric that finds directions, and what it comes to in the other one, are told.
fn are_told(found: f64, judged: f64, smallest: f64) -> bool {
    found > smallest && judged >= SHARE * found
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
    let Some(apart) = single.root.decomposed(weight, images, decomposer, limit)? else { return Ok(None) };
    let Apart { decomposition, smallest } = apart;
    let spectrum = decomposition.spectrum().clone();
    let rest = spectrum.loss(limit.get());
    if !are_told(rest, rest, smallest) {
        return Ok(None);
    }
    let remark = decomposition.remark().map(str::to_owned);
    let basis = Basis::Images { images, decomposition, limit };
    if single.judged.is_same() {
        let energy = spectrum.energy() + metric.mean().map_or(0.0, |mean| of_mean(weight, mean));
        let losses = (0..=spectrum.known()).map(|r| spectrum.loss(r)).collect();
        return Factorization::new(spectrum, basis, remark, losses, energy).map(Some);
    }
    let vectors = basis.vectors(limit)?;
    let rows = project(weight, calabi_api::Basis { side: Side::Left, vectors: vectors.clone() })?.right;
    let spectrum = spectrum.truncated(limit);
    let losses = single.judged.losses(weight, &rows, spectrum.values(), rest);
    if !losses.last().is_some_and(|&judged| are_told(rest, judged, smallest)) {
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
/// where `f32` does not tell. `room` holds what `Single::images` makes, or will.
pub(super) fn measured_loss(
    weight: ArrayView2<'_, f32>,
    factors: &Factors,
    (metric, room): (&Metric, &Room),
    of_mean: Option<&Array1<f64>>,
) -> Option<f64> {
    let single = Single::of(weight, metric)?;
    let images = single.images(weight, room).ok()?;
    let Measured { weighed, plain, smallest } = single.root.lost(weight, images, factors).ok()?;
    let plain = || plain.map_or_else(|| error(weight, factors.left.view(), factors.right.view()), Ok);
    let judged = single.judged.lost(weighed, plain, of_mean).ok()?;
    are_told(weighed, judged, smallest).then_some(judged)
}
