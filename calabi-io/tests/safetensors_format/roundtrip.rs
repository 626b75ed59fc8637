//! What is written is what was there, but for the factors.

use std::fs;

use calabi_api::{DType, Factors, FormatError, LayerSource, Rank, Replacement, WriteOptions};
use proptest::prelude::*;
use safetensors::Dtype;

use super::support::{Place, Tensor, encoded, factors, file, in_file, layer, open, reference, tensors, write};

const ALL: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

fn any_tensor() -> impl Strategy<Value = Tensor> {
    let dims = prop_oneof![prop::collection::vec(1_usize..6, 2), prop::collection::vec(0_usize..4, 0..4),];
    let dtype = prop::sample::select(vec![
        Dtype::F64,
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I64,
        Dtype::U8,
        Dtype::BOOL,
        Dtype::F8_E4M3,
    ]);
    ("[a-c]\\.[\"\\\\é\u{1}d]\\.(weight|bias|x)", dtype, dims)
        .prop_map(|(name, dtype, dims)| Tensor::raw(&name, dtype, &dims))
}

fn any_model() -> impl Strategy<Value = Vec<Tensor>> {
    prop::collection::vec(any_tensor(), 1..8).prop_map(|mut tensors| {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors.dedup_by(|a, b| a.name == b.name);
        tensors
    })
}

fn of_file(dtype: Dtype) -> DType {
    *ALL.iter().find(|&&known| in_file(known) == dtype).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_copy_is_the_same_file(model in any_model()) {
        let place = Place::new();
        let input = place.write("in.safetensors", &reference(&model));
        let source = open(&input).unwrap();
        let output = place.path("out.safetensors");
        let written = write(&*source, &output, &[], None);
        prop_assert_eq!(written.cost, source.totals().cost);
        prop_assert_eq!(written.paths, vec![output.clone()]);
        prop_assert_eq!(fs::read(output).unwrap(), fs::read(input).unwrap());
    }

    #[test]
    fn factors_take_the_place_of_layers_and_all_else_stays(
        model in any_model(),
        choice in prop::collection::vec((0_usize..6, any::<bool>()), 8),
    ) {
        let place = Place::new();
        let source = open(&place.write("in.safetensors", &reference(&model))).unwrap();
        let named = |name: &str| model.iter().find(|tensor| tensor.name == name);
        let wanted: Vec<_> = source.layers().iter().zip(choice).filter(|(_, (r, _))| *r > 0)
            .map(|(layer, (r, bias))| {
                // A tensor that is called a bias, and is none, cannot take one.
                let free = layer.bias || named(&format!("{}.bias", layer.name)).is_none();
                (layer.name.as_str(), r.min(layer.shape.full_rank().get()), bias && free)
            })
            .collect();
        let output = place.path("out.safetensors");
        let written = write(&*source, &output, &wanted, None);
        let found = tensors(&output);

        let mut expected = 0;
        for (seed, &(name, r, bias)) in wanted.iter().enumerate() {
            let layer = layer(&*source, name);
            let Factors { left, right, bias: added } = factors(layer, r, bias, seed);
            let (l, n) = (&found[&format!("{name}.left.weight")], &found[&format!("{name}.right.weight")]);
            prop_assert_eq!((&l.dims[..], &n.dims[..]), (left.shape(), right.shape()));
            prop_assert_eq!(&l.bytes, &encoded(layer.dtype, &left));
            prop_assert_eq!(&n.bytes, &encoded(layer.dtype, &right));
            let dense = format!("{name}.weight");
            prop_assert!(!found.contains_key(&dense));
            expected += 2;
            if let Some(added) = added {
                let written = &found[&format!("{name}.left.bias")];
                let own = named(&format!("{name}.bias"));
                prop_assert_eq!(own.is_some(), layer.bias);
                let dtype = own.map_or(layer.dtype, |own| of_file(own.dtype));
                let base: Vec<f32> = own.map_or(vec![0.0; added.len()], |own| dtype.decode(&own.bytes).collect());
                let sums: Vec<f32> = added.iter().zip(base).map(|(new, own)| new + own).collect();
                prop_assert_eq!(&written.bytes, &encoded(dtype, &sums));
                expected += 1;
            }
        }
        for tensor in &model {
            let (layer, part) = tensor.name.rsplit_once('.').unwrap();
            let replaced = wanted.iter().find(|(name, ..)| *name == layer);
            let name = match (part, replaced) {
                ("weight", Some(_)) | ("bias", Some((_, _, true))) => continue,
                ("bias", Some((_, _, false))) => format!("{layer}.left.bias"),
                _ => tensor.name.clone(),
            };
            prop_assert_eq!(&found[&name].bytes, &tensor.bytes);
            prop_assert_eq!(&found[&name].dims, &tensor.dims);
            prop_assert_eq!(found[&name].dtype, tensor.dtype);
            expected += 1;
        }
        prop_assert_eq!(found.len(), expected);
        let parameters: usize = found.values().map(|t| t.dims.iter().product::<usize>()).sum();
        prop_assert_eq!(written.cost.parameters, parameters as u64);
        prop_assert_eq!(written.cost.bytes, fs::metadata(&output).unwrap().len());
        prop_assert_eq!(open(&output).unwrap().totals().cost, written.cost);
    }
}

#[test]
fn factors_are_stored_bit_for_bit_in_every_type() {
    for dtype in ALL {
        let place = Place::new();
        let model = [Tensor::counting("a.weight", dtype, &[5, 4]), Tensor::counting("a.bias", dtype, &[5])];
        let source = open(&place.write("in.safetensors", &reference(&model))).unwrap();
        let output = place.path("out.safetensors");
        let written = write(&*source, &output, &[("a", 3, false)], None);
        let found = tensors(&output);
        let expected = factors(layer(&*source, "a"), 3, false, 0);
        assert_eq!(found["a.left.weight"].bytes, encoded(dtype, &expected.left));
        assert_eq!(found["a.right.weight"].bytes, encoded(dtype, &expected.right));
        assert_eq!(found["a.left.bias"].bytes, model[1].bytes);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a.left.bias", "a.left.weight", "a.right.weight"]);
        assert_eq!(written.cost.parameters, 5 * 3 + 3 * 4 + 5);
    }
}

#[test]
fn factors_larger_than_a_piece_are_stored_row_by_row() {
    let place = Place::new();
    let model = [Tensor::counting("a.weight", DType::F32, &[700, 900])];
    let source = open(&place.write("in.safetensors", &reference(&model))).unwrap();
    let output = place.path("out.safetensors");
    let a = layer(&*source, "a");
    let wanted = [Replacement { layer: a, rank: Rank::new(600).unwrap(), bias: false }];
    let mut sink = source.create(&output, &wanted, &WriteOptions::default()).unwrap();
    let mut given = factors(a, 600, false, 1);
    // In memory by columns, in the file by rows.
    given.right = given.right.t().as_standard_layout().into_owned().reversed_axes();
    assert!(!given.right.is_standard_layout());
    sink.write(a, &given).unwrap();
    sink.finish().unwrap();
    let found = tensors(&output);
    let expected = factors(a, 600, false, 1);
    assert!(found["a.left.weight"].bytes == encoded(DType::F32, &expected.left));
    assert!(found["a.right.weight"].bytes == encoded(DType::F32, &expected.right));
}

#[test]
fn conv1d_factors_are_stored_outputs_by_inputs() {
    let place = Place::new();
    let model = [Tensor::counting("h.0.attn.c_attn.weight", DType::F32, &[4, 12])];
    let source = open(&place.write("in.safetensors", &reference(&model))).unwrap();
    let output = place.path("out.safetensors");
    write(&*source, &output, &[("h.0.attn.c_attn", 2, false)], None);
    let found = tensors(&output);
    assert_eq!(found["h.0.attn.c_attn.left.weight"].dims, [12, 2]);
    assert_eq!(found["h.0.attn.c_attn.right.weight"].dims, [2, 4]);
}

#[test]
fn order_metadata_and_padding_are_kept() {
    let header = concat!(
        r#"{"z.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[2,18]},"#,
        r#""__metadata__":{"b":"1","a":"\"é"},"y":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#
    );
    let place = Place::new();
    let source = open(&place.write("in.safetensors", &file(header, 18))).unwrap();
    let output = place.path("out.safetensors");
    write(&*source, &output, &[("z", 1, true)], None);
    let bytes = fs::read(&output).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(length % 8, 0);
    let text = std::str::from_utf8(&bytes[8..8 + usize::try_from(length).unwrap()]).unwrap();
    let expected = concat!(
        r#"{"__metadata__":{"b":"1","a":"\"é"},"y":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"#,
        r#""z.right.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[2,10]},"#,
        r#""z.left.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[10,18]},"#,
        r#""z.left.bias":{"dtype":"F32","shape":[2],"data_offsets":[18,26]}}"#
    );
    assert_eq!(text.trim_end_matches(' '), expected);
}

/// A model of two layers, and a sink in which the first is replaced at rank 1.
fn begun(place: &Place) -> (Box<dyn LayerSource>, Box<dyn calabi_api::LayerSink>) {
    let model = [Tensor::counting("a.weight", DType::F16, &[3, 2]), Tensor::counting("b.weight", DType::F16, &[3, 2])];
    let source = open(&place.write("in.safetensors", &reference(&model))).unwrap();
    let wanted = [Replacement { layer: layer(&*source, "a"), rank: Rank::ONE, bias: false }];
    let sink = source.create(&place.path("out.safetensors"), &wanted, &WriteOptions::default()).unwrap();
    (source, sink)
}

fn misuse(result: Result<impl Sized, FormatError>) -> String {
    match result.err().expect("it should be refused") {
        FormatError::Misuse(problem) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn factors_must_be_as_declared() {
    let place = Place::new();
    let (source, mut sink) = begun(&place);
    let (a, b) = (layer(&*source, "a"), layer(&*source, "b"));
    assert!(misuse(sink.write(b, &factors(b, 1, false, 0))).contains("not declared"));
    assert!(misuse(sink.write(a, &factors(a, 2, false, 0))).contains("declared was"));
    assert!(misuse(sink.write(a, &factors(a, 1, true, 0))).contains("a bias that was not declared"));
    sink.write(a, &factors(a, 1, false, 0)).unwrap();
    assert!(misuse(sink.write(a, &factors(a, 1, false, 0))).contains("written before"));
    assert!(sink.finish().is_ok());
}

#[test]
fn factors_that_were_declared_must_come() {
    let (_, sink) = begun(&Place::new());
    assert_eq!(misuse(sink.finish()), "the factors of a were not written");
}

#[test]
fn factors_beyond_the_type_are_refused() {
    let place = Place::new();
    let (source, mut sink) = begun(&place);
    let a = layer(&*source, "a");
    let mut given = factors(a, 1, false, 0);
    given.left[[2, 0]] = 70000.0;
    let error = sink.write(a, &given).unwrap_err();
    assert!(matches!(error, FormatError::Limit { .. }) && !error.refuses_input(), "{error}");
    assert!(error.to_string().contains("layer a: a factor has a number that F16 cannot hold"), "{error}");
}

#[test]
fn layers_are_declared_once_at_a_rank_they_can_have() {
    let place = Place::new();
    let (source, _) = begun(&place);
    let a = Replacement { layer: layer(&*source, "a"), rank: Rank::ONE, bias: false };
    let create = |replaced: &[Replacement<'_>]| source.create(&place.path("o"), replaced, &WriteOptions::default());
    assert_eq!(misuse(create(&[a, a])), "a is declared twice");
    let beyond = Replacement { rank: Rank::new(3).unwrap(), ..a };
    assert_eq!(misuse(create(&[beyond])), "a is 3x2: rank 3 is more than it can have");
    assert!(!place.path("o").exists());
}

#[test]
fn what_is_there_is_not_overwritten() {
    let place = Place::new();
    let (source, _) = begun(&place);
    let taken = place.write("taken", b"precious");
    let error = source.create(&taken, &[], &WriteOptions::default()).err().unwrap();
    assert!(matches!(error, FormatError::Io { action: "create", .. }), "{error:?}");
    assert_eq!(fs::read(taken).unwrap(), b"precious");
}
