//! To safetensors and back, and out of a checkpoint that calabi wrote.

use std::collections::HashMap;

use calabi_nn::LowRankLinear;
use calabi_nn::candle_core::{DType, Device, Tensor, safetensors};
use calabi_nn::candle_nn::VarBuilder;

use super::{layer, noise, values};

#[test]
fn what_is_saved_is_loaded_in_its_type() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let path = folder.path().join(dtype.as_str());
        let saved = layer(5, 2, 3, dtype);
        saved.save(&path, "block.up").unwrap();
        let loaded = LowRankLinear::load(&path, "block.up", &Device::Cpu).unwrap();
        assert_eq!(loaded.dtype(), dtype);
        assert_eq!(values(loaded.left()), values(saved.left()));
        assert_eq!(values(loaded.right()), values(saved.right()));
        assert_eq!(values(loaded.bias().unwrap()), values(saved.bias().unwrap()));
        let bytes = std::fs::read(&path).unwrap();
        let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
        let built = LowRankLinear::from_var_builder(&vb.pp("block.up")).unwrap();
        assert_eq!((built.dtype(), built.rank()), (DType::F32, saved.rank()));
    }
}

#[test]
fn what_is_missing_or_dense_or_damaged_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = HashMap::from([("up.weight".to_owned(), noise(&[3, 3], 1))]);
    safetensors::save(&tensors, &path).unwrap();
    let refused = |name: &str| LowRankLinear::load(&path, name, &Device::Cpu).unwrap_err().to_string();
    assert!(refused("up").contains("up: it is dense there"), "{}", refused("up"));
    assert!(refused("down").contains("holds no factors of down"), "{}", refused("down"));
    std::fs::write(&path, b"\xff\xff\xff\xff\xff\xff\xff\xff{}").unwrap();
    assert!(refused("up").contains("model.safetensors"), "{}", refused("up"));
    std::fs::remove_file(&path).unwrap();
    assert!(refused("up").contains("model.safetensors"), "{}", refused("up"));
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    assert!(LowRankLinear::from_var_builder(&vb.pp("up")).is_err());
}

#[test]
fn names_are_those_of_a_checkpoint() {
    let mut names: Vec<_> =
        layer(5, 2, 3, DType::F32).tensors("x").into_iter().map(|(n, t)| (n, t.dims().to_vec())).collect();
    names.sort();
    let wanted = [("x.left.bias", vec![5]), ("x.left.weight", vec![5, 2]), ("x.right.weight", vec![2, 3])];
    assert_eq!(names, wanted.map(|(name, dims)| (name.to_owned(), dims)));
}

#[test]
fn factors_of_another_shape_in_a_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors: HashMap<String, Tensor> =
        [("x.left.weight", [3, 2]), ("x.right.weight", [4, 5])].map(|(n, s)| (n.to_owned(), noise(&s, 1))).into();
    safetensors::save(&tensors, &path).unwrap();
    let message = LowRankLinear::load(&path, "x", &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("[3, 2] and [4, 5]"), "{message}");
}
