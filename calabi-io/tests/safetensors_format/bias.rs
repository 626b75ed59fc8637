//! Biases that factors bring: added to the layer's own, else a tensor of their own.

use std::fs;

use calabi_api::ndarray::Array1;
use calabi_api::{Cost, DType, Factors, FormatError, Rank, Replacement, WriteOptions};
use safetensors::Dtype;

use super::support::{Place, Tensor, encoded, factors, layer, open, reference, tensors};

const NEW: [f32; 3] = [0.5, -100.0, 3.0];

/// Writes `a` at rank 1 with the bias [`NEW`]; the model is one file of these tensors.
fn written(place: &Place, model: &[Tensor]) -> Result<Vec<Tensor>, FormatError> {
    let source = open(&place.write("in.safetensors", &reference(model))).unwrap();
    let a = layer(&*source, "a");
    let declared = [Replacement { layer: a, rank: Rank::ONE, bias: true }];
    let mut sink = source.create(&place.path("out.safetensors"), &declared, &WriteOptions::default())?;
    sink.write(a, &Factors { bias: Some(Array1::from(NEW.to_vec())), ..factors(a, 1, false, 0) })?;
    sink.finish()?;
    Ok(tensors(&place.path("out.safetensors")).into_values().collect())
}

fn weight(dtype: DType) -> Tensor {
    Tensor::counting("a.weight", dtype, &[3, 2])
}

#[test]
fn the_sum_is_stored_as_the_layers_own_bias_was() {
    // 2049 is no number of F16, and 0.5 is lost beside 512 in BF16.
    for (dtype, own) in [(DType::F32, [1e-3_f32, 1.0, 2046.0]), (DType::F16, [1.0; 3]), (DType::BF16, [512.0; 3])] {
        let model = [weight(DType::F16), Tensor::of("a.bias", dtype, &[3], own)];
        let written = written(&Place::new(), &model).unwrap();
        let sums: Vec<f32> = own.iter().zip(NEW).map(|(own, new)| dtype.rounded(*own) + new).collect();
        assert_eq!((written[0].name.as_str(), written[0].dims.as_slice()), ("a.left.bias", &[3][..]));
        assert_eq!((written[0].dtype, &written[0].bytes), (model[1].dtype, &encoded(dtype, &sums)));
        assert_eq!(written.len(), 3);
    }
}

#[test]
fn a_bias_stays_in_its_place_and_a_new_one_follows_its_factors() {
    let place = Place::new();
    let order = |model: &[Tensor]| {
        let (path, input) = (place.path("out.safetensors"), place.path("in.safetensors"));
        written(&place, model).unwrap();
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        fs::remove_file(path).unwrap();
        fs::remove_file(input).unwrap();
        let mut names = ["b", "a.left.bias", "a.left.weight", "a.right.weight"];
        names.sort_by_key(|name| text.find(&format!("\"{name}\"")).unwrap());
        names
    };
    let b = Tensor::counting("b", DType::F32, &[3]);
    // The reference writes larger types first, then by name.
    let own = Tensor::counting("a.bias", DType::F64, &[3]);
    assert_eq!(order(&[weight(DType::F32), b.clone(), own]), ["a.left.bias", "a.right.weight", "a.left.weight", "b"]);
    assert_eq!(order(&[weight(DType::F32), b]), ["a.right.weight", "a.left.weight", "a.left.bias", "b"]);
}

#[test]
fn a_layer_says_whether_its_bias_takes_another() {
    let place = Place::new();
    let bias = |tensors: &[Tensor]| {
        let source = open(&place.write("m.safetensors", &reference(tensors))).unwrap();
        let layer = layer(&*source, "a");
        assert_eq!(layer.cost.fixed, Cost::default());
        layer.bias
    };
    assert!(!bias(&[weight(DType::F32)]));
    assert!(bias(&[weight(DType::F32), Tensor::counting("a.bias", DType::F16, &[3])]));
    assert!(!bias(&[weight(DType::F32), Tensor::counting("a.bias", DType::F16, &[1, 3])]));
    assert!(!bias(&[weight(DType::F32), Tensor::counting("a.bias", DType::F32, &[2])]));
    assert!(!bias(&[weight(DType::F32), Tensor::raw("a.bias", Dtype::I64, &[3])]));
}

#[test]
fn what_is_called_a_bias_and_is_none_is_not_overwritten() {
    let model = [weight(DType::F32), Tensor::raw("a.bias", Dtype::I64, &[3])];
    let error = written(&Place::new(), &model).unwrap_err();
    assert!(
        matches!(&error, FormatError::Limit { problem, .. } if problem.contains("tensor a.bias of [3] I64")),
        "{error}"
    );
}

#[test]
fn a_sum_beyond_its_type_is_refused() {
    for (dtype, part) in [(DType::F16, "layer a: a factor"), (DType::F32, "tensor a.left.bias")] {
        let model = [weight(dtype), Tensor::of("a.bias", DType::F16, &[3], [0.0, -65500.0, 0.0])];
        let error = written(&Place::new(), &model).unwrap_err();
        assert!(matches!(error, FormatError::Limit { .. }) && error.to_string().contains(part), "{error}");
        assert!(error.to_string().contains("F16 cannot hold"), "{error}");
    }
}

#[test]
fn a_bias_that_is_not_finite_names_its_tensor() {
    let model = [weight(DType::F32), Tensor::of("a.bias", DType::F32, &[3], [0.0, f32::NAN, 0.0])];
    let error = written(&Place::new(), &model).unwrap_err();
    assert!(error.to_string().contains("tensor a.bias holds NaN"), "{error}");
}

#[test]
fn a_layer_of_another_model_is_not_written() {
    let place = Place::new();
    let with = [weight(DType::F32), Tensor::counting("a.bias", DType::F32, &[3])];
    let [one, two] = [&with[..], &with[..1]].map(|tensors| {
        let source = open(&place.write("m.safetensors", &reference(tensors))).unwrap();
        fs::remove_file(place.path("m.safetensors")).unwrap();
        source
    });
    let declared = [Replacement { layer: layer(&*one, "a"), rank: Rank::ONE, bias: true }];
    let error = two.create(&place.path("o"), &declared, &WriteOptions::default()).err().unwrap();
    assert!(matches!(error, FormatError::Misuse(_)), "{error}");
}
