//! Rewrites any bytes that are an ONNX model: with nothing replaced they come out as they were, and with every layer
//! factorized, as floating point and as integers, the result is a model again.
#![no_main]

use calabi_api::{Factors, FormatError, LayerFormat, LayerSink, LayerSource, Rank, Replacement, WriteOptions};
use calabi_fuzz::Scratch;
use calabi_io::Onnx;
use libfuzzer_sys::fuzz_target;
use ndarray::Array2;

fuzz_target!(|bytes: &[u8]| {
    let scratch = Scratch::new(bytes);
    let format = Onnx::default();
    let Ok(source) = format.open(&scratch.model) else { return };
    let mut options = WriteOptions::default();
    if source.totals().files.len() == 1 {
        let same = source.create(&scratch.output, &[], &options).and_then(|sink| sink.finish());
        same.expect("a model that opens is written");
        assert!(std::fs::read(&scratch.output).expect("what was written") == bytes, "nothing was replaced");
        scratch.clear();
    }
    let sink = create(&*source, &scratch, &options).expect("every layer can be replaced");
    check(&*source, sink, &scratch);
    options.requantise = true;
    scratch.clear();
    if let Ok(sink) = create(&*source, &scratch, &options) {
        check(&*source, sink, &scratch);
    }
});

/// Begins a model in which every layer is factorized.
fn create(
    source: &dyn LayerSource,
    scratch: &Scratch,
    options: &WriteOptions,
) -> Result<Box<dyn LayerSink>, FormatError> {
    let layers = source.layers().iter();
    let replaced: Vec<_> = layers.map(|layer| Replacement { layer, rank: Rank::ONE, bias: false }).collect();
    source.create(&scratch.output, &replaced, options)
}

/// Writes the factors of all layers; the result opens.
fn check(source: &dyn LayerSource, mut sink: Box<dyn LayerSink>, scratch: &Scratch) {
    for layer in source.layers() {
        let (m, n) = (layer.shape.rows(), layer.shape.cols());
        let factors = Factors { left: Array2::ones((m, 1)), right: Array2::ones((1, n)), bias: None };
        sink.write(layer, &factors).expect("factors as they were declared");
    }
    sink.finish().expect("all factors are written");
    let again = Onnx::default().open(&scratch.output).expect("a model again");
    assert!(again.layers().len() + again.left_alone().len() >= source.layers().len());
}
