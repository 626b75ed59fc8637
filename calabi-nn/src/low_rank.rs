//! A linear layer on its factors, in place of candle's dense one.

mod arrays;
mod compress;
mod forward;
mod make;
mod stored;
mod widen;

use calabi_api::{Rank, Shape};
use candle_core::{DType, Device, Module, Result, Tensor, bail};

pub use arrays::Gradients;
pub use compress::{CompressError, Compressed, CompressionReport};

/// `y = left · (right · x) + bias`, never multiplied out: `left` is `m × r`, `right` is `r × n`, `bias` is `m`.
///
/// It takes `2 r (m + n)` operations an input where the dense layer takes `2 m n`, so that it is faster below the
/// break-even rank `mn / (m + n)`. It is a candle [`Module`]: models built of candle's layers can hold it, and where its
/// tensors are variables, gradients flow to them. [`forward_array`](Self::forward_array) and
/// [`backward_array`](Self::backward_array) do the same on plain arrays.
///
/// ```
/// use calabi_nn::LowRankLinear;
/// use calabi_nn::candle_core::{Device, Module, Tensor};
///
/// let left = Tensor::new(&[[1f32], [2.0], [3.0]], &Device::Cpu)?; // 3 × 1
/// let right = Tensor::new(&[[1f32, 10.0]], &Device::Cpu)?; // 1 × 2
/// let layer = LowRankLinear::new(left, right, None)?;
/// let x = Tensor::new(&[[1f32, 1.0], [2.0, 0.0]], &Device::Cpu)?; // 2 inputs of 2 features
/// assert_eq!(layer.forward(&x)?.to_vec2::<f32>()?, [[11.0, 22.0, 33.0], [2.0, 4.0, 6.0]]);
/// # Ok::<(), calabi_nn::candle_core::Error>(())
/// ```
///
/// # Types and shapes
/// Factors and bias are all `f16`, `bf16`, `f32` or `f64`, and an input is of the same type. It has any number of leading
/// dimensions, `[.., n]` gives `[.., m]`, and may be a view with any strides. What does not fit is an error that names
/// the shapes.
///
/// # Numbers in half precision
/// Products, their sums, the inner vector `right · x` and the bias are `f32`; the output is rounded once. In `f16` the
/// inner vector therefore never overflows: no finite `f16` exceeds 65504 in size, so none of its entries exceeds
/// `n · 65504² < n · 2³²`, and `f32` reaches to 2¹²⁸. An output is infinite exactly where the sum, in `f32`, is beyond `f16`:
/// where a dense layer's would be. Scaling the factors could not promise that: however they share their size, the
/// inner vector bounds only the length of the output, which is up to `√m` times its largest entry.
///
/// `bf16` and `f32` have the same range, and factors made by [`compress`](Self::compress) stay away from its end: of the two
/// factors one is orthonormal, so the inner vector is as long as the output, or no longer than the input.
#[derive(Debug, Clone)]
pub struct LowRankLinear {
    left: Tensor,
    right: Tensor,
    bias: Option<Tensor>,
    shape: Shape,
    rank: Rank,
    finite_only: bool,
}

impl LowRankLinear {
    /// A layer of these factors, which are not copied: `left` is `m × r`, `right` is `r × n`, `bias` is `m`. A few rows of
    /// inputs run faster where `right` is stored column by column, as [`load`](Self::load) and
    /// [`from_factors`](Self::from_factors) store it.
    ///
    /// Variables stay variables: `backward()` of a loss gives their gradients.
    ///
    /// ```
    /// use calabi_nn::LowRankLinear;
    /// use calabi_nn::candle_core::{DType, Device, Module, Tensor, Var};
    ///
    /// let (left, right) = (Var::ones((3, 1), DType::F32, &Device::Cpu)?, Var::ones((1, 2), DType::F32, &Device::Cpu)?);
    /// let layer = LowRankLinear::new(left.as_tensor().clone(), right.as_tensor().clone(), None)?;
    /// let loss = layer.forward(&Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?)?.sum_all()?;
    /// let gradient = loss.backward()?.get(&right).map(Tensor::to_vec2::<f32>).transpose()?;
    /// assert_eq!(gradient, Some(vec![vec![3.0, 6.0]]));
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the shapes do not fit each other or are empty, or types or devices differ; the message names both.
    pub fn new(left: Tensor, right: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (shape, rank) = dimensions(&left, &right)?;
        for other in [Some(&right), bias.as_ref()].into_iter().flatten() {
            if other.dtype() != left.dtype() || !other.device().same_device(left.device()) {
                let (ours, theirs) = (left.device().location(), other.device().location());
                bail!(
                    "a layer's tensors differ: {:?} is {:?} on {ours:?}, {:?} is {:?} on {theirs:?}",
                    left.shape(),
                    left.dtype(),
                    other.shape(),
                    other.dtype()
                )
            }
        }
        if !matches!(left.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            bail!("factors of type {:?}: they are F16, BF16, F32 or F64", left.dtype())
        }
        if let Some(bias) = bias.as_ref().filter(|bias| bias.dims() != [shape.rows()]) {
            bail!("a bias of {:?} meets factors of {:?} and {:?}", bias.shape(), left.shape(), right.shape())
        }
        Ok(Self { left, right, bias, shape, rank, finite_only: false })
    }

    /// The same layer, which gives an error in place of an output that holds infinite values or NaN. Looking costs one
    /// more pass over the output.
    ///
    /// ```
    /// use calabi_nn::LowRankLinear;
    /// use calabi_nn::candle_core::{Device, Module, Tensor};
    ///
    /// let one = Tensor::new(&[[1f32]], &Device::Cpu)?;
    /// let layer = LowRankLinear::new(one.clone(), one, None)?.finite_only();
    /// let x = Tensor::new(&[[f32::INFINITY]], &Device::Cpu)?;
    /// assert!(layer.forward(&x).is_err());
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn finite_only(self) -> Self {
        Self { finite_only: true, ..self }
    }

    /// `left`, `m × r`.
    ///
    /// ```
    /// # use calabi_nn::{LowRankLinear, candle_core::{DType, Device, Tensor}};
    /// let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    /// let layer = LowRankLinear::new(zeros((3, 1))?, zeros((1, 2))?, None)?;
    /// assert_eq!((layer.left().dims(), layer.right().dims()), (&[3, 1][..], &[1, 2][..]));
    /// assert!(layer.bias().is_none());
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn left(&self) -> &Tensor {
        &self.left
    }

    /// `right`, `r × n`; an example is at [`left`](Self::left).
    #[must_use]
    pub fn right(&self) -> &Tensor {
        &self.right
    }

    /// The bias, `m`; an example is at [`left`](Self::left).
    #[must_use]
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The shape of the weight for which the factors stand, `m × n`, and their rank `r`.
    ///
    /// ```
    /// # use calabi_nn::{LowRankLinear, candle_core::{DType, Device, Tensor}};
    /// let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    /// let layer = LowRankLinear::new(zeros((3, 1))?, zeros((1, 2))?, None)?;
    /// assert_eq!((layer.shape().rows(), layer.shape().cols(), layer.rank().get()), (3, 2, 1));
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The number of columns of `left` and of rows of `right`, `r`; an example is at [`shape`](Self::shape).
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// The type of factors, bias, inputs and outputs.
    ///
    /// ```
    /// # use calabi_nn::{LowRankLinear, candle_core::{DType, Device, Tensor}};
    /// let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::BF16, &Device::Cpu);
    /// assert_eq!(LowRankLinear::new(zeros((3, 1))?, zeros((1, 2))?, None)?.dtype(), DType::BF16);
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.left.dtype()
    }

    fn device(&self) -> &Device {
        self.left.device()
    }
}

impl Module for LowRankLinear {
    /// `x` is `[.., n]`; gives `[.., m]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = forward::forward(self, x)?;
        if self.finite_only {
            forward::refuse_non_finite(&y)?;
        }
        Ok(y)
    }
}

/// The shape and the rank for which two factors stand.
fn dimensions(left: &Tensor, right: &Tensor) -> Result<(Shape, Rank)> {
    if let (&[m, r], &[rank, n]) = (left.dims(), right.dims())
        && let (Some(shape), Some(rank)) = (Shape::new(m, n), Rank::new(rank).filter(|rank| rank.get() == r))
    {
        return Ok((shape, rank));
    }
    bail!(
        "factors of {:?} and {:?} do not fit: left is m x r, right is r x n, none of them 0",
        left.shape(),
        right.shape()
    )
}
