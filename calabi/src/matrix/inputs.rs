//! What flows into a matrix, as its error is measured in it.

use std::sync::OnceLock;

use calabi_api::settings::Share;
use calabi_api::{ConfigError, Shape, Statistics};

use crate::metric::{Inputs, Metric, Shrinkage};
use crate::{Bias, Objective};

/// What flows into a matrix, and how its error is measured in it.
///
/// Matrices on one input share it in an [`Arc`](std::sync::Arc): what all of them need of it is made once.
///
/// ```
/// use calabi::api::{Rank, Statistics, ndarray::{Array2, array}};
/// use calabi::{InputMetric, Matrix, rank::Fixed};
///
/// // The second input is a hundred times the first: the smaller singular value is the one that counts.
/// let weight = array![[3.0_f32, 0.0], [0.0, 2.0]];
/// let statistics = Statistics { gram: array![[1.0, 0.0], [0.0, 1e4]], mean: array![0.0, 0.0], tokens: 1_000_000 };
/// let matrix = Matrix::new(weight.view())?.with_metric(InputMetric::of(statistics))?;
/// let factors = matrix.factorize(&Fixed { rank: Rank::ONE })?.factors.ok_or("dense")?;
/// assert!(factors.left.dot(&factors.right)[[1, 1]] > 1.99);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct InputMetric {
    inputs: Inputs,
    objective: Objective,
    bias: Bias,
    shrinkage: Option<Share>,
    /// What was made of all that for the first matrix.
    metric: OnceLock<Metric>,
}

impl InputMetric {
    /// The whole Gram matrix of these statistics, drawn towards its scaled identity as far as the number of tokens says, without a
    /// bias that makes up for the mean of what is cut.
    #[must_use]
    pub fn of(statistics: Statistics) -> Self {
        Self {
            inputs: statistics.into(),
            objective: Objective::Gram,
            bias: Bias::None,
            shrinkage: None,
            metric: OnceLock::new(),
        }
    }

    /// The same, of [`Gram`](Objective::Gram), or its [`Diagonal`](Objective::Diagonal).
    #[must_use]
    pub fn with_objective(self, objective: Objective) -> Self {
        Self { objective, metric: OnceLock::new(), ..self }
    }

    /// The same, with this made of the mean of what is cut.
    #[must_use]
    pub fn with_bias(self, bias: Bias) -> Self {
        Self { bias, metric: OnceLock::new(), ..self }
    }

    /// The same, its Gram matrix drawn so far towards its scaled identity; none lets the number of tokens say it.
    #[must_use]
    pub fn with_shrinkage(self, shrinkage: Option<Share>) -> Self {
        Self { shrinkage, metric: OnceLock::new(), ..self }
    }

    /// A copy of what it was made of.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.inputs.statistics()
    }

    /// Makes the metric of weights of this width, or finds it made.
    pub(super) fn prepare(&self, shape: Shape) -> Result<(), ConfigError> {
        check_width(&self.inputs, shape)?;
        if self.metric.get().is_none() {
            let made = self.made()?;
            self.metric.get_or_init(|| made);
        }
        Ok(())
    }

    /// The metric, once it is [prepared](Self::prepare).
    pub(super) fn prepared(&self) -> Option<&Metric> {
        self.metric.get()
    }

    fn made(&self) -> Result<Metric, ConfigError> {
        check_finite(&self.inputs)?;
        let inputs = self.inputs.clone();
        match self.objective {
            Objective::Gram => Ok(Metric::gram(inputs, self.bias, Shrinkage::from(self.shrinkage))),
            Objective::Diagonal => Ok(Metric::diagonal(inputs, self.bias)),
            Objective::None | Objective::Norm => {
                Err(ConfigError::new("the objective of a matrix with statistics is `gram` or `diagonal`")
                    .with_help("leave the statistics out to measure the error of the weight itself"))
            }
        }
    }
}

/// A copy costs next to nothing, and shares nothing that was made.
impl Clone for InputMetric {
    fn clone(&self) -> Self {
        let Self { inputs, objective, bias, shrinkage, .. } = self;
        Self {
            inputs: inputs.clone(),
            objective: *objective,
            bias: *bias,
            shrinkage: *shrinkage,
            metric: OnceLock::new(),
        }
    }
}

fn check_width(Inputs { gram, mean, .. }: &Inputs, shape: Shape) -> Result<(), ConfigError> {
    let n = shape.cols();
    if gram.dim() != (n, n) {
        let (rows, cols) = gram.dim();
        let message = format!("the Gram matrix is {rows}x{cols}, and a weight of {shape} has {n} inputs");
        return Err(ConfigError::new(message).with_help(format!("give E[x xᵀ], {n}x{n}")));
    }
    if mean.len() != n {
        let message = format!("the mean has {} entries, and a weight of {shape} has {n} inputs", mean.len());
        return Err(ConfigError::new(message).with_help(format!("give E[x], {n} numbers")));
    }
    Ok(())
}

fn check_finite(Inputs { gram, mean, .. }: &Inputs) -> Result<(), ConfigError> {
    // Without a search: it would look at one number after the other.
    if gram.fold(true, |all, value| all & value.is_finite()) && mean.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let value = gram.iter().chain(mean).find(|value| !value.is_finite()).unwrap_or(&f64::NAN);
    Err(ConfigError::new(format!("the statistics hold {value}, which is not a finite number"))
        .with_help("look for samples that overflow"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use calabi_api::Rank;
    use calabi_rank::Fixed;
    use calabi_testing::matrices::{gaussian, rounded};
    use ndarray::{Array2, Axis};

    use super::*;
    use crate::Matrix;

    fn statistics() -> Statistics {
        let x = gaussian(50, 8, 1) + 0.5;
        Statistics { gram: x.t().dot(&x) / 50.0, mean: x.sum_axis(Axis(0)) / 50.0, tokens: 50 }
    }

    fn product(weight: &Array2<f32>, metric: impl Into<Arc<InputMetric>>) -> Array2<f32> {
        let matrix = Matrix::new(weight.view()).unwrap().with_metric(metric).unwrap();
        let factors = matrix.factorize(&Fixed { rank: Rank::new(3).unwrap() }).unwrap().factors.unwrap();
        factors.left.dot(&factors.right)
    }

    #[test]
    fn matrices_that_share_an_input_get_what_each_gets_alone() {
        let shared = Arc::new(InputMetric::of(statistics()).with_bias(Bias::Joint));
        let mut made = None;
        for seed in 0..3 {
            let weight = rounded(&gaussian(6, 8, seed));
            let alone = product(&weight, InputMetric::of(statistics()).with_bias(Bias::Joint));
            assert_eq!(product(&weight, Arc::clone(&shared)), alone);
            let metric = shared.prepared().map(std::ptr::from_ref);
            assert!(metric.is_some() && made.is_none_or(|made| made == metric), "it is made once");
            made = Some(metric);
        }
        assert!(shared.prepare(Shape::new(6, 7).unwrap()).is_err(), "another width");
    }

    #[test]
    fn settings_count_also_after_it_was_used() {
        let weight = rounded(&gaussian(6, 8, 5));
        let used = || {
            let metric = InputMetric::of(statistics());
            metric.prepare(Shape::of(weight.view()).unwrap()).unwrap();
            metric
        };
        let plain = product(&weight, used());
        assert_eq!(product(&weight, used().clone()), plain);
        assert_ne!(product(&weight, used().with_objective(Objective::Diagonal)), plain);
        assert_ne!(product(&weight, used().with_bias(Bias::Joint)), plain);
        assert_ne!(product(&weight, used().with_shrinkage(Share::new(0.9))), plain);
    }
}
