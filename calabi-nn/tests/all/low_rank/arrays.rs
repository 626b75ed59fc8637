//! Plain arrays give what autograd gives.

use calabi_nn::LowRankLinear;
use calabi_nn::candle_core::{DType, Module, Tensor, Var, WithDType};
use calabi_nn::ndarray::{Array, Array2, Array3, ArrayD, Dimension};
use proptest::prelude::*;

use super::{apart, layer, noise};

fn tensor<A: WithDType, D: Dimension>(array: &Array<A, D>) -> Tensor {
    let values: Vec<A> = array.iter().copied().collect();
    Tensor::from_slice(&values, array.shape(), &calabi_nn::candle_core::Device::Cpu).unwrap()
}

fn array(tensor: &Tensor) -> ArrayD<f32> {
    ArrayD::from_shape_vec(tensor.dims(), tensor.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_and_gradients_are_those_of_autograd(
        leading in prop::collection::vec(1usize..5, 0..3), m in 1usize..20, r in 1usize..9, n in 1usize..20,
    ) {
        let var = |shape: &[usize], seed| Var::from_tensor(&noise(shape, seed)).unwrap();
        let with = |last: usize| leading.iter().copied().chain([last]).collect::<Vec<_>>();
        let [left, right, bias, x] = [var(&[m, r], 1), var(&[r, n], 2), var(&[m], 3), var(&with(n), 4)];
        let g = noise(&with(m), 5);
        let layer = LowRankLinear::new(
            left.as_tensor().clone(), right.as_tensor().clone(), Some(bias.as_tensor().clone()),
        ).unwrap();
        let y = layer.forward(&x).unwrap();
        let wanted = (&y * &g).unwrap().sum_all().unwrap().backward().unwrap();
        let plain = tensor(&layer.forward_array(&array(&x)).unwrap());
        prop_assert_eq!(plain.dims(), y.dims());
        prop_assert!(apart(&plain, &y) < 1e-6);
        let made = layer.backward_array(&array(&x), &array(&g)).unwrap();
        let pairs = [
            (tensor(&made.left), &left), (tensor(&made.right), &right),
            (tensor(&made.bias.unwrap()), &bias), (tensor(&made.input), &x),
        ];
        for (made, var) in pairs {
            prop_assert!(apart(&made, wanted.get(var).unwrap()) < 1e-5);
        }
    }
}

#[test]
fn strides_change_nothing() {
    let layer = layer(4, 2, 6, DType::F32);
    let x = Array3::from_shape_fn((2, 3, 6), |(i, j, k)| (i * 18 + j * 6 + k) as f32 / 10.0);
    let turned = Array3::from_shape_fn((6, 3, 2), |(k, j, i)| x[(i, j, k)]);
    assert_eq!(layer.forward_array(&turned.t()).unwrap(), layer.forward_array(&x).unwrap());
    let g = Array3::from_elem((2, 3, 4), 1.0f32);
    assert_eq!(
        layer.backward_array(&turned.t(), &g.view()).unwrap(),
        layer.backward_array(&x.view(), &g.view()).unwrap()
    );
}

#[test]
fn half_precision_is_rounded_once() {
    let layer = layer(4, 2, 6, DType::F16);
    let x = Array2::from_shape_fn((3, 6), |(i, j)| half::f16::from_f32((i * 6 + j) as f32 / 7.0));
    let y = layer.forward_array(&x).unwrap();
    assert!(apart(&tensor(&y), &super::exact(&layer, &tensor(&x)).unwrap()) < 6e-4);
    assert!(layer.backward_array(&x, &y).is_ok());
}

#[test]
fn what_does_not_fit_is_refused() {
    let layer = layer(4, 2, 6, DType::F32);
    let zeros = |rows: usize, cols: usize| Array2::<f32>::zeros((rows, cols));
    assert!(layer.forward_array(&zeros(2, 5)).unwrap_err().to_string().contains("[2, 5]"));
    assert!(layer.forward_array(&Array2::<f64>::zeros((2, 6))).unwrap_err().to_string().contains("F64"));
    assert!(layer.backward_array(&zeros(2, 6), &zeros(3, 4)).unwrap_err().to_string().contains("[3, 4]"));
    assert!(layer.backward_array(&zeros(2, 6), &zeros(2, 5)).unwrap_err().to_string().contains("[2, 5]"));
    assert!(layer.forward_array(&ndarray::arr0(1f32)).is_err());
    let strict = layer.finite_only();
    assert!(strict.forward_array(&Array2::from_elem((1, 6), f32::NAN)).is_err());
}
