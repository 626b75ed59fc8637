//! A weight taken apart, by itself or in a metric.

use calabi_api::{Basis, DecomposeError, Decomposer, Decomposition, Rank, Side, Spectrum};
use ndarray::ArrayView2;

use crate::metric::{Factorization, Limits, Metric, Room, factorize};

/// A weight taken apart, by itself or in a metric.
pub(crate) enum Parts<'a> {
    Plain(Box<dyn Decomposition + 'a>),
    Measured(Factorization<'a>),
}

impl<'a> Parts<'a> {
    pub(crate) fn of(
        weight: ArrayView2<'a, f32>,
        metric: Option<&Metric>,
        decomposer: &dyn Decomposer,
        limits: Limits,
        room: &'a Room,
    ) -> Result<Self, DecomposeError> {
        match metric {
            None => decomposer.svd(weight, limits.kept).map(Self::Plain),
            Some(metric) => factorize(weight, metric, decomposer, limits, room).map(Self::Measured),
        }
    }

    pub(crate) fn spectrum(&self) -> &Spectrum {
        match self {
            Self::Plain(decomposition) => decomposition.spectrum(),
            Self::Measured(factorization) => factorization.spectrum(),
        }
    }

    pub(crate) fn basis(&self, rank: Rank) -> Result<Basis, DecomposeError> {
        match self {
            Self::Plain(decomposition) => decomposition.basis(rank),
            Self::Measured(factorization) => {
                factorization.basis(rank).map(|vectors| Basis { side: Side::Left, vectors })
            }
        }
    }

    pub(crate) fn remark(&self) -> Option<&str> {
        match self {
            Self::Plain(decomposition) => decomposition.remark(),
            Self::Measured(factorization) => factorization.remark(),
        }
    }
}
