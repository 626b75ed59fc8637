//! External data: read from anywhere in the model's folder and nowhere else, written as one file.

use std::fs;
use std::os::unix::fs::symlink;

use calabi_api::DType;
use calabi_api::ndarray::Array2;
use prost::Message;
use tempfile::TempDir;

use crate::schema::{Entry, Model, Tensor};
use crate::support::{Case, counting, entries, factors, layer, node, raw, small};

/// A small model with its weight in `weights.bin`, behind an odd byte.
fn outside() -> (TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights.bin"), [7]).unwrap();
    let mut model = small();
    let weight = model.main().initializers.remove(0);
    model.main().initializers.push(weight.external(folder.path(), "weights.bin"));
    (folder, model)
}

/// The weight of a small model, outputs by inputs.
fn counted() -> Array2<f32> {
    Array2::from_shape_fn((3, 4), |(i, j)| (3 * j + i) as f32 - 3.0)
}

fn case((folder, model): (TempDir, Model)) -> Case {
    Case::inside(folder, &model.encode_to_vec())
}

#[test]
fn totals_count_the_files_of_external_data() {
    let case = case(outside());
    let totals = case.open().totals();
    assert_eq!(totals.cost.bytes, case.bytes().len() as u64 + 49);
    assert_eq!(totals.files.len(), 2);
}

#[test]
fn offset_and_length_may_be_left_out() {
    let (folder, mut model) = outside();
    fs::write(folder.path().join("weights.bin"), model.main().initializers[0].bytes(folder.path())).unwrap();
    model.main().initializers[0].external.retain(|entry| entry.key == "location");
    let case = case((folder, model));
    let source = case.open();
    let weight = source.read(layer(&*source, "linear")).unwrap();
    assert_eq!(weight, counted());
}

/// Tensors outside by name and bytes, of a model in a folder.
fn contents(model: &Model, case: &Case) -> Vec<(String, Vec<u8>)> {
    let tensors = model.graph.as_ref().unwrap().initializers.iter();
    tensors.map(|tensor| (tensor.name.clone(), tensor.bytes(case.folder.path()))).collect()
}

#[test]
fn what_was_outside_moves_to_one_new_file() {
    let (folder, mut model) = outside();
    model.main().initializers.push(counting("second", &[2, 5]).external(folder.path(), "more.bin"));
    model.main().initializers.push(counting("inside", &[3]));
    let mut tied = model.main().initializers[1].clone();
    tied.name = "tied".into();
    tied.external.extend(entries(&[("checksum", "of the old file")]));
    tied.unknown = "kept".into();
    model.main().initializers.push(tied);
    let constant = counting("", &[2, 2]).external(folder.path(), "more.bin");
    model.main().nodes.push(node("Constant", &[], "c").tensor("value", constant));
    let case = case((folder, model.clone()));
    let (written, result) = case.rewrite(&[]);
    assert_eq!(contents(&written, &case), contents(&model, &case));
    let attribute = |model: &Model| {
        let graph = model.graph.clone().unwrap();
        graph.nodes[1].attributes[0].tensor.clone().unwrap()
    };
    assert_eq!(attribute(&written).bytes(case.folder.path()), attribute(&model).bytes(case.folder.path()));

    let data = case.folder.path().join("small.onnx.data");
    assert_eq!(result.paths, [data.clone(), case.output()]);
    let sizes = [&data, &case.output()].map(|path| fs::metadata(path).unwrap().len());
    assert_eq!(result.cost.bytes, sizes.iter().sum::<u64>());
    let tensors = &written.graph.as_ref().unwrap().initializers;
    assert!([&tensors[0], &tensors[1], &tensors[3]].iter().all(|t| t.entry("location") == Some("small.onnx.data")));
    assert_eq!(tensors[1].entry("offset"), tensors[3].entry("offset"), "the same bytes are written once");
    assert_eq!((tensors[3].unknown.as_str(), tensors[3].entry("checksum")), ("kept", None));
    assert_eq!(tensors[2], counting("inside", &[3]));

    // Apart from the references nothing has changed.
    let mut undone = written.clone();
    for (new, old) in undone.main().initializers.iter_mut().zip(&model.graph.as_ref().unwrap().initializers) {
        new.external.clone_from(&old.external);
    }
    undone.main().nodes.clone_from(&model.graph.as_ref().unwrap().nodes);
    assert_eq!(undone, model);
}

#[test]
fn factors_of_a_weight_outside_are_outside() {
    let case = case(outside());
    let factors = factors(3, 4, 2);
    let (written, _) = case.rewrite(&[("linear", factors.clone())]);
    let [right, left] = written.graph.as_ref().unwrap().initializers.as_slice() else { panic!("two factors") };
    assert!(right.raw.is_none() && left.raw.is_none());
    let expected = [factors.right.reversed_axes(), factors.left.reversed_axes()];
    for (tensor, factor) in [right, left].iter().zip(expected) {
        let bytes = tensor.bytes(case.folder.path());
        assert!(DType::F32.decode(&bytes).eq(factor.iter().copied()));
    }
}

/// The refusal of a small model whose weight's references are these.
fn refusal(pairs: &[(&str, &str)]) -> String {
    let (folder, mut model) = outside();
    model.main().initializers[0].external = entries(pairs);
    case((folder, model)).refusal()
}

#[test]
fn references_that_make_no_sense_are_refused() {
    let table: [(&[(&str, &str)], &str); 14] = [
        (&[("location", "../weights.bin")], "not a path inside"),
        (&[("location", "a/../../weights.bin")], "not a path inside"),
        (&[("location", "/etc/passwd")], "not a path inside"),
        (&[("location", "")], "not a path inside"),
        (&[("location", "a\0b")], "not a path inside"),
        (&[("location", "missing.bin")], "cannot be found"),
        (&[("location", ".")], "not a regular file"),
        (&[("offset", "0")], "no location"),
        (&[("location", "weights.bin"), ("offset", "2")], "pass the end"),
        (&[("location", "weights.bin"), ("offset", "18446744073709551615")], "pass the end"),
        (&[("location", "weights.bin"), ("offset", "-1")], "not a number"),
        (&[("location", "weights.bin"), ("length", "47")], "takes 48"),
        (&[("location", "weights.bin"), ("location", "weights.bin")], "two keys"),
        (&[("location", "weights.bin"), ("__class__", "x")], "the key __class__"),
    ];
    for (pairs, part) in table {
        let message = refusal(pairs);
        assert!(message.contains(part) && message.contains("tensor w"), "{message}");
    }
}

#[test]
fn files_that_are_not_the_models_own_are_refused() {
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, [0; 64]).unwrap();

    let (folder, model) = outside();
    fs::remove_file(folder.path().join("weights.bin")).unwrap();
    symlink(&secret, folder.path().join("weights.bin")).unwrap();
    assert!(case((folder, model)).refusal().contains("link out of the model's folder"));

    let (folder, mut model) = outside();
    symlink(elsewhere.path(), folder.path().join("folder")).unwrap();
    model.main().initializers[0].external = entries(&[("location", "folder/secret")]);
    assert!(case((folder, model)).refusal().contains("link out of the model's folder"));

    let (folder, model) = outside();
    fs::hard_link(folder.path().join("weights.bin"), folder.path().join("again")).unwrap();
    assert!(case((folder, model)).refusal().contains("hard link"));

    let (folder, model) = outside();
    fs::remove_file(folder.path().join("weights.bin")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("weights.bin")).status().unwrap();
    assert!(made.success());
    assert!(case((folder, model)).refusal().contains("not a regular file"));
}

#[test]
fn a_model_that_is_a_link_finds_its_data_as_caches_keep_it() {
    let (cache, model) = outside();
    let blobs = cache.path().join("blobs");
    let snapshot = cache.path().join("snapshots/1");
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::rename(cache.path().join("weights.bin"), blobs.join("b2")).unwrap();
    fs::write(blobs.join("b1"), model.encode_to_vec()).unwrap();
    symlink("../../blobs/b1", snapshot.join("model.onnx")).unwrap();
    symlink("../../blobs/b2", snapshot.join("weights.bin")).unwrap();
    let case = Case { path: snapshot.join("model.onnx"), folder: cache };
    let source = case.open();
    assert_eq!(source.read(layer(&*source, "linear")).unwrap(), counted());
}

#[test]
fn a_link_inside_the_folder_is_followed() {
    let (folder, model) = outside();
    fs::rename(folder.path().join("weights.bin"), folder.path().join("real.bin")).unwrap();
    symlink("real.bin", folder.path().join("weights.bin")).unwrap();
    assert_eq!(case((folder, model)).open().layers().len(), 1);
}

#[test]
fn strings_and_two_places_are_refused() {
    let (folder, mut model) = outside();
    model.main().initializers[0].data_type = 8;
    assert!(case((folder, model)).refusal().contains("cannot have external data"));
    let (folder, mut model) = outside();
    model.main().initializers[0].raw = Some(vec![0; 48]);
    assert!(case((folder, model)).refusal().contains("two places"));
}

#[test]
fn an_empty_tensor_may_be_outside() {
    let (folder, mut model) = outside();
    let empty: Tensor = raw("empty", DType::F32, &[0, 4], []).external(folder.path(), "weights.bin");
    assert_eq!(empty.external[2], Entry { key: "length".into(), value: "0".into() });
    model.main().initializers.push(empty);
    let case = case((folder, model));
    case.rewrite(&[]);
    let again = Case { path: case.output(), folder: case.folder };
    assert_eq!(again.open().layers().len(), 1);
}
