//! `LowRankLinear` beside the dense layer that its factors multiply out to.

mod arrays;
mod compress;
mod gradients;
mod half_precision;
mod shapes;
mod stored;

use calabi_nn::LowRankLinear;
use calabi_nn::candle_core::{DType, Device, Result, Tensor};

/// Values that look random, from -1 to 1, the same every time.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A layer of random factors.
fn layer(m: usize, r: usize, n: usize, dtype: DType) -> LowRankLinear {
    let made = |shape: &[usize], seed| noise(shape, seed).to_dtype(dtype).unwrap();
    LowRankLinear::new(made(&[m, r], 1), made(&[r, n], 2), Some(made(&[m], 3))).unwrap()
}

/// What the layer's tensors give in `f64`, multiplied out.
fn exact(layer: &LowRankLinear, x: &Tensor) -> Result<Tensor> {
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);
    let weight = wide(layer.left())?.matmul(&wide(layer.right())?)?;
    let rows = wide(x)?.reshape(((), layer.shape().cols()))?;
    let y = rows.matmul(&weight.t()?)?;
    let y = layer.bias().map_or(Ok(y.clone()), |bias| y.broadcast_add(&wide(bias)?))?;
    let mut dims = x.dims().to_vec();
    *dims.last_mut().unwrap() = layer.shape().rows();
    y.reshape(dims)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, as a share of the largest of `wanted`.
fn apart(made: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(made.dims(), wanted.dims());
    let (made, wanted) = (values(made), values(wanted));
    let size = wanted.iter().fold(1e-30, |most: f64, v| most.max(v.abs()));
    made.iter().zip(&wanted).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs())) / size
}
