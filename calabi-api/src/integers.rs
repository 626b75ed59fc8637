//! Matrices as 8-bit integers with a scale for each row.

use ndarray::{Array1, Array2, ArrayView2, Axis, Zip};

use crate::{DType, Factors};

/// The largest integer: −128 is not used, so that integers are symmetric around zero.
const LARGEST: f32 = 127.0;

/// A matrix as integers: an entry is its integer times its row's scale, up to half of that scale.
///
/// ```
/// use calabi_api::ndarray::array;
/// use calabi_api::{DType, IntegerRows};
///
/// let rows = IntegerRows::new(array![[1.27, -0.64], [0.0, 0.0]].view(), DType::F32);
/// assert_eq!(rows.integers, array![[127, -64], [0, 0]]);
/// assert!((rows.scales[0] - 0.01).abs() < 1e-8 && rows.scales[1] == 1.0);
/// assert!((rows.values(DType::F32)[[0, 1]] + 0.64).abs() < 1e-6);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerRows {
    /// Each from −127 to 127.
    pub integers: Array2<i8>,
    /// One for each row.
    pub scales: Array1<f32>,
}

impl IntegerRows {
    /// The nearest integers, with the scales that let the largest entry of each row be ±127; scales are stored as `dtype`.
    #[must_use]
    pub fn new(values: ArrayView2<'_, f32>, dtype: DType) -> Self {
        let scale = |row: ndarray::ArrayView1<'_, f32>| {
            let largest = row.fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let scale = dtype.rounded(largest / LARGEST);
            if scale > 0.0 && scale.is_finite() { scale } else { 1.0 }
        };
        let scales: Array1<f32> = values.outer_iter().map(scale).collect();
        let mut integers = Array2::zeros(values.dim());
        #[allow(clippy::cast_possible_truncation)] // whole, and no larger than an i8
        let nearest = |value: f32, scale: f32| (value / scale).round().clamp(-LARGEST, LARGEST) as i8;
        let scale = scales.view().insert_axis(Axis(1));
        Zip::from(&mut integers)
            .and(values)
            .and_broadcast(scale)
            .for_each(|integer, &value, &scale| *integer = nearest(value, scale));
        Self { integers, scales }
    }

    /// The matrix that it stands for, computed as `dtype`.
    #[must_use]
    pub fn values(&self, dtype: DType) -> Array2<f32> {
        let scales = self.scales.view().insert_axis(Axis(1));
        let mut values = self.integers.mapv(f32::from);
        Zip::from(&mut values).and_broadcast(scales).for_each(|value, &scale| *value = dtype.rounded(*value * scale));
        values
    }
}

impl Factors {
    /// The factors as they are read back from a file that stores each as [`IntegerRows`] whose scales are of `dtype`.
    ///
    /// ```
    /// use calabi_api::ndarray::array;
    /// use calabi_api::{DType, Factors};
    ///
    /// let factors = Factors { left: array![[1.0], [2.0]], right: array![[1.27, 0.634]], bias: None };
    /// let stored = factors.as_integers(DType::F32);
    /// assert!((stored.right[[0, 1]] - 0.63).abs() < 1e-6 && stored.left == factors.left);
    /// ```
    #[must_use]
    pub fn as_integers(&self, dtype: DType) -> Self {
        let stored = |factor: &Array2<f32>| IntegerRows::new(factor.view(), dtype).values(dtype);
        let bias = self.bias.as_ref().map(|bias| bias.mapv(|value| dtype.rounded(value)));
        Self { left: stored(&self.left), right: stored(&self.right), bias }
    }
}
