//! Moments do not depend on how rows arrive, and a file of them is believed only where it can be true.

use std::fs;

use calabi_api::{DType, Layer, LayerCost, Role, Shape, Statistics, Wiring};
use calabi_testing::matrices::{gaussian, rounded};
use ndarray::{Array2, Axis};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;

fn summed(rows: &Array2<f32>, pieces: &[usize]) -> Statistics {
    let mut moments = Moments::new(rows.ncols());
    let (mut rest, mut pieces) = (rows.view(), pieces.iter().cycle());
    while rest.nrows() > 0 {
        let (now, later) = rest.split_at(Axis(0), (*pieces.next().unwrap()).min(rest.nrows()));
        moments.add(now).unwrap();
        rest = later;
    }
    moments.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pieces_in_which_rows_come_change_no_bit(
        tokens in 1_usize..1500,
        n in 1_usize..12,
        pieces in prop::collection::vec(1_usize..700, 1..6),
        seed: u64,
    ) {
        let rows = rounded(&gaussian(tokens, n, seed));
        prop_assert_eq!(summed(&rows, &pieces), summed(&rows, &[tokens]));
    }

    /// Mean and count exactly, second moments to the rounding of products in `f32`, whatever the means.
    #[test]
    fn moments_are_those_of_the_tokens(tokens in 1_usize..1200, n in 1_usize..12, large: bool, seed: u64) {
        let by = if large { 1000.0 } else { 1.0 };
        let means = gaussian(1, n, seed ^ 1).row(0).mapv(|v| by * v);
        let rows = rounded(&(gaussian(tokens, n, seed) + &means));
        let x = rows.mapv(f64::from);
        let found = summed(&rows, &[100]);
        let mean = x.mean_axis(Axis(0)).unwrap();
        prop_assert_eq!(found.tokens, tokens as u64);
        let largest = mean.iter().fold(1.0, |max: f64, v| max.max(v.abs()));
        prop_assert!((&found.mean - &mean).iter().all(|v| v.abs() < 1e-13 * largest));
        let centred = &x - &mean;
        let (wanted, spread) = (centred.t().dot(&centred) / tokens as f64, centred.var_axis(Axis(0), 0.0));
        for ((i, j), wanted) in wanted.indexed_iter() {
            let off = (found.gram[(i, j)] - found.mean[i] * found.mean[j] - wanted).abs();
            // The bound of sums in f32; the first block's mean may miss the mean of all.
            let sums = moments::BLOCK as f64 * f64::from(f32::EPSILON) / 2.0;
            let scale = 2.0 * sums * (spread[i] * spread[j]).sqrt() + 1e-14 * largest * largest;
            prop_assert!(off <= scale, "{i} {j}: {off:e} of {scale:e}");
            prop_assert_eq!(found.gram[(i, j)].to_bits(), found.gram[(j, i)].to_bits());
        }
    }
}

#[test]
fn rows_that_cannot_be_are_refused_whole() {
    let mut moments = Moments::new(3);
    let rows = rounded(&gaussian(700, 3, 1));
    moments.add(rows.view()).unwrap();
    let mut bad = rows.clone();
    bad[(600, 2)] = f32::INFINITY;
    let error = moments.add(bad.view()).unwrap_err();
    assert_eq!(error, MomentsError::NonFinite { token: 1300, feature: 2, value: f32::INFINITY });
    assert_eq!(moments.add(rows.t()).unwrap_err(), MomentsError::Width { found: 700, wanted: 3 });
    assert_eq!(moments.finish().unwrap(), summed(&rows, &[700]));
    assert_eq!(Moments::new(3).finish().unwrap_err(), MomentsError::NoTokens);
    let mut huge = Moments::new(1);
    huge.add(Array2::from_shape_fn((2, 1), |(i, _)| if i == 0 { 3e38 } else { -3e38 }).view()).unwrap();
    assert_eq!(huge.finish().unwrap_err(), MomentsError::Overflow);
    let mut pairs = CrossMoments::new(3);
    assert!(matches!(
        pairs.add(rows.view(), rows.slice_axis(Axis(0), (..3).into())),
        Err(MomentsError::Unpaired { original: 700, compressed: 3 })
    ));
}

fn layer(name: &str, m: usize, n: usize) -> Layer {
    let shape = Shape::new(m, n).unwrap();
    Layer {
        name: name.to_owned(),
        shape,
        dtype: DType::F32,
        role: Role::Linear,
        cost: LayerCost::new(shape, DType::F32, DType::F32),
        wiring: Wiring::default(),
        bias: false,
        key: 0,
    }
}

fn header() -> StatisticsHeader {
    let names = |pairs: &[(&str, &str)]| pairs.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
    StatisticsHeader {
        layers: names(&[("q", "attention"), ("k", "attention"), ("down", "mlp \"x\"")]),
        provenance: names(&[("model", "m.safetensors"), ("samples", "3")]),
    }
}

fn inputs() -> Vec<(String, usize)> {
    vec![("attention".to_owned(), 5), ("mlp \"x\"".to_owned(), 7)]
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("statistics.safetensors");
    let [attention, mlp] =
        [(900, 5), (20, 7)].map(|(tokens, n)| summed(&rounded(&(gaussian(tokens, n, 3) + 1000.0)), &[tokens]));
    let mut writer = StatisticsWriter::create(&path, &header(), &inputs()).unwrap();
    writer.write("mlp \"x\"", &mlp).unwrap();
    assert!(writer.write("mlp \"x\"", &mlp).is_err(), "twice");
    assert!(writer.write("attention", &mlp).is_err(), "of another width");
    writer.write("attention", &attention).unwrap();
    assert!(!path.exists(), "whole or not at all");
    writer.finish(false).unwrap();

    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("covariance.attention").unwrap().shape(), [5, 5]);
    let file = StatisticsFile::open(&path).unwrap();
    assert_eq!(file.header(), &header());
    for (name, wanted) in [("q", &attention), ("k", &attention), ("down", &mlp)] {
        let found = file.read(&layer(name, 4, wanted.mean.len())).unwrap();
        assert_eq!((found.tokens, &found.mean), (wanted.tokens, &wanted.mean));
        for ((i, j), &v) in found.gram.indexed_iter() {
            let (mean, deviation) = (wanted.mean[i] * wanted.mean[j], 1.0);
            assert!((v - wanted.gram[(i, j)]).abs() < 1e-6 * deviation + 1e-15 * mean, "the variance keeps its digits");
        }
    }
    let mut again = StatisticsWriter::create(&path, &header(), &inputs()).unwrap();
    again.write("attention", &attention).unwrap();
    assert!(again.finish(true).unwrap_err().to_string().contains("mlp"), "one is missing");
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

/// A file as a script writes it, with the library of safetensors.
fn scripted(gram: &[f64], mean: &[f32], tokens: i64, format: &str) -> Vec<u8> {
    let bytes = |v: &[f64]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let (gram, tokens) = (bytes(gram), tokens.to_le_bytes());
    let mean: Vec<u8> = mean.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensors = [
        ("gram.x", TensorView::new(Dtype::F64, vec![2, 2], &gram).unwrap()),
        ("mean.x", TensorView::new(Dtype::F32, vec![2], &mean).unwrap()),
        ("tokens.x", TensorView::new(Dtype::I64, vec![1], &tokens).unwrap()),
    ];
    let metadata = [("format", format), ("version", "1"), ("layers", r#"{"a": "x", "b": "y"}"#)];
    let metadata = metadata.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    safetensors::serialize(tensors, Some(metadata)).unwrap()
}

fn read(bytes: &[u8], layer: &Layer) -> Result<Statistics, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.safetensors");
    fs::write(&path, bytes).unwrap();
    let with_help = |error: calabi_api::FormatError| {
        assert!(error.help().is_some(), "{error} names no way out");
        assert!(error.to_string().contains("s.safetensors"), "{error} names no file");
        error.to_string()
    };
    StatisticsFile::open(&path).map_err(with_help)?.read(layer).map_err(with_help)
}

#[test]
fn a_script_writes_it_and_every_lie_is_found() {
    const GRAM: [f64; 4] = [2.0, 0.5, 0.5, 1.0];
    let a = layer("a", 3, 2);
    let good = scripted(&GRAM, &[1.0, 0.0], 9, "calabi-statistics");
    let found = read(&good, &a).unwrap();
    assert_eq!((found.gram.as_slice().unwrap(), found.mean.to_vec(), found.tokens), (&GRAM[..], vec![1.0, 0.0], 9));

    let refused = |bytes: &[u8], layer: &Layer, word: &str| {
        let problem = read(bytes, layer).unwrap_err();
        assert!(problem.contains(word), "{problem} does not speak of {word}");
    };
    refused(&good, &layer("c", 3, 2), "layer c");
    refused(&good, &layer("b", 3, 2), "missing");
    refused(&good, &layer("a", 3, 4), "shape");
    refused(&good[..good.len() - 1], &a, "bytes");
    refused(&good[..5], &a, "bytes");
    refused(&scripted(&GRAM, &[1.0, 0.0], 9, "pt"), &a, "format");
    refused(&scripted(&GRAM, &[1.0, 0.0], 0, "calabi-statistics"), &a, "less than 1");
    refused(&scripted(&[2.0, 0.5, 0.6, 1.0], &[1.0, 0.0], 9, "calabi-statistics"), &a, "symmetric");
    refused(&scripted(&[-2.0, 0.5, 0.5, 1.0], &[1.0, 0.0], 9, "calabi-statistics"), &a, "diagonal");
    refused(&scripted(&[f64::NAN, 0.5, 0.5, 1.0], &[1.0, 0.0], 9, "calabi-statistics"), &a, "NaN");
    refused(&scripted(&GRAM, &[f32::INFINITY, 0.0], 9, "calabi-statistics"), &a, "inf");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_break_the_reader(at in 0_usize..400, byte: u8, cut in 0_usize..400) {
        let mut bytes = scripted(&[2.0, 0.5, 0.5, 1.0], &[1.0, 0.0], 9, "calabi-statistics");
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % 7);
        let _ = read(&bytes, &layer("a", 3, 2));
    }
}
