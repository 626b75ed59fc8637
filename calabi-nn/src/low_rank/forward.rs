//! From inputs to outputs, through the inner vector of length `r`.

use candle_core::{DType, Result, Tensor, bail};

use super::LowRankLinear;
use super::widen::widened;
use crate::hf::ops;

/// `x` is `[.., n]`; gives `[.., m]`.
pub(super) fn forward(layer: &LowRankLinear, x: &Tensor) -> Result<Tensor> {
    let x_rows = rows(layer, x, layer.shape.cols(), "an input")?;
    let wide = Wide::of(layer)?;
    let inner = product(&widened(&x_rows)?, &wide.right, None)?;
    let y = product(&inner, &wide.left, wide.bias.as_ref())?.to_dtype(layer.dtype())?;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = layer.shape.rows();
    }
    y.reshape(dims)
}

/// A layer's tensors in the type that sums are made in.
pub(super) struct Wide {
    pub(super) left: Tensor,
    pub(super) right: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl Wide {
    pub(super) fn of(layer: &LowRankLinear) -> Result<Self> {
        Ok(Self {
            left: widened(&layer.left)?,
            right: widened(&layer.right)?,
            bias: layer.bias.as_ref().map(widened).transpose()?,
        })
    }
}

/// A tensor `[.., width]` as rows, where it has the layer's type.
pub(super) fn rows(layer: &LowRankLinear, x: &Tensor, width: usize, what: &str) -> Result<Tensor> {
    let (left, right) = (layer.left.shape(), layer.right.shape());
    if x.dtype() != layer.dtype() {
        let ours = layer.dtype();
        bail!("{what} of {:?} is {:?}, the factors of {left:?} and {right:?} are {ours:?}", x.shape(), x.dtype())
    }
    if x.dims().last() != Some(&width) {
        bail!("{what} of {:?} meets factors of {left:?} and {right:?}: its last dimension must be {width}", x.shape())
    }
    x.reshape((x.elem_count() / width, width))
}

/// `x · weightᵀ + bias`.
fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if x.dtype() == DType::F32 && x.device().is_cpu() {
        return ops::linear(x, weight, bias);
    }
    let y = x.matmul(&weight.t()?)?;
    bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
}

/// An error where a value is infinite or NaN: times 0 it is NaN, and so is every sum with it.
pub(super) fn refuse_non_finite(y: &Tensor) -> Result<()> {
    let sum = (y.detach() * 0.0)?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    if sum == 0.0 { Ok(()) } else { bail!("an output of {:?} {:?} holds infinite values or NaN", y.shape(), y.dtype()) }
}
