//! The best factors of every rank, in a metric.

use calabi_api::{DecomposeError, Decomposer, Factors, Rank, Shape, Spectrum, SpectrumError};
use ndarray::{Array2, ArrayView2, Axis};

use super::Metric;
use super::basis::{find, to_f32};
use super::losses::{energy_of_mean, losses};
use super::route::{Route, route};

/// A weight taken apart in a metric.
#[derive(Debug)]
pub(crate) struct Factorization {
    spectrum: Spectrum,
    basis: Array2<f64>,
    remark: Option<String>,
}

/// Takes a weight (`m × n`) apart in a metric; ranks up to `limit` can be had afterwards.
///
/// # Errors
/// As those of the decomposer: input that is not finite, a metric with negative eigenvalues, no convergence.
pub(crate) fn factorize(
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    decomposer: &dyn Decomposer,
    limit: Rank,
) -> Result<Factorization, DecomposeError> {
    let shape = Shape::of(weight).ok_or(DecomposeError::Empty { rows: weight.nrows(), cols: weight.ncols() })?;
    by_route(weight, metric, decomposer, limit, route(shape, metric.find().form()))
}

/// As [`factorize`], by the route that is named.
pub(super) fn by_route(
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    decomposer: &dyn Decomposer,
    limit: Rank,
    route: Route,
) -> Result<Factorization, DecomposeError> {
    if weight.ncols() != metric.judge().size() {
        return Err(DecomposeError::Beyond { asked: weight.ncols(), available: metric.judge().size() });
    }
    let weight = weight.mapv(f64::from);
    let found = find(weight.view(), metric.find(), route, decomposer, limit)?;
    let losses = losses(weight.view(), &found.basis, metric.judge());
    let energy = losses.first().copied().unwrap_or_default() + energy_of_mean(weight.view(), metric.mean());
    Factorization::new(found.spectrum, found.basis, found.remark, losses, energy)
}

impl Factorization {
    pub(super) fn new(
        spectrum: Spectrum,
        basis: Array2<f64>,
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
        Ok(to_f32(self.precise_basis(r)?))
    }

    /// `U_r` in `f64`.
    ///
    /// # Errors
    /// Where `r` is beyond the limit.
    pub(crate) fn precise_basis(&self, r: Rank) -> Result<ArrayView2<'_, f64>, DecomposeError> {
        if r.get() > self.basis.ncols() {
            return Err(DecomposeError::Beyond { asked: r.get(), available: self.basis.ncols() });
        }
        Ok(self.basis.slice_axis(Axis(1), (..r.get()).into()))
    }
}

/// The factors of a weight (or of what it was [refitted](super::Anchored::refit) to) in the span of a basis:
/// `left = U`, `right = Uᵀ W`, summed in `f64`.
pub(crate) fn factors_from_basis(weight: ArrayView2<'_, f32>, basis: Array2<f32>) -> Factors {
    let right = to_f32(basis.t().mapv(f64::from).dot(&weight.mapv(f64::from)).view());
    Factors { left: basis, right, bias: None }
}
