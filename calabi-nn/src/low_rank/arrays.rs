//! The layer on plain arrays: outputs, and gradients without autograd.

use candle_core::{Device, Error, Result, Tensor, WithDType, bail};
use ndarray::{Array, Array1, Array2, ArrayBase, Data, Dimension};

use super::LowRankLinear;
use super::forward::{Wide, forward, refuse_non_finite, rows};
use super::widen::widened;

/// The gradients of a loss for a layer's tensors and its input, each of the shape of what it belongs to.
///
/// ```
/// use calabi_nn::LowRankLinear;
/// use calabi_nn::candle_core::{Device, Tensor};
/// use calabi_nn::ndarray::array;
///
/// let two = Tensor::new(&[[2f64]], &Device::Cpu)?;
/// let layer = LowRankLinear::new(two.clone(), two, None)?; // y = 2 · 2 · x
/// let gradients = layer.backward_array(&array![[5f64]], &array![[1f64]])?;
/// assert_eq!((gradients.left[(0, 0)], gradients.right[(0, 0)], gradients.input[(0, 0)]), (10.0, 10.0, 4.0));
/// assert_eq!(gradients.bias, None);
/// # Ok::<(), calabi_nn::candle_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<A, D: Dimension> {
    /// For `left`, `m × r`.
    pub left: Array2<A>,
    /// For `right`, `r × n`.
    pub right: Array2<A>,
    /// For the bias, `m`; none where the layer has none.
    pub bias: Option<Array1<A>>,
    /// For the input, `[.., n]`.
    pub input: Array<A, D>,
}

impl LowRankLinear {
    /// What [`forward`](candle_core::Module::forward) gives, on an array `[.., n]` with any strides: `[.., m]`. Its
    /// entries are of the layer's type; inputs and outputs are copied, factors are not.
    ///
    /// ```
    /// use calabi_nn::LowRankLinear;
    /// use calabi_nn::candle_core::{Device, Tensor};
    /// use calabi_nn::ndarray::array;
    ///
    /// let left = Tensor::new(&[[1f32], [2.0], [3.0]], &Device::Cpu)?;
    /// let right = Tensor::new(&[[1f32, 10.0]], &Device::Cpu)?;
    /// let layer = LowRankLinear::new(left, right, None)?;
    /// assert_eq!(layer.forward_array(&array![[1f32, 1.0], [2.0, 0.0]])?, array![[11.0, 22.0, 33.0], [2.0, 4.0, 6.0]]);
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`forward`](candle_core::Module::forward): where the last dimension is not `n`, or the type another.
    pub fn forward_array<A, S, D>(&self, x: &ArrayBase<S, D>) -> Result<Array<A, D>>
    where
        A: WithDType,
        S: Data<Elem = A>,
        D: Dimension,
    {
        let y = forward(self, &tensor(x, self.device())?)?;
        if self.finite_only {
            refuse_non_finite(&y)?;
        }
        let mut dim = x.raw_dim();
        if let Some(last) = dim.slice_mut().last_mut() {
            *last = self.shape.rows();
        }
        array(&y, dim)
    }

    /// The gradients of a loss, from its gradient for the output: `x` is `[.., n]` as [`forward_array`](Self::forward_array)
    /// took it, `gradient` is `[.., m]` as it was given.
    ///
    /// For rows `X` and `G` of them, and `H = G · left`: `Gᵀ (X rightᵀ)` for `left`, `Hᵀ X` for `right`, the column sums of
    /// `G` for the bias, and `H · right` for the input. In half precision all of it is `f32`, rounded once.
    ///
    /// ```
    /// use calabi_nn::LowRankLinear;
    /// use calabi_nn::candle_core::{Device, Tensor};
    /// use calabi_nn::ndarray::array;
    ///
    /// let left = Tensor::new(&[[1f32], [2.0], [3.0]], &Device::Cpu)?;
    /// let right = Tensor::new(&[[1f32, 10.0]], &Device::Cpu)?;
    /// let bias = Tensor::new(&[0f32, 0.0, 0.0], &Device::Cpu)?;
    /// let layer = LowRankLinear::new(left, right, Some(bias))?;
    /// let gradients = layer.backward_array(&array![2f32, 1.0], &array![1f32, 0.0, 1.0])?;
    /// assert_eq!(gradients.left, array![[12.0], [0.0], [12.0]]);
    /// assert_eq!(gradients.right, array![[8.0, 4.0]]);
    /// assert_eq!(gradients.bias, Some(array![1.0, 0.0, 1.0]));
    /// assert_eq!(gradients.input, array![4.0, 40.0]);
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where a last dimension is not `n` or `m`, the other dimensions differ, or the type is another.
    pub fn backward_array<A, S, T, D>(&self, x: &ArrayBase<S, D>, gradient: &ArrayBase<T, D>) -> Result<Gradients<A, D>>
    where
        A: WithDType,
        S: Data<Elem = A>,
        T: Data<Elem = A>,
        D: Dimension,
    {
        let leading = |shape: &[usize]| shape.split_last().map(|(_, leading)| leading.to_vec());
        if leading(x.shape()) != leading(gradient.shape()) {
            bail!("a gradient of {:?} belongs to no output of an input of {:?}", gradient.shape(), x.shape())
        }
        let rows_of = |tensor, width, what| widened(&rows(self, &tensor, width, what)?.detach());
        let x_rows = rows_of(tensor(x, self.device())?, self.shape.cols(), "an input")?;
        let g = rows_of(tensor(gradient, self.device())?, self.shape.rows(), "a gradient")?;
        let Wide { left, right, bias } = Wide::of(self)?;
        let (left, right) = (left.detach(), right.detach());
        let of_inner = g.matmul(&left)?;
        Ok(Gradients {
            left: matrix(&g.t()?.matmul(&x_rows.matmul(&right.t()?)?)?.to_dtype(A::DTYPE)?)?,
            right: matrix(&of_inner.t()?.matmul(&x_rows)?.to_dtype(A::DTYPE)?)?,
            bias: bias.map(|_| g.sum(0)?.to_dtype(A::DTYPE)?.to_vec1().map(Array1::from)).transpose()?,
            input: array(&of_inner.matmul(&right)?.to_dtype(A::DTYPE)?, x.raw_dim())?,
        })
    }
}

/// An array's values as a tensor of its shape.
pub(super) fn tensor<A, S, D>(array: &ArrayBase<S, D>, device: &Device) -> Result<Tensor>
where
    A: WithDType,
    S: Data<Elem = A>,
    D: Dimension,
{
    let standard = array.as_standard_layout();
    match standard.as_slice() {
        Some(values) => Tensor::from_slice(values, array.shape(), device),
        None => bail!("an array of {:?} has no values in order", array.shape()),
    }
}

/// A tensor's values as an array of this shape.
fn array<A: WithDType, D: Dimension>(tensor: &Tensor, dim: D) -> Result<Array<A, D>> {
    Array::from_shape_vec(dim, tensor.flatten_all()?.to_vec1()?).map_err(Error::wrap)
}

/// A tensor of two dimensions as an array.
pub(super) fn matrix<A: WithDType>(tensor: &Tensor) -> Result<Array2<A>> {
    array(tensor, ndarray::Ix2(tensor.dims2()?.0, tensor.dims2()?.1))
}
