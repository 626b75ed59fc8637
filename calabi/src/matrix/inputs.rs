//! What flows into a matrix, as its error is measured in it.

use std::sync::{Arc, OnceLock};

use calabi_api::settings::Share;
use calabi_api::{ConfigError, Shape, Statistics};

use crate::metric::{Inputs, Metric, Shrinkage};
use crate::{Bias, Objective};

/// What flows into a matrix, and how its error is measured in it.
///
/// Matrices on one input share it in an [`Arc`]: what all of them need of it is made once.
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
#[derive(Debug, Clone)]
pub struct InputMetric {
    inputs: Inputs,
    objective: Objective,
    bias: Bias,
    shrinkage: Option<Share>,
    /// What was made of all that for the first matrix.
    metric: OnceLock<Arc<Metric>>,
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

    /// The metric of weights of this shape, made once.
    pub(super) fn of_shape(&self, shape: Shape) -> Result<Arc<Metric>, ConfigError> {
        check_width(&self.inputs, shape)?;
        if let Some(metric) = self.metric.get() {
            return Ok(Arc::clone(metric));
        }
        let made = Arc::new(self.made()?);
        Ok(Arc::clone(self.metric.get_or_init(|| made)))
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
    // A search looks at one number after the other: only where there is something to be found.
    let suspect = !(gram.sum() + mean.sum()).is_finite();
    let find = || gram.iter().chain(mean).find(|value| !value.is_finite());
    let Some(value) = suspect.then(find).flatten() else { return Ok(()) };
    Err(ConfigError::new(format!("the statistics hold {value}, which is not a finite number"))
        .with_help("look for samples that overflow"))
}

#[cfg(test)]
mod tests {
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
        let mut made: Option<Arc<Metric>> = None;
        for seed in 0..3 {
            let weight = rounded(&gaussian(6, 8, seed));
            let alone = product(&weight, InputMetric::of(statistics()).with_bias(Bias::Joint));
            assert_eq!(product(&weight, Arc::clone(&shared)), alone);
            let metric = shared.of_shape(Shape::of(weight.view()).unwrap()).unwrap();
            assert!(made.is_none_or(|made| Arc::ptr_eq(&made, &metric)), "it is made once");
            made = Some(metric);
        }
        assert!(shared.of_shape(Shape::new(6, 7).unwrap()).is_err(), "another width");
    }

    #[test]
    fn settings_count_also_after_it_was_used() {
        let weight = rounded(&gaussian(6, 8, 5));
        let used = || {
            let metric = InputMetric::of(statistics());
            metric.of_shape(Shape::of(weight.view()).unwrap()).unwrap();
            metric
        };
        let plain = product(&weight, used());
        assert_eq!(product(&weight, used().clone()), plain);
        assert_ne!(product(&weight, used().with_objective(Objective::Diagonal)), plain);
        assert_ne!(product(&weight, used().with_bias(Bias::Joint)), plain);
        assert_ne!(product(&weight, used().with_shrinkage(Share::new(0.9))), plain);
    }
}
