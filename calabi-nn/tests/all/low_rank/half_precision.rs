//! The inner vector never overflows where the output does not.

use calabi_api::Factors;
use calabi_nn::LowRankLinear;
use calabi_nn::candle_core::{DType, Device, Module, Tensor};
use calabi_nn::ndarray::Array2;
use proptest::prelude::*;

use super::{exact, noise, values};

const LARGEST: f64 = 65504.0;

/// `noise`, scaled so that the largest magnitude is `size`, in `f16`.
fn scaled(shape: &[usize], seed: u64, size: f64) -> Tensor {
    let noise = noise(shape, seed);
    let largest = values(&noise).iter().fold(1e-9, |most: f64, v| most.max(v.abs()));
    (noise * (size / largest)).unwrap().to_dtype(DType::F16).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// `right` and the input reach up to the end of `f16`, so that the inner vector is far beyond it (up to 1e11); `left`
    /// brings it back.
    #[test]
    fn outputs_are_finite_where_the_dense_ones_are(
        m in 1usize..24, r in 1usize..12, n in 1usize..48, seed: u64,
        right in 1.0..LARGEST, x in 1.0..LARGEST, share in 0.01..0.999f64,
    ) {
        let (right, x) = (scaled(&[r, n], seed, right), scaled(&[3, n], seed ^ 1, x));
        let ones = LowRankLinear::new(scaled(&[m, r], seed ^ 2, 1.0), right.clone(), None).unwrap();
        let size = values(&exact(&ones, &x).unwrap()).iter().fold(1e-9, |most: f64, v| most.max(v.abs()));
        let left = scaled(&[m, r], seed ^ 2, share * LARGEST / size);
        let layer = LowRankLinear::new(left, right, None).unwrap().finite_only();
        let wanted = exact(&layer, &x).unwrap();
        // Entries of `left` that fall among the smallest numbers of f16 are rounded coarsely: the size is what it is.
        let most = values(&wanted).iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        prop_assume!(most < LARGEST);
        let made = layer.forward(&x).unwrap();
        // One rounding to f16 (2⁻¹¹, or half of the smallest number), beside that of the sums in f32.
        let terms = (values(&wanted).len() * r * n) as f64;
        for (made, wanted) in values(&made).into_iter().zip(values(&wanted)) {
            let rounding = wanted.abs() / 2048.0 + 3e-8;
            prop_assert!((made - wanted).abs() <= rounding * 1.01 + terms * f64::from(f32::EPSILON) * most, "{made} {wanted}");
        }
    }

    /// A factor far beyond `f16` and one that vanishes in it meet half-way, as long as their product is within.
    #[test]
    fn factors_are_balanced_into_the_range(power in -40i32..40, m in 1usize..9, r in 1usize..5, n in 1usize..9) {
        let matrix = |shape: [usize; 2], seed, scale: f32| {
            let values = noise(&shape, seed).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            Array2::from_shape_vec(shape, values).unwrap() * scale
        };
        let scale = f32::from(2u8).powi(power);
        let factors = Factors { left: matrix([m, r], 1, scale), right: matrix([r, n], 2, 100.0 / scale), bias: None };
        let [half, single] = [DType::F16, DType::F32].map(|dtype| {
            let layer = LowRankLinear::from_factors(&factors, None, dtype, &Device::Cpu).unwrap();
            layer.forward(&noise(&[5, n], 3).to_dtype(dtype).unwrap()).unwrap()
        });
        let largest = values(&single).iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        let apart = values(&half).iter().zip(values(&single)).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
        prop_assert!(apart <= 100.0 * (r * n) as f64 * 2e-3, "{apart} of {largest}");
    }
}

/// The bound of the documentation, at its end: every factor and input is the largest number, and the output cancels.
#[test]
fn the_largest_numbers_cancel_in_the_output_and_not_before() {
    let full = |shape: (usize, usize), sign: f64| Tensor::full(sign * LARGEST, shape, &Device::Cpu).unwrap();
    let left = Tensor::cat(&[full((2, 1), 1.0), full((2, 1), -1.0)], 1).unwrap().to_dtype(DType::F16).unwrap();
    let layer = LowRankLinear::new(left, full((2, 512), 1.0).to_dtype(DType::F16).unwrap(), None).unwrap();
    let y = layer.forward(&full((1, 512), 1.0).to_dtype(DType::F16).unwrap()).unwrap();
    assert_eq!(values(&y), [0.0, 0.0]);
}

#[test]
fn what_no_f16_can_hold_is_refused() {
    let factors = Factors { left: Array2::from_elem((2, 1), 1e6), right: Array2::from_elem((1, 2), 1e6), bias: None };
    let refused = LowRankLinear::from_factors(&factors, None, DType::F16, &Device::Cpu).unwrap_err().to_string();
    assert!(refused.contains("F16"), "{refused}");
    assert!(LowRankLinear::from_factors(&factors, None, DType::BF16, &Device::Cpu).is_ok());
}
