//! Rewrites any bytes that are an ONNX model: with nothing replaced they come out as they were, and with every layer
//! factorized the result is a model again.
#![no_main]

use calabi_api::{Factors, LayerFormat, Rank, Replacement, WriteOptions};
use calabi_fuzz::Scratch;
use calabi_io::Onnx;
use libfuzzer_sys::fuzz_target;
use ndarray::Array2;

fuzz_target!(|bytes: &[u8]| {
    let scratch = Scratch::new(bytes);
    let format = Onnx::default();
    let Ok(source) = format.open(&scratch.model) else { return };
    let options = WriteOptions::default();
    if source.totals().files.len() == 1 {
        let same = source.create(&scratch.output, &[], &options).and_then(|sink| sink.finish());
        same.expect("a model that opens is written");
        assert!(std::fs::read(&scratch.output).expect("what was written") == bytes, "nothing was replaced");
        scratch.clear();
    }
    let replaced: Vec<_> =
        source.layers().iter().map(|layer| Replacement { layer, rank: Rank::ONE, bias: false }).collect();
    let mut sink = source.create(&scratch.output, &replaced, &options).expect("every layer can be replaced");
    for layer in source.layers() {
        let (m, n) = (layer.shape.rows(), layer.shape.cols());
        let factors = Factors { left: Array2::ones((m, 1)), right: Array2::ones((1, n)), bias: None };
        sink.write(layer, &factors).expect("factors as they were declared");
    }
    sink.finish().expect("all factors are written");
    let again = format.open(&scratch.output).expect("a model again");
    assert!(again.layers().len() + again.left_alone().len() >= source.layers().len());
});
