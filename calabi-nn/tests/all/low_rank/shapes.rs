//! What goes in and comes out: leading dimensions, strides, types, and what does not fit.

use calabi_nn::LowRankLinear;
use calabi_nn::candle_core::{DType, Device, Module, Tensor};
use proptest::prelude::*;

use super::{apart, exact, layer, noise};

const TYPES: [(DType, f64); 4] = [(DType::F64, 1e-13), (DType::F32, 2e-6), (DType::F16, 1.1e-3), (DType::BF16, 8.2e-3)];

#[test]
fn every_type_gives_what_the_dense_layer_gives() {
    for (dtype, tolerance) in TYPES {
        let layer = layer(33, 7, 50, dtype);
        let x = noise(&[9, 50], 4).to_dtype(dtype).unwrap();
        let y = layer.forward(&x).unwrap();
        assert_eq!(y.dtype(), dtype);
        let off = apart(&y, &exact(&layer, &x).unwrap());
        assert!(off < tolerance, "{dtype:?}: {off}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_leading_dimensions_and_strides(
        leading in prop::collection::vec(1usize..5, 0..4), m in 1usize..20, r in 1usize..9, n in 1usize..20,
        which in 0usize..4, swap: bool,
    ) {
        let (dtype, tolerance) = TYPES[which];
        let layer = layer(m, r, n, dtype);
        let mut dims = leading.clone();
        dims.push(n);
        let x = if swap && dims.len() > 1 {
            let last = dims.len() - 1;
            dims.swap(0, last);
            noise(&dims, 5).transpose(0, last).unwrap()
        } else {
            noise(&dims, 5)
        };
        let x = x.to_dtype(dtype).unwrap();
        let y = layer.forward(&x).unwrap();
        prop_assert_eq!(y.dims().split_last().unwrap(), (&m, &leading[..]));
        let off = apart(&y, &exact(&layer, &x).unwrap());
        prop_assert!(off < 4.0 * tolerance, "{:?}: {}", dtype, off);
    }
}

#[test]
fn views_are_read_through_their_strides() {
    let wide = noise(&[12, 40], 6);
    let factors = (wide.narrow(1, 3, 4).unwrap(), wide.narrow(0, 5, 4).unwrap());
    let layer = LowRankLinear::new(factors.0, factors.1, None).unwrap();
    let x = noise(&[40, 6], 7).t().unwrap();
    assert!(apart(&layer.forward(&x).unwrap(), &exact(&layer, &x).unwrap()) < 2e-6);
    let turned = LowRankLinear::new(noise(&[4, 12], 8).t().unwrap(), noise(&[40, 4], 9).t().unwrap(), None).unwrap();
    assert!(apart(&turned.forward(&x).unwrap(), &exact(&turned, &x).unwrap()) < 2e-6);
}

#[test]
fn no_inputs_give_no_outputs() {
    for (dtype, _) in TYPES {
        let x = Tensor::zeros((0, 5), dtype, &Device::Cpu).unwrap();
        assert_eq!(layer(3, 2, 5, dtype).forward(&x).unwrap().dims(), [0, 3]);
    }
}

#[test]
fn what_does_not_fit_is_an_error_with_both_shapes() {
    let layer = layer(3, 2, 5, DType::F32);
    let message = |x: &Tensor| layer.forward(x).unwrap_err().to_string();
    let short = message(&noise(&[2, 4], 1));
    assert!(short.contains("[2, 4]") && short.contains("[3, 2]") && short.contains("[2, 5]"), "{short}");
    assert!(message(&noise(&[], 1)).contains("[]"));
    let half = message(&noise(&[2, 5], 1).to_dtype(DType::F16).unwrap());
    assert!(half.contains("F16") && half.contains("F32"), "{half}");
}

#[test]
fn factors_that_do_not_fit_are_refused() {
    let refused = |left: &[usize], right: &[usize], bias: Option<&[usize]>| {
        let made = LowRankLinear::new(noise(left, 1), noise(right, 2), bias.map(|bias| noise(bias, 3)));
        made.unwrap_err().to_string()
    };
    assert!(refused(&[3, 2], &[3, 5], None).contains("[3, 2] and [3, 5]"));
    assert!(refused(&[3, 0], &[0, 5], None).contains("none of them 0"));
    assert!(refused(&[0, 2], &[2, 5], None).contains("none of them 0"));
    assert!(refused(&[3], &[2, 5], None).contains("[3]"));
    assert!(refused(&[3, 2], &[2, 5], Some(&[5])).contains("a bias of [5]"));
    let mixed = LowRankLinear::new(noise(&[3, 2], 1), noise(&[2, 5], 2).to_dtype(DType::F16).unwrap(), None);
    assert!(mixed.unwrap_err().to_string().contains("F16"));
    let whole = Tensor::zeros((2, 2), DType::U32, &Device::Cpu).unwrap();
    assert!(LowRankLinear::new(whole.clone(), whole, None).unwrap_err().to_string().contains("U32"));
}

#[test]
fn outputs_that_are_not_finite_are_errors_where_asked_for() {
    for (dtype, _) in TYPES {
        let strict = layer(3, 2, 5, dtype).finite_only();
        let x = noise(&[4, 5], 1).to_dtype(dtype).unwrap();
        assert!(strict.forward(&x).is_ok());
        for value in [f32::NAN, f32::INFINITY] {
            let bad = Tensor::full(value, (1, 5), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            assert!(strict.forward(&bad).unwrap_err().to_string().contains("[1, 3]"));
            assert!(layer(3, 2, 5, dtype).forward(&bad).is_ok());
        }
    }
}
