//! The two factors that stand for a weight.

use ndarray::{Array1, Array2};

use crate::DType;

/// `W ≈ left · right`: `left` is `m × r`, `right` is `r × n`.
///
/// ```
/// use calabi_api::ndarray::array;
/// use calabi_api::{DType, Factors};
///
/// let factors = Factors { left: array![[1.0], [2.0]], right: array![[0.5, 0.1]], bias: None };
/// assert_eq!(factors.left.dot(&factors.right), array![[0.5, 0.1], [1.0, 0.2]]); // stands for W
///
/// let stored = factors.rounded(DType::F16);
/// assert_eq!(stored.right[[0, 0]], 0.5);
/// assert_eq!(stored.right[[0, 1]], DType::F16.rounded(0.1));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// `m × r`.
    pub left: Array2<f32>,
    /// `r × n`.
    pub right: Array2<f32>,
    /// What is added to the layer's bias to make up for what was cut, of length `m`: `y = left (right x) + b + bias`, where
    /// `b` is the layer's own bias, or nothing where it has none. None leaves the layer's bias as it is.
    pub bias: Option<Array1<f32>>,
}

impl Factors {
    /// The factors as they are read back from a file that stores them as `dtype`.
    #[must_use]
    pub fn rounded(mut self, dtype: DType) -> Self {
        if !matches!(dtype, DType::F64 | DType::F32) {
            self.left.mapv_inplace(|v| dtype.rounded(v));
            self.right.mapv_inplace(|v| dtype.rounded(v));
            if let Some(bias) = &mut self.bias {
                bias.mapv_inplace(|v| dtype.rounded(v));
            }
        }
        self
    }
}
