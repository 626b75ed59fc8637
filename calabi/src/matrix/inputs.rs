//! What flows into a matrix, as its error is measured in it.

use calabi_api::settings::Share;
use calabi_api::{ConfigError, Shape, Statistics};

use crate::metric::{Metric, Shrinkage};
use crate::{Bias, Objective};

/// What flows into a matrix, and how its error is measured in it.
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
    /// Moments of the inputs.
    pub statistics: Statistics,
    /// [`Gram`](Objective::Gram), or its [`Diagonal`](Objective::Diagonal).
    pub objective: Objective,
    /// What becomes of the mean of what is cut.
    pub bias: Bias,
    /// How far the Gram matrix is drawn towards its scaled identity; none lets the number of tokens say it.
    pub shrinkage: Option<Share>,
}

impl InputMetric {
    /// The whole Gram matrix of these statistics, without a bias that makes up for the mean of what is cut.
    #[must_use]
    pub fn of(statistics: Statistics) -> Self {
        Self { statistics, objective: Objective::Gram, bias: Bias::None, shrinkage: None }
    }

    /// The metric of a weight of this shape.
    pub(super) fn of_shape(self, shape: Shape) -> Result<Metric, ConfigError> {
        let Self { statistics, objective, bias, shrinkage } = self;
        check(&statistics, shape)?;
        match objective {
            Objective::Gram => Ok(Metric::gram(statistics, bias, Shrinkage::from(shrinkage))),
            Objective::Diagonal => Ok(Metric::diagonal(statistics, bias)),
            Objective::None | Objective::Norm => {
                Err(ConfigError::new("the objective of a matrix with statistics is `gram` or `diagonal`")
                    .with_help("leave the statistics out to measure the error of the weight itself"))
            }
        }
    }
}

fn check(Statistics { gram, mean, .. }: &Statistics, shape: Shape) -> Result<(), ConfigError> {
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
    if let Some(value) = gram.iter().chain(mean).find(|value| !value.is_finite()) {
        return Err(ConfigError::new(format!("the statistics hold {value}, which is not a finite number"))
            .with_help("look for samples that overflow"));
    }
    Ok(())
}
