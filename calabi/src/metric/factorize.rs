//! The best factors of every rank, in a metric.

use calabi_api::{DecomposeError, Decomposer, Decomposition, Factors, Rank, Shape, Side, Spectrum, SpectrumError};
use calabi_svd::dense::product64;
use calabi_svd::whitening::{TOGETHER, left_vectors};
use ndarray::{Array2, ArrayView2, Axis};

use super::basis::{find, to_f32};
use super::losses::{energy_of_mean, losses};
use super::route::{Route, route};
use super::{Metric, Room, whitened};

/// A weight taken apart in a metric.
#[derive(Debug)]
pub(crate) struct Factorization<'a> {
    spectrum: Spectrum,
    basis: Basis<'a>,
    remark: Option<String>,
}

/// Orthonormal directions of the outputs, as they were found.
#[derive(Debug)]
pub(super) enum Basis<'a> {
    /// In `f64`.
    Precise(Array2<f64>),
    /// To the precision of `f32`.
    Single(Array2<f32>),
    /// Left singular vectors of `W L`, or eigenvectors of `W D Wᵀ`, made when they are asked for.
    Images { images: &'a Array2<f32>, decomposition: Box<dyn Decomposition + 'a>, limit: Rank },
}

/// The ranks of which vectors may be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Where the spectrum is complete whatever is asked.
    pub(crate) kept: Rank,
    /// Where losses are known as far as vectors are.
    pub(crate) known: Rank,
}

/// Takes a weight (`m × n`) apart in a metric; ranks up to the limit can be had afterwards. `room` is empty.
///
/// # Errors
/// As those of the decomposer: input that is not finite, a metric with negative eigenvalues, no convergence.
pub(crate) fn factorize<'a>(
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    decomposer: &dyn Decomposer,
    limits: Limits,
    room: &'a Room,
) -> Result<Factorization<'a>, DecomposeError> {
    let shape = Shape::of(weight).ok_or(DecomposeError::Empty { rows: weight.nrows(), cols: weight.ncols() })?;
    let limit = if metric.tells_losses() { limits.kept } else { limits.known };
    if let Some(found) = whitened::factorize(weight, metric, decomposer, limit, room)? {
        return Ok(found);
    }
    by_route(weight, metric, decomposer, limits.known, route(shape, metric.find().form()))
}

/// As [`factorize`], by the route that is named.
pub(super) fn by_route(
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    decomposer: &dyn Decomposer,
    limit: Rank,
    route: Route,
) -> Result<Factorization<'static>, DecomposeError> {
    if weight.ncols() != metric.judge().size() {
        return Err(DecomposeError::Beyond { asked: weight.ncols(), available: metric.judge().size() });
    }
    let weight = weight.mapv(f64::from);
    let found = find(weight.view(), metric.find(), route, decomposer, limit)?;
    let losses = losses(weight.view(), &found.basis, metric.judge());
    let energy = losses.first().copied().unwrap_or_default() + energy_of_mean(weight.view(), metric.mean());
    Factorization::new(found.spectrum, Basis::Precise(found.basis), found.remark, losses, energy)
}

impl<'a> Factorization<'a> {
    pub(super) fn new(
        spectrum: Spectrum,
        basis: Basis<'a>,
        remark: Option<String>,
        losses: Vec<f64>,
        energy: f64,
    ) -> Result<Self, DecomposeError> {
        let overflown = |error: SpectrumError| DecomposeError::NoConvergence {
            backend: "the metric",
            routes: format!("losses are beyond f64 or not as many as ranks: {error}"),
        };
        let spectrum = spectrum.with_losses(losses, energy).map_err(overflown)?;
        Ok(Self { spectrum, basis, remark })
    }

    /// Roots of the eigenvalues of `W D Wᵀ`, with the loss of every rank in the metric that judges; errors are relative
    /// to `E‖W x‖²`.
    pub(crate) fn spectrum(&self) -> &Spectrum {
        &self.spectrum
    }

    /// What the decomposer had to say.
    pub(crate) fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// `U_r`, `m × r`: what is kept until ranks are chosen.
    ///
    /// # Errors
    /// Where `r` is beyond the limit.
    pub(crate) fn basis(&self, r: Rank) -> Result<Array2<f32>, DecomposeError> {
        self.basis.vectors(r)
    }

    /// `U_r`, as precise as it was found.
    #[cfg(test)]
    pub(super) fn precise_basis(&self, r: Rank) -> Result<Array2<f64>, DecomposeError> {
        match &self.basis {
            Basis::Precise(vectors) => leading(vectors, r).map(|vectors| vectors.to_owned()),
            other => Ok(other.vectors(r)?.mapv(f64::from)),
        }
    }
}

impl Basis<'_> {
    /// The leading `r` directions.
    pub(super) fn vectors(&self, r: Rank) -> Result<Array2<f32>, DecomposeError> {
        match self {
            Self::Precise(vectors) => leading(vectors, r).map(to_f32),
            Self::Single(vectors) => leading(vectors, r).map(|vectors| vectors.to_owned()),
            Self::Images { images, decomposition, limit } => {
                // As many as are made together: what more of them are asked for changes no bit of one.
                let whole = Rank::new(r.get().next_multiple_of(TOGETHER)).map_or(r, |whole| whole.min(*limit).max(r));
                let found = decomposition.basis(whole)?;
                let vectors = match found.side {
                    Side::Left => found.vectors,
                    Side::Right => left_vectors(images.view(), found.vectors.view())?,
                };
                leading(&vectors, r).map(|vectors| vectors.to_owned())
            }
        }
    }
}

fn leading<T>(vectors: &Array2<T>, r: Rank) -> Result<ArrayView2<'_, T>, DecomposeError> {
    if r.get() > vectors.ncols() {
        return Err(DecomposeError::Beyond { asked: r.get(), available: vectors.ncols() });
    }
    Ok(vectors.slice_axis(Axis(1), (..r.get()).into()))
}

/// The factors of a weight (or of what it was [refitted](super::Anchored::refit) to) in the span of a basis:
/// `left = U`, `right = Uᵀ W`, summed in `f64`.
pub(crate) fn factors_from_basis(weight: ArrayView2<'_, f32>, basis: Array2<f32>) -> Factors {
    let right = to_f32(product64(&basis.t().mapv(f64::from), &weight.mapv(f64::from)).view());
    Factors { left: basis, right, bias: None }
}
