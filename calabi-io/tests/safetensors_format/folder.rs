//! Folders of the Hugging Face kind: shards, index, configuration, companions.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use calabi_api::{DType, FormatError, LayerFormat, WriteOptions};
use calabi_io::SafeTensors;
use serde_json::{Value, json};

use super::support::{Place, Tensor, encoded, factors, layer, open, reference, refused, tensors, write};

const F32: DType = DType::F32;
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn a() -> Tensor {
    Tensor::counting("a.weight", F32, &[6, 8])
}

fn b() -> Tensor {
    Tensor::counting("b.weight", F32, &[8, 6])
}

fn bias() -> Tensor {
    Tensor::counting("a.bias", F32, &[6])
}

/// A folder `f` of two shards: `a.weight`, and `b.weight` with `a.bias`.
fn sharded(place: &Place) -> PathBuf {
    place.write(&format!("f/{ONE}"), &reference(&[a()]));
    place.write(&format!("f/{TWO}"), &reference(&[b(), bias()]));
    indexed(place, &json!({ "a.weight": ONE, "b.weight": TWO, "a.bias": TWO }));
    place.path("f")
}

fn indexed(place: &Place, map: &Value) {
    let index = json!({ "metadata": { "total_size": 408, "note": "kept" }, "weight_map": map });
    place.write(&format!("f/{INDEX}"), index.to_string().as_bytes());
}

fn refuse(path: &Path) -> (String, String) {
    refused(&open(path).expect_err("the folder should be refused"))
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// All tensors of the files with weights in a folder.
fn all(folder: &Path) -> BTreeMap<String, Tensor> {
    let weights = files(folder).into_iter().filter(|name| name.ends_with(".safetensors"));
    weights.flat_map(|name| tensors(&folder.join(name))).collect()
}

fn index(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join(INDEX)).unwrap()).unwrap()
}

#[test]
fn shards_are_one_model() {
    let place = Place::new();
    let source = open(&sharded(&place)).unwrap();
    assert_eq!(source.layers().iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let totals = source.totals();
    assert_eq!(totals.cost.parameters, 48 + 48 + 6);
    let size = |name| fs::metadata(place.path("f").join(name)).unwrap().len();
    assert_eq!(totals.cost.bytes, size(ONE) + size(TWO));
    assert_eq!(totals.files, [place.path("f").join(ONE), place.path("f").join(TWO)]);
    assert_eq!(source.read(layer(&*source, "b")).unwrap()[[7, 5]].to_bits(), (47.0_f32 - 100.0).to_bits());
}

#[test]
fn a_copy_is_the_same_folder() {
    let place = Place::new();
    let folder = sharded(&place);
    place.write("f/config.json", b"{ \"model_type\" :\"llama\"}");
    place.write("f/tokenizer.json", b"{}");
    let output = place.path("out");
    let written = write(&*open(&folder).unwrap(), &output, &[], None);
    assert_eq!(written.paths, [output.as_path()]);
    assert_eq!(files(&output), files(&folder));
    for name in files(&folder) {
        assert_eq!(fs::read(output.join(&name)).unwrap(), fs::read(folder.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn shards_stay_where_they_are() {
    let place = Place::new();
    let source = open(&sharded(&place)).unwrap();
    let output = place.path("out");
    let written = write(&*source, &output, &[("a", 2, false)], None);
    assert_eq!(files(&output), ["config.json", ONE, TWO, INDEX, "modeling_calabi.py"]);
    assert_eq!(tensors(&output.join(ONE)).keys().collect::<Vec<_>>(), ["a.left.weight", "a.right.weight"]);
    assert_eq!(tensors(&output.join(TWO))["a.left.bias"].bytes, bias().bytes);
    let map = json!({ "a.left.weight": ONE, "a.right.weight": ONE, "a.left.bias": TWO, "b.weight": TWO });
    let size = 4 * (2 * (6 + 8) + 6 + 48);
    assert_eq!(index(&output), json!({ "metadata": { "total_size": size }, "weight_map": map }));
    assert_eq!(open(&output).unwrap().totals().cost, written.cost);
}

#[test]
fn a_bias_is_added_in_its_own_shard() {
    let place = Place::new();
    let source = open(&sharded(&place)).unwrap();
    let output = place.path("out");
    write(&*source, &output, &[("a", 2, true)], None);
    let added = factors(layer(&*source, "a"), 2, true, 0).bias.unwrap();
    let sums: Vec<f32> = added.iter().enumerate().map(|(i, new)| new + (i as f32 - 100.0)).collect();
    assert_eq!(tensors(&output.join(TWO))["a.left.bias"].bytes, encoded(F32, &sums));
    assert_eq!(tensors(&output.join(ONE)).len(), 2);
    assert_eq!(open(&output).unwrap().totals().cost.parameters, 2 * (6 + 8) + 6 + 48);
}

#[test]
fn shards_of_a_chosen_size() {
    let place = Place::new();
    let source = open(&sharded(&place)).unwrap();
    for limit in [0, 1, 300, 400, 600, 700] {
        let output = place.path(&format!("out{limit}"));
        let written = write(&*source, &output, &[("b", 2, true)], Some(limit));
        let weights: Vec<_> = files(&output).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
        let count = weights.len();
        for (i, name) in weights.iter().enumerate() {
            let path = output.join(name);
            assert_eq!(*name, format!("model-{:05}-of-{count:05}.safetensors", i + 1));
            let alone = tensors(&path).len() == 1;
            assert!(fs::metadata(&path).unwrap().len() <= limit || alone, "{name} at {limit}");
        }
        assert_eq!(all(&output).len(), 5);
        assert_eq!(all(&output)["a.weight"].bytes, a().bytes);
        assert_eq!(open(&output).unwrap().totals().cost, written.cost, "its index is true");
        assert!(limit > 1 || count == 5, "{count} shards at {limit}");
    }
}

#[test]
fn shards_that_fit_become_one_file_without_an_index() {
    let place = Place::new();
    let output = place.path("out");
    write(&*open(&sharded(&place)).unwrap(), &output, &[], Some(1 << 20));
    assert_eq!(files(&output), ["model.safetensors"]);
    assert_eq!(all(&output).len(), 3);
}

#[test]
fn a_single_file_cannot_become_shards() {
    let place = Place::new();
    let source = open(&place.write("in.safetensors", &reference(&[a(), b()]))).unwrap();
    let mut options = WriteOptions::default();
    options.shard_size = Some(300);
    let error = source.create(&place.path("out"), &[], &options).err().unwrap();
    assert!(matches!(&error, FormatError::Limit { problem, .. } if problem.contains("2 shards")), "{error}");
    options.shard_size = Some(3000);
    assert!(source.create(&place.path("out"), &[], &options).is_ok());
}

#[test]
fn a_missing_shard_is_named() {
    let place = Place::new();
    let folder = sharded(&place);
    fs::remove_file(folder.join(TWO)).unwrap();
    assert_eq!(refuse(&folder).0, format!("the shard {TWO}, which it names, is missing"));
}

#[test]
fn a_tensor_must_stand_where_the_index_says() {
    let place = Place::new();
    let folder = sharded(&place);
    indexed(&place, &json!({ "a.weight": ONE, "b.weight": ONE, "a.bias": TWO }));
    assert_eq!(refuse(&folder).0, format!("tensor b.weight stands here, but {INDEX} says {ONE}"));
    indexed(&place, &json!({ "a.weight": ONE, "b.weight": TWO }));
    assert_eq!(refuse(&folder).0, format!("tensor a.bias stands here, but {INDEX} does not list it"));
    indexed(&place, &json!({ "a.weight": ONE, "b.weight": TWO, "a.bias": TWO, "c": ONE }));
    assert_eq!(refuse(&folder).0, format!("it lists tensor c in {ONE}, which does not hold it"));
}

#[test]
fn a_tensor_must_not_stand_in_two_shards() {
    let place = Place::new();
    let folder = sharded(&place);
    place.write(&format!("f/{TWO}"), &reference(&[b(), bias(), a()]));
    assert_eq!(refuse(&folder).0, "tensor a.weight stands here, and in an earlier shard too");
}

#[test]
fn the_index_never_leads_out_of_the_folder() {
    let place = Place::new();
    let folder = sharded(&place);
    place.write("other.safetensors", &reference(&[a()]));
    let absolute = place.path("other.safetensors").display().to_string();
    for shard in
        ["../other.safetensors", "./../other.safetensors", "sub/x.safetensors", "..", "", ".", "x.bin", &absolute]
    {
        indexed(&place, &json!({ "a.weight": shard }));
        let (problem, _) = refuse(&folder);
        assert!(problem.ends_with("is not the name of a .safetensors file in this folder"), "{problem}");
    }
}

#[test]
fn an_index_that_is_none_is_refused() {
    let place = Place::new();
    let folder = sharded(&place);
    for (text, wrong) in [
        ("", "EOF"),
        ("[]", "invalid type"),
        ("{}", "it has no weight_map"),
        (r#"{"weight_map":{}}"#, "its weight_map lists no tensor"),
        (r#"{"weight_map":{"a":1}}"#, "invalid type"),
        (r#"{"weight_map":{"a":"m.safetensors","a":"m.safetensors"}}"#, "weight_map: the key a stands there twice"),
    ] {
        place.write(&format!("f/{INDEX}"), text.as_bytes());
        let (problem, _) = refuse(&folder);
        assert!(problem.starts_with(wrong), "{text}: {problem}");
    }
}

#[test]
fn a_model_that_is_there_twice_is_refused() {
    let place = Place::new();
    let folder = sharded(&place);
    place.write("f/model.safetensors", &reference(&[a()]));
    assert!(refuse(&folder).0.contains("which of them is the model?"));
    indexed(&place, &json!({ "a.weight": "model.safetensors" }));
    assert_eq!(open(&folder).unwrap().layers().len(), 1);
}

#[test]
fn shards_that_contradict_each_other_stay_apart() {
    let place = Place::new();
    let text = |format: &str| format!(r#"{{"__metadata__":{{"format":"{format}"}},"#);
    let tensor = |name: &str| format!(r#""{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
    place.write(&format!("f/{ONE}"), &super::support::file(&(text("pt") + &tensor("a")), 1));
    place.write(&format!("f/{TWO}"), &super::support::file(&(text("tf") + &tensor("b")), 1));
    indexed(&place, &json!({ "a": ONE, "b": TWO }));
    let source = open(&place.path("f")).unwrap();
    write(&*source, &place.path("kept"), &[], None);
    let mut options = WriteOptions::default();
    options.shard_size = Some(1 << 20);
    let error = source.create(&place.path("out"), &[], &options).err().unwrap();
    assert_eq!(refused(&error).0, "its __metadata__ contradicts another shard's on format");
}

#[test]
fn other_checkpoints_name_their_conversion() {
    let place = Place::new();
    for (folder, name, way_out) in [
        ("pytorch", "pytorch_model.bin", "safe_serialization=True"),
        ("shards", "pytorch_model-00001-of-00002.bin", "safe_serialization=True"),
        ("gguf", "model-q4.gguf", "gguf_file"),
    ] {
        place.write(&format!("{folder}/config.json"), b"{}");
        place.write(&format!("{folder}/{name}"), b"");
        let path = place.path(folder);
        assert!(SafeTensors {}.detect(&path), "{folder}");
        let (problem, help) = refuse(&path);
        assert!(problem.contains(name) && help.contains(way_out), "{problem}: {help}");
    }
}

#[test]
fn folders_without_a_model_say_so() {
    let place = Place::new();
    place.write("empty/readme.md", b"");
    assert!(!SafeTensors {}.detect(&place.path("empty")));
    assert!(refuse(&place.path("empty")).0.ends_with("no weights in it"));
    place.write("adapter/adapter_model.safetensors", &reference(&[a()]));
    assert!(refuse(&place.path("adapter")).1.contains("name the file itself"));
}

#[test]
fn companions_are_copied_and_other_weights_are_not() {
    let place = Place::new();
    let folder = sharded(&place);
    let kept = ["tokenizer.json", "tokenizer.model", "vocab.txt", ".gitattributes", "modeling_x.py", "no_ending"];
    let left = [
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model-q4.gguf",
        "model.onnx",
        "tf_model.h5",
        "flax_model.msgpack",
        "training.pt",
        "x.pth",
        "consolidated.safetensors",
        "model.fp16.safetensors.index.json",
        "onnx/model.onnx",
        ".cache/x",
    ];
    for name in kept.iter().chain(&left) {
        place.write(&format!("f/{name}"), name.as_bytes());
    }
    let output = place.path("out");
    write(&*open(&folder).unwrap(), &output, &[], None);
    let mut expected: Vec<_> = kept.iter().copied().chain([ONE, TWO, INDEX]).collect();
    expected.sort_unstable();
    assert_eq!(files(&output), expected);
    for name in kept {
        assert_eq!(fs::read(output.join(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn links_are_read_through() {
    let place = Place::new();
    place.write("blobs/1", &reference(&[a()]));
    place.write("blobs/2", b"words");
    fs::create_dir_all(place.path("snapshots/x")).unwrap();
    let snapshot = place.path("snapshots/x");
    symlink("../../blobs/1", snapshot.join("model.safetensors")).unwrap();
    symlink("../../blobs/2", snapshot.join("vocab.txt")).unwrap();
    let output = place.path("out");
    write(&*open(&snapshot).unwrap(), &output, &[], None);
    for name in ["model.safetensors", "vocab.txt"] {
        assert!(fs::symlink_metadata(output.join(name)).unwrap().is_file(), "{name}");
        assert_eq!(fs::read(output.join(name)).unwrap(), fs::read(snapshot.join(name)).unwrap());
    }
}

#[test]
fn a_link_that_leads_nowhere_is_refused_before_any_work() {
    let place = Place::new();
    let folder = sharded(&place);
    symlink("nowhere", folder.join("vocab.txt")).unwrap();
    assert_eq!(refuse(&folder), ("a link that leads nowhere".into(), "remove it".into()));
}

#[test]
fn the_same_model_makes_the_same_bytes() {
    let place = Place::new();
    let source = open(&sharded(&place)).unwrap();
    let wanted = [("a", 2, true), ("b", 1, false)];
    let (one, two) = (place.path("one"), place.path("two"));
    write(&*source, &one, &wanted, Some(400));
    write(&*source, &two, &wanted, Some(400));
    assert_eq!(files(&one), files(&two));
    for name in files(&one) {
        assert_eq!(fs::read(one.join(&name)).unwrap(), fs::read(two.join(&name)).unwrap(), "{name}");
    }
}
