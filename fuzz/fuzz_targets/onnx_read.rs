//! Opens any bytes as an ONNX model, and reads every layer: refused or read, never a panic, an endless loop or much memory.
#![no_main]

use calabi_api::LayerFormat;
use calabi_fuzz::Scratch;
use calabi_io::Onnx;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let scratch = Scratch::new(bytes);
    let Ok(source) = Onnx::default().open(&scratch.model) else { return };
    for layer in source.layers() {
        if let Ok(weight) = source.read(layer) {
            assert_eq!(weight.dim(), (layer.shape.rows(), layer.shape.cols()));
        }
        _ = source.normalisation(layer);
    }
});
