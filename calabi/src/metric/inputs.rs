//! Moments of inputs that several metrics may be made of.

use calabi_api::Statistics;
use ndarray::{ArcArray2, Array1};

/// Statistics of which a copy costs next to nothing.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    /// `E[xxᵀ]`.
    pub(crate) gram: ArcArray2<f64>,
    pub(crate) mean: Array1<f64>,
    pub(crate) tokens: u64,
}

impl From<Statistics> for Inputs {
    fn from(Statistics { gram, mean, tokens }: Statistics) -> Self {
        Self { gram: gram.into_shared(), mean, tokens }
    }
}

impl Inputs {
    /// A copy for whoever asks for one.
    pub(crate) fn statistics(&self) -> Statistics {
        Statistics { gram: self.gram.to_owned(), mean: self.mean.clone(), tokens: self.tokens }
    }
}
