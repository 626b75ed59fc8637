//! The factors of a layer as a file will hold them, and what they lose.

use calabi_api::{Basis, DecomposeError, Factors, Layer, Rank};
use calabi_svd::dense::project;
use ndarray::ArrayView2;

use crate::Error;
use crate::decompose::Context;
use crate::metric::{Metric, Room, compensation, measured_loss};
use crate::substitute::{relative, relative_error, to_f32};

/// Factors of a layer, and what they were made from.
pub(crate) struct Made<'m> {
    weight: ArrayView2<'m, f32>,
    metric: Option<&'m Metric>,
    pub(crate) factors: Factors,
}

impl<'m> Made<'m> {
    /// The best factors in the span of a basis, rounded as the file will hold them.
    pub(crate) fn of(
        context: &Context<'_>,
        layer: &Layer,
        weight: ArrayView2<'m, f32>,
        basis: Basis,
        metric: Option<&'m Metric>,
    ) -> Result<Self, Error> {
        let made = Self::unrounded(weight, basis, metric).map_err(|source| Error::decompose(layer, source))?;
        Ok(Self { factors: as_stored(context, layer, made.factors), ..made })
    }

    /// The same of a matrix that no file holds.
    pub(crate) fn unrounded(
        weight: ArrayView2<'m, f32>,
        basis: Basis,
        metric: Option<&'m Metric>,
    ) -> Result<Self, DecomposeError> {
        let mut factors = project(weight, basis)?;
        factors.bias = metric.and_then(|metric| compensation(weight, &factors, metric)).map(to_f32);
        Ok(Self { weight, metric, factors })
    }

    /// The relative error, in the metric in which the layer was decomposed; `energy` is that of its outputs, `room` the one
    /// that it was decomposed in, or empty.
    pub(crate) fn measured_error(&self, energy: f64, room: &Room) -> Result<f64, DecomposeError> {
        let Some(metric) = self.metric else { return relative_error(self.weight, &self.factors) };
        let added = self.factors.bias.as_ref().map(|bias| bias.mapv(f64::from));
        Ok(relative(measured_loss(self.weight, &self.factors, (metric, room), added.as_ref()), energy))
    }
}

/// What is known of the factors of a layer whose rank was decided before its metric was at hand: the store keeps them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Finished {
    pub(crate) rank: Rank,
    pub(crate) measured_error: f64,
}

/// Factors rounded as the file will hold them.
fn as_stored(context: &Context<'_>, layer: &Layer, factors: Factors) -> Factors {
    context.source.rounded(layer, factors, &context.pipeline.model.write_options())
}
