//! Whatever the bytes: an answer, never a panic.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::support::{Place, Tensor, file, open, reference};
use calabi_api::DType;

static MODEL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let tensors = [
        Tensor::counting("h.0.attn.c_attn.weight", DType::F32, &[2, 6]),
        Tensor::counting("a.weight", DType::BF16, &[3, 2]),
        Tensor::counting("a.bias", DType::BF16, &[3]),
    ];
    reference(&tensors)
});

/// Opens a file of these bytes, reads all its layers, and says whether that was possible.
fn survives(bytes: &[u8]) -> bool {
    let place = Place::new();
    let path = place.write("m.safetensors", bytes);
    open(&path).is_ok_and(|source| source.layers().iter().all(|layer| source.read(layer).is_ok()))
}

#[test]
fn the_undamaged_model_is_read() {
    assert!(survives(&MODEL));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!survives(&bytes));
    }

    #[test]
    fn random_headers_never_panic(header in "\\{[\\{\\}\\[\\]\":,0-9a-zA-Z_\\\\. ]{0,120}\\}", data in 0_usize..64) {
        survives(&file(&header, data));
    }

    #[test]
    fn mutated_models_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = MODEL.clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        survives(&bytes);
    }

    #[test]
    fn mutated_numbers_never_panic(
        dims in prop::collection::vec(prop_oneof![0..5_u64, any::<u64>()], 0..4),
        start in prop_oneof![0..30_u64, any::<u64>()],
        end in prop_oneof![0..30_u64, any::<u64>()],
        dtype in prop::sample::select(vec!["F64", "F32", "F16", "U8", "F4", "F6_E2M3"]),
    ) {
        let header = format!(r#"{{"x.weight":{{"dtype":"{dtype}","shape":{dims:?},"data_offsets":[{start},{end}]}}}}"#);
        if survives(&file(&header, 24)) {
            prop_assert_eq!((start, end), (0, 24));
            prop_assert!(dims.iter().product::<u64>() > 0);
        }
    }
}
