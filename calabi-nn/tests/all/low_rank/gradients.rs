//! Gradients against differences, and that the comparison sees what is wrong.

use calabi_nn::candle_core::{CpuStorage, CustomOp1, Device, Layout, Module, Result, Shape, Tensor, Var};
use calabi_nn::{GradCheck, LowRankLinear, gradcheck};
use proptest::prelude::*;

use super::noise;

fn var(shape: &[usize], seed: u64, scale: f64) -> Var {
    Var::from_tensor(&(noise(shape, seed) * scale).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_gradient_of_the_layer_is_right(
        leading in prop::collection::vec(1usize..4, 0..3), m in 1usize..24, r in 1usize..9, n in 1usize..24,
        seed: u64, scale in 0.01..100.0f64,
    ) {
        let dims: Vec<_> = leading.iter().copied().chain([n]).collect();
        let [left, right, bias, x] =
            [var(&[m, r], seed, 1.0), var(&[r, n], seed ^ 1, scale), var(&[m], seed ^ 2, scale), var(&dims, seed ^ 3, 1.0)];
        let tensor = |var: &Var| var.as_tensor().clone();
        let layer = LowRankLinear::new(tensor(&left), tensor(&right), Some(tensor(&bias))).unwrap();
        let named = [("left", &left), ("right", &right), ("bias", &bias), ("input", &x)];
        let check = GradCheck { seed, entries: 32, ..GradCheck::default() };
        for found in check.run(&named, || layer.forward(&x)).unwrap() {
            prop_assert!(found.relative < 1e-3, "{found:?}");
        }
    }
}

/// The identity, with a gradient that is 1 % too large.
struct Crooked;

impl CustomOp1 for Crooked {
    fn name(&self) -> &'static str {
        "crooked"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((storage.clone(), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        (gradient * 1.01).map(Some)
    }
}

#[test]
fn a_gradient_that_is_wrong_is_found() {
    let x = var(&[4, 5], 1, 1.0);
    let found = &gradcheck(&[("x", &x)], || x.as_tensor().apply_op1(Crooked)).unwrap()[0];
    assert!((found.relative - 0.0099).abs() < 1e-4, "{found:?}");
    let cut = &gradcheck(&[("x", &x)], || x.as_detached_tensor().sqr()).unwrap()[0];
    assert!((cut.relative - 1.0).abs() < 1e-9 && cut.analytic == 0.0, "{cut:?}");
}

#[test]
fn curved_functions_are_within_the_bound_in_both_types() {
    let curved = |x: &Tensor| x.tanh()? * x.exp()?;
    let x = var(&[3, 4], 1, 2.0);
    assert!(gradcheck(&[("x", &x)], || curved(&x)).unwrap()[0].relative < 1e-4);
    let x = Var::from_tensor(&x.to_dtype(calabi_nn::candle_core::DType::F64).unwrap()).unwrap();
    assert!(gradcheck(&[("x", &x)], || curved(&x)).unwrap()[0].relative < 1e-9);
}

#[test]
fn variables_are_as_before_also_after_an_error() {
    let x = var(&[4, 5], 1, 1.0);
    let before = x.to_vec2::<f32>().unwrap();
    gradcheck(&[("x", &x)], || x.as_tensor().sqr()).unwrap();
    assert_eq!(x.to_vec2::<f32>().unwrap(), before);
    let calls = std::cell::Cell::new(0);
    let fails = || {
        calls.set(calls.get() + 1);
        if calls.get() < 4 { x.as_tensor().sqr() } else { x.as_tensor().matmul(&x) }
    };
    assert!(gradcheck(&[("x", &x)], fails).is_err());
    assert_eq!(x.to_vec2::<f32>().unwrap(), before);
}

#[test]
fn large_tensors_are_sampled_and_what_is_not_finite_is_not_overlooked() {
    let x = var(&[100, 100], 1, 1.0);
    let check = GradCheck { entries: 10, ..GradCheck::default() };
    assert_eq!(check.run(&[("x", &x)], || x.as_tensor().sqr()).unwrap()[0].compared, 10);
    let y = Var::new(&[-1f32, 1.0], &Device::Cpu).unwrap();
    assert!(gradcheck(&[("y", &y)], || y.as_tensor().log()).unwrap()[0].relative.is_infinite());
    let half = Var::from_tensor(&x.to_dtype(calabi_nn::candle_core::DType::F16).unwrap()).unwrap();
    assert!(gradcheck(&[("x", &half)], || x.as_tensor().sqr()).is_err());
}
