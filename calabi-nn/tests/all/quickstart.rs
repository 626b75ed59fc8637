//! The quickstart's model: the engine gives what the formulas give, and reads the digits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::models::single;
use calabi_api::{Runtime as _, Samples, Tensor};
use calabi_nn::{Labelled, OnnxRuntime, read_samples};
use ndarray::{Array2, ArrayD, Axis, Ix1, Ix2, IxDyn};
use safetensors::SafeTensors;

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart").join(file)
}

fn held_out() -> Labelled {
    read_samples(&path("held-out.npz"), Some("labels")).unwrap()
}

fn logits(samples: &Samples) -> Array2<f32> {
    let mut runner = OnnxRuntime::default().load(&path("digits.onnx")).unwrap();
    single(runner.outputs(samples)).values.into_dimensionality().unwrap()
}

fn weights() -> BTreeMap<String, ArrayD<f64>> {
    let bytes = std::fs::read(path("digits.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let array = |tensor: &safetensors::tensor::TensorView<'_>| {
        let values = tensor.data().as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b)));
        ArrayD::from_shape_vec(IxDyn(tensor.shape()), values.collect()).unwrap()
    };
    file.iter().map(|(name, tensor)| (name.to_owned(), array(&tensor))).collect()
}

/// The network in f64: `y = x Wᵀ + b` three times, negative values cut between them.
fn reference(samples: &Samples) -> Array2<f64> {
    let weights = weights();
    let layer = |x: &Array2<f64>, name: &str| {
        let weight = weights[&format!("{name}.weight")].view().into_dimensionality::<Ix2>().unwrap();
        let bias = weights[&format!("{name}.bias")].view().into_dimensionality::<Ix1>().unwrap();
        x.dot(&weight.t()) + bias
    };
    let Tensor::F32(image) = &samples.inputs[0].1 else { panic!("images are f32") };
    let image = image.mapv(f64::from).into_dimensionality().unwrap();
    let relu = |x: Array2<f64>| x.mapv(|v| v.max(0.0));
    layer(&relu(layer(&relu(layer(&image, "hidden1")), "hidden2")), "output")
}

#[test]
fn logits_are_those_of_the_formulas() {
    let samples = held_out().samples;
    let (found, wanted) = (logits(&samples), reference(&samples));
    assert_eq!(found.shape(), [360, 10]);
    let largest = wanted.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let error = found.iter().zip(&wanted).map(|(&f, w)| (f64::from(f) - w).abs()).fold(0.0, f64::max);
    assert!(error <= 1e-6 * largest, "{error:e} of {largest}");
}

#[test]
fn ninety_seven_digits_of_a_hundred_are_read() {
    let Labelled { samples, labels } = held_out();
    let labels = labels.unwrap();
    let best = |row: ndarray::ArrayView1<'_, f32>| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let found = logits(&samples);
    let right =
        found.axis_iter(Axis(0)).zip(&labels).filter(|(row, label)| i64::try_from(best(*row)) == Ok(**label)).count();
    assert!(right * 100 >= labels.len() * 97, "{right} of {}", labels.len());
}

#[test]
fn outputs_do_not_depend_on_the_number_of_threads() {
    let samples = held_out().samples;
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| logits(&samples))
    };
    let bits = |logits: Array2<f32>| logits.mapv(f32::to_bits);
    let one = bits(with(1));
    assert_eq!(one, bits(with(2)));
    assert_eq!(one, bits(with(5)));
}
