//! Layers out of calabi's factors, in the type that the user wants.

use calabi_api::Factors;
use candle_core::{DType, Device, Result, Tensor, bail};
use ndarray::ArrayView1;

use super::LowRankLinear;
use super::arrays::tensor;
use super::forward::refuse_non_finite;

impl LowRankLinear {
    /// A layer of calabi's factors; `own_bias` is the bias that the dense layer has, to which that of the factors is added.
    ///
    /// In `f16` both factors are scaled, by one power of two, to the same largest entry: neither leaves the range of `f16` before
    /// their product does.
    ///
    /// ```
    /// use calabi_api::Factors;
    /// use calabi_nn::LowRankLinear;
    /// use calabi_nn::candle_core::{DType, Device};
    /// use calabi_nn::ndarray::array;
    ///
    /// let factors = Factors { left: array![[1.0], [2.0]], right: array![[3.0, 4.0]], bias: Some(array![0.5, 0.5]) };
    /// let own = array![1.0, 2.0];
    /// let layer = LowRankLinear::from_factors(&factors, Some(own.view()), DType::F32, &Device::Cpu)?;
    /// assert_eq!(layer.forward_array(&array![1f32, 1.0])?, array![8.5, 16.5]);
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the shapes do not fit, or a value is not finite or cannot be in that type.
    pub fn from_factors(
        factors: &Factors,
        own_bias: Option<ArrayView1<'_, f32>>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let left = tensor(&factors.left, device)?;
        let right = tensor(&factors.right, device)?;
        let own = own_bias.map(|own| tensor(&own, device)).transpose()?;
        let added = factors.bias.as_ref().map(|added| tensor(added, device)).transpose()?;
        let bias = match (own, added) {
            (Some(own), Some(added)) => Some((own + added)?),
            (own, added) => own.or(added),
        };
        Self::rounded(left, right, bias, dtype)
    }

    /// A layer of these factors, rounded to a type.
    pub(super) fn rounded(left: Tensor, right: Tensor, bias: Option<Tensor>, dtype: DType) -> Result<Self> {
        super::dimensions(&left, &right)?;
        let (left, right) = if dtype == DType::F16 { balanced(&left, &right)? } else { (left, right) };
        let round = |tensor: Tensor| {
            let rounded = tensor.to_dtype(dtype)?;
            if refuse_non_finite(&rounded).is_err() {
                bail!("a tensor of {:?} holds values that {dtype:?} cannot, or that are not finite", tensor.shape())
            }
            Ok(rounded)
        };
        Self::new(round(left)?, by_columns(&round(right)?)?, bias.map(round).transpose()?)
    }
}

/// A right factor stored column by column, as products with few rows of inputs read it fastest.
pub(super) fn by_columns(right: &Tensor) -> Result<Tensor> {
    right.t()?.contiguous()?.t()
}

/// The same product with the same largest entry on both sides, to a factor of two: scaled by a power of two, which changes no digit.
fn balanced(left: &Tensor, right: &Tensor) -> Result<(Tensor, Tensor)> {
    let share = (largest(right)? / largest(left)?).sqrt().log2().round();
    if !share.is_finite() {
        return Ok((left.clone(), right.clone()));
    }
    Ok(((left * share.exp2())?, (right * (-share).exp2())?))
}

/// The largest magnitude.
fn largest(matrix: &Tensor) -> Result<f64> {
    matrix.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar()
}
