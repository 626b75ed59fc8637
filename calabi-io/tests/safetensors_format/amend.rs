//! Other values in the place of a tensor that is copied.

use std::fs;

use calabi_api::ndarray::{ArrayD, arr1, arr2};
use calabi_api::{DType, FormatError, LayerSink, LayerSource, Rank, Replacement, WriteOptions};
use safetensors::Dtype;

use super::support::{Place, Tensor, encoded, factors, layer, open, reference, tensors};

fn model() -> [Tensor; 5] {
    [
        Tensor::counting("a.weight", DType::F32, &[3, 2]),
        Tensor::counting("a.bias", DType::F32, &[3]),
        Tensor::counting("norm.weight", DType::BF16, &[3]),
        Tensor::counting("table", DType::F16, &[2, 3]),
        Tensor::raw("ids", Dtype::I64, &[3]),
    ]
}

/// A sink of the model in which `a` is at rank 1, with a new bias or without.
fn begun(place: &Place, bias: bool) -> (Box<dyn LayerSource>, Box<dyn LayerSink>) {
    let source = open(&place.write("in.safetensors", &reference(&model()))).unwrap();
    let declared = [Replacement { layer: layer(&*source, "a"), rank: Rank::ONE, bias }];
    let sink = source.create(&place.path("out.safetensors"), &declared, &WriteOptions::default()).unwrap();
    (source, sink)
}

fn vector(values: [f32; 3]) -> ArrayD<f32> {
    arr1(&values).into_dyn()
}

#[test]
fn other_values_are_written_and_nothing_else_changes() {
    let place = Place::new();
    let write = |amend: bool| {
        let (source, mut sink) = begun(&place, false);
        let a = layer(&*source, "a");
        let table = arr2(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).reversed_axes().into_dyn();
        if amend {
            sink.amend("norm.weight", &vector([0.1, 0.2, 1e30])).unwrap();
        }
        sink.write(a, &factors(a, 1, false, 0)).unwrap();
        if amend {
            sink.amend("table", &table).unwrap();
            sink.amend("a.bias", &vector([7.0, 8.0, 9.0])).unwrap();
        }
        let written = sink.finish().unwrap();
        let found = tensors(&place.path("out.safetensors"));
        let bytes = fs::read(place.path("out.safetensors")).unwrap();
        fs::remove_file(place.path("out.safetensors")).unwrap();
        (written, found, bytes)
    };
    let (plain, mut expected, before) = write(false);
    let (amended, found, after) = write(true);
    assert_eq!(amended, plain);
    let mut change = |name: &str, dtype, values: &[f32]| {
        expected.get_mut(name).unwrap().bytes = encoded(dtype, values);
    };
    change("norm.weight", DType::BF16, &[0.1, 0.2, 1e30]);
    change("table", DType::F16, &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    change("a.left.bias", DType::F32, &[7.0, 8.0, 9.0]);
    assert_eq!(found, expected);
    let length = 8 + usize::try_from(u64::from_le_bytes(before[..8].try_into().unwrap())).unwrap();
    assert_eq!(after[..length], before[..length], "the header is the same");
}

#[test]
fn what_cannot_be_amended_is_refused_and_stays() {
    let place = Place::new();
    let (source, mut sink) = begun(&place, true);
    let mut misuse = |name: &str, values: &ArrayD<f32>| match sink.amend(name, values).unwrap_err() {
        FormatError::Misuse(problem) => problem,
        other => panic!("{other:?}"),
    };
    assert!(misuse("a.weight", &ArrayD::zeros(vec![3, 2])).contains("tensor a.weight"));
    assert!(misuse("a.bias", &vector([0.0; 3])).contains("none of this name"));
    assert!(misuse("missing", &vector([0.0; 3])).contains("none of this name"));
    assert!(misuse("norm.weight", &ArrayD::zeros(vec![1, 3])).contains("its shape is [3]"));
    assert!(misuse("ids", &vector([0.0; 3])).contains("I64"));
    let error = sink.amend("table", &ArrayD::from_elem(vec![2, 3], 7e4)).unwrap_err();
    assert!(matches!(&error, FormatError::Limit { .. }) && error.to_string().contains("F16 cannot hold"), "{error}");
    let error = sink.amend("norm.weight", &vector([f32::NAN; 3])).unwrap_err();
    assert!(error.to_string().contains("tensor norm.weight"), "{error}");
    sink.amend("norm.weight", &vector([1.0; 3])).unwrap();
    assert!(sink.amend("norm.weight", &vector([2.0; 3])).is_err());
    let a = layer(&*source, "a");
    sink.write(a, &factors(a, 1, true, 0)).unwrap();
    sink.finish().unwrap();
    let found = tensors(&place.path("out.safetensors"));
    assert_eq!(found["norm.weight"].bytes, encoded(DType::BF16, &[1.0; 3]));
    assert_eq!((&found["table"], &found["ids"]), (&model()[3], &model()[4]));
}

#[test]
fn a_tensor_of_any_shard_is_amended() {
    let place = Place::new();
    let [weight, bias, norm, ..] = model();
    place.write("f/model-00001-of-00002.safetensors", &reference(&[weight, bias]));
    place.write("f/model-00002-of-00002.safetensors", &reference(&[norm]));
    let index = r#"{"weight_map":{"a.weight":"model-00001-of-00002.safetensors",
        "a.bias":"model-00001-of-00002.safetensors","norm.weight":"model-00002-of-00002.safetensors"}}"#;
    place.write("f/model.safetensors.index.json", index.as_bytes());
    let source = open(&place.path("f")).unwrap();
    let mut sink = source.create(&place.path("out"), &[], &WriteOptions::default()).unwrap();
    sink.amend("norm.weight", &vector([1.0, 2.0, 4.0])).unwrap();
    sink.finish().unwrap();
    let found = tensors(&place.path("out/model-00002-of-00002.safetensors"));
    assert_eq!(found["norm.weight"].bytes, encoded(DType::BF16, &[1.0, 2.0, 4.0]));
    let [before, after] = ["f", "out"].map(|folder| fs::read(place.path(folder).join("model.safetensors.index.json")));
    assert_eq!(before.unwrap(), after.unwrap());
}
