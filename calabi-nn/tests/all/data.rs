//! Samples out of text and tensors.

use std::path::Path;

use crate::models::{array, file};
use calabi_api::{InputSpec, RunError, Samples, Tensor};
use calabi_nn::{DataOptions, Labelled, load_data, text_windows};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

/// Words `w0` to `w49` have the numbers 10 to 59; `closing` adds `[CLS]` and `[SEP]`, as encoders do.
fn tokenizer(closing: bool) -> String {
    let words: Vec<_> = (0..50).map(|i| format!("\"w{i}\": {}", i + 10)).collect();
    let piece = |kind: &str, id: &str| format!(r#"{{"{kind}": {{"id": "{id}", "type_id": 0}}}}"#);
    let single = [piece("SpecialToken", "[CLS]"), piece("Sequence", "A"), piece("SpecialToken", "[SEP]")].join(", ");
    let template = format!(
        r#"{{"type": "TemplateProcessing", "single": [{single}], "pair": [{}, {}],
            "special_tokens": {{"[CLS]": {{"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}},
                                "[SEP]": {{"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}}}}}"#,
        piece("Sequence", "A"),
        piece("Sequence", "B"),
    );
    let post = if closing { template } else { "null".to_owned() };
    // Its own truncation and padding are not followed: `sequence` is.
    format!(
        r#"{{"version": "1.0", "truncation": {{"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
            "padding": {{"strategy": {{"Fixed": 64}}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                         "pad_type_id": 0, "pad_token": "[PAD]"}},
            "added_tokens": [], "normalizer": null, "pre_tokenizer": {{"type": "WhitespaceSplit"}},
            "post_processor": {post}, "decoder": null,
            "model": {{"type": "WordLevel", "vocab": {{"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, {}}}, "unk_token": "[UNK]"}}}}"#,
        words.join(", ")
    )
}

/// A folder with a tokenizer and a text of these lines.
fn folder(closing: bool, text: &str) -> TempDir {
    let (folder, path) = file("text.txt", text.as_bytes());
    std::fs::write(path.with_file_name("tokenizer.json"), tokenizer(closing)).unwrap();
    folder
}

fn spec(name: &str, dims: &[&str]) -> InputSpec {
    InputSpec { name: name.to_owned(), dtype: "i32".to_owned(), dims: dims.iter().map(ToString::to_string).collect() }
}

fn specs() -> Vec<InputSpec> {
    ["input_ids", "attention_mask"].iter().map(|name| spec(name, &["n", "s"])).collect()
}

fn options(model: &Path, sequence: usize, samples: Option<usize>) -> DataOptions<'_> {
    DataOptions { tokenizer: None, model, sequence, samples, seed: 7, labels: None }
}

fn text_of(words: usize) -> String {
    let words: Vec<_> = (0..words).map(|i| format!("w{}{}", i % 50, if i % 9 == 8 { "\n" } else { " " })).collect();
    words.concat()
}

fn load(folder: &TempDir, options: &DataOptions<'_>, inputs: &[InputSpec]) -> Result<Labelled, RunError> {
    load_data(&folder.path().join("text.txt"), options, inputs)
}

fn rows(samples: &Samples, name: &str) -> Vec<Vec<i64>> {
    let (_, tensor) = samples.inputs.iter().find(|(known, _)| known == name).unwrap();
    let Tensor::I64(values) = tensor else { panic!("{name} holds no integers") };
    values.outer_iter().map(|row| row.iter().copied().collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn windows_are_pieces_of_the_text_in_its_order_each_once(words in 30_usize..300, sequence in 1_usize..9, seed: u64) {
        let folder = folder(false, &text_of(words));
        let samples = words / sequence / 2 + 1;
        prop_assume!(samples <= words / sequence);
        let options = DataOptions { seed, ..options(folder.path(), sequence, Some(samples)) };
        let read = load(&folder, &options, &specs()).unwrap().samples;
        let ids = rows(&read, "input_ids");
        prop_assert_eq!(ids.len(), samples);
        let all: Vec<Vec<i64>> = (0_i64..).take(words).map(|i| 10 + i % 50).collect::<Vec<_>>()
            .chunks_exact(sequence).map(<[i64]>::to_vec).collect();
        let mut rest = all.iter();
        prop_assert!(ids.iter().all(|window| rest.any(|known| known == window)), "a subsequence of all windows");
        prop_assert_eq!(rows(&read, "attention_mask"), vec![vec![1; sequence]; samples]);
        prop_assert_eq!(&read, &load(&folder, &options, &specs()).unwrap().samples);
    }
}

#[test]
fn another_seed_takes_other_windows() {
    let folder = folder(false, &text_of(500));
    let taken = |seed| {
        let options = DataOptions { seed, ..options(folder.path(), 7, Some(10)) };
        load(&folder, &options, &specs()).unwrap().samples
    };
    assert_ne!(taken(1), taken(2));
}

#[test]
fn evaluation_takes_the_first_windows() {
    let folder = folder(true, &text_of(50));
    let text = folder.path().join("text.txt");
    let windows = |limit| text_windows(&text, None, &folder.path().join("model.onnx"), 8, limit, &specs());
    let six: Vec<Vec<i64>> = (0..6).map(|i| (0..8).map(|j| 10 + 8 * i + j).collect()).collect();
    assert_eq!(rows(&windows(None).unwrap(), "input_ids"), six, "no special tokens, and the rest is dropped");
    assert_eq!(rows(&windows(Some(2)).unwrap(), "input_ids"), six[..2]);
    assert_eq!(rows(&windows(Some(99)).unwrap(), "input_ids"), six);
    let short = text_windows(&text, None, folder.path(), 51, None, &specs()).unwrap_err().to_string();
    assert!(short.ends_with("text.txt: its 50 tokens do not fill a window of 51"), "{short}");
}

#[test]
fn a_tokenizer_that_closes_texts_takes_them_line_by_line() {
    let folder = folder(true, "w0 w1\n\n  \nw2\nw3 w4 w5 w6 w7\n");
    let read = load(&folder, &options(folder.path(), 5, None), &specs()).unwrap().samples;
    assert_eq!(rows(&read, "input_ids"), [[1, 10, 11, 2, 3], [1, 12, 2, 3, 3], [1, 13, 14, 15, 2]]);
    assert_eq!(rows(&read, "attention_mask"), [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]);
    let problem = |inputs: &[InputSpec], sequence, samples| {
        load(&folder, &options(folder.path(), sequence, samples), inputs).unwrap_err().to_string()
    };
    assert!(problem(&specs()[..1], 5, None).contains("the model has no input attention_mask to tell padding"));
    assert!(problem(&specs(), 2, None).contains("it adds 2 tokens to every text"));
    assert!(problem(&specs(), 5, Some(4)).contains("as lines of text, it gives 3 samples, fewer than the 4 asked for"));
}

#[test]
fn the_length_that_a_model_fixes_is_kept() {
    let folder = folder(true, "w0 w1\nw2\n");
    let fixed = |length| ["input_ids", "attention_mask"].map(|name| spec(name, &["n", length]));
    let read = load(&folder, &options(folder.path(), 9, None), &fixed("6")).unwrap().samples;
    assert_eq!(rows(&read, "input_ids"), [[1, 10, 11, 2, 3, 3], [1, 12, 2, 3, 3, 3]]);
    let error = load(&folder, &options(folder.path(), 9, None), &fixed("3")).unwrap_err().to_string();
    assert!(error.starts_with("input input_ids of the model (i32, [n, 3]): samples of 4 tokens do not fit"), "{error}");
    let text = folder.path().join("text.txt");
    let error = text_windows(&text, None, folder.path(), 2, None, &fixed("3")).unwrap_err().to_string();
    assert!(error.contains("samples of 2 tokens do not fit: ask for sequences of 3"), "{error}");
}

#[test]
fn inputs_that_follow_from_others_are_filled_in() {
    let folder = folder(false, &text_of(12));
    let mut inputs = specs();
    inputs.extend(["position_ids", "token_type_ids"].map(|name| spec(name, &["n", "s"])));
    inputs.push(spec("use_cache_branch", &["1"]));
    inputs.push(spec("past_key_values.0.key", &["n", "3", "past", "64"]));
    let read = load(&folder, &options(folder.path(), 4, None), &inputs).unwrap().samples;
    assert_eq!(rows(&read, "position_ids"), [[0, 1, 2, 3]; 3]);
    assert_eq!(rows(&read, "token_type_ids"), [[0; 4]; 3]);
    let shape = |name: &str| read.inputs.iter().find(|(known, _)| known == name).unwrap().1.shape().to_vec();
    assert_eq!(shape("past_key_values.0.key"), [3, 3, 0, 64]);
    assert_eq!(shape("use_cache_branch"), [3]);

    let problem = |name: &str, dims: &[&str]| {
        let inputs = [specs(), vec![spec(name, dims)]].concat();
        load(&folder, &options(folder.path(), 4, None), &inputs).unwrap_err().to_string()
    };
    let pixels =
        "input pixel_values of the model (i32, [n, 3, 8]): it is not given; given are input_ids, attention_mask";
    assert_eq!(problem("pixel_values", &["n", "3", "8"]), pixels);
    assert!(problem("past_key_values.0", &["n", "heads", "past", "64"]).contains("cannot be told"));
    assert!(problem("past_key_values.0", &["2", "3", "past", "64"]).contains("first axis is not that of samples"));
}

#[test]
fn what_text_cannot_be_used_for_is_said_with_the_way_out() {
    let folder = folder(false, &text_of(12));
    let bare = tempfile::tempdir().unwrap();
    let problem =
        |options: &DataOptions<'_>, inputs: &[InputSpec]| load(&folder, options, inputs).unwrap_err().to_string();
    let lost = problem(&options(&bare.path().join("model.onnx"), 4, None), &specs());
    assert!(
        lost.contains("model.onnx: there is no tokenizer.json beside the model") && lost.contains("`tokenizer = PATH`")
    );
    let few = problem(&options(folder.path(), 4, Some(4)), &specs());
    assert!(few.contains("in windows of 4 tokens, it gives 3 samples, fewer than the 4 asked for"), "{few}");
    let other = problem(&options(folder.path(), 4, None), &[spec("image", &["n", "3"])]);
    assert!(other.contains("text needs a model with an input input_ids, this one has image"), "{other}");
    let labelled = DataOptions { labels: Some("y"), ..options(folder.path(), 4, None) };
    assert!(problem(&labelled, &specs()).contains("text has no labels"));
    let text = folder.path().join("text.txt");
    let broken = DataOptions { tokenizer: Some(&text), ..options(folder.path(), 4, None) };
    assert!(problem(&broken, &specs()).contains("text.txt: it is no tokenizer.json"));
    std::fs::write(&text, [0xff, 0xfe, 0]).unwrap();
    assert!(problem(&options(folder.path(), 4, None), &specs()).contains("neither text in UTF-8"));
}

/// A `.safetensors` file of these tensors.
fn tensors(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.to_string(), TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()
}

fn load_tensors(bytes: &[u8], samples: Option<usize>, labels: Option<&str>) -> Result<Labelled, RunError> {
    let (folder, path) = file("data.safetensors", bytes);
    let options = DataOptions { labels, ..options(folder.path(), 4, samples) };
    load_data(&path, &options, &[])
}

#[test]
fn safetensors_hold_samples_of_every_type() {
    let halves: Vec<u8> = [0x3c00_u16, 0xc000].iter().flat_map(|v| v.to_le_bytes()).collect(); // 1, -2
    let brains: Vec<u8> = [0x3f80_u16, 0xc000].iter().flat_map(|v| v.to_le_bytes()).collect(); // 1, -2
    let singles: Vec<u8> = [1.5_f32, -2.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    let longs: Vec<u8> = [1_i64 << 40, -3].iter().flat_map(|v| v.to_le_bytes()).collect();
    let ints: Vec<u8> = [7_i32, -7].iter().flat_map(|v| v.to_le_bytes()).collect();
    let file = tensors(&[
        ("f16", Dtype::F16, &[2], &halves),
        ("bf16", Dtype::BF16, &[2, 1], &brains),
        ("f32", Dtype::F32, &[2], &singles),
        ("i64", Dtype::I64, &[2], &longs),
        ("i32", Dtype::I32, &[2], &ints),
        ("u8", Dtype::U8, &[2], &[3, 255]),
        ("bool", Dtype::BOOL, &[2], &[0, 1]),
    ]);
    let read = load_tensors(&file, None, Some("i64")).unwrap();
    let expected = [
        ("bf16", Tensor::F32(array(&[2, 1], |i| [1.0, -2.0][i]))),
        ("bool", Tensor::U8(array(&[2], |i| [0, 1][i]))),
        ("f16", Tensor::F32(array(&[2], |i| [1.0, -2.0][i]))),
        ("f32", Tensor::F32(array(&[2], |i| [1.5, -2.5][i]))),
        ("i32", Tensor::I32(array(&[2], |i| [7, -7][i]))),
        ("u8", Tensor::U8(array(&[2], |i| [3, 255][i]))),
    ];
    assert_eq!(read.samples.inputs, expected.map(|(name, tensor)| (name.to_owned(), tensor)));
    assert_eq!(read.labels, Some(array(&[2], |i| [1 << 40, -3][i])));

    let one = load_tensors(&file, Some(1), Some("i64")).unwrap();
    assert_eq!((one.samples, one.labels), (read.samples.some(0, 1), Some(array(&[1], |_| 1 << 40))));
    let few = load_tensors(&file, Some(3), None).unwrap_err().to_string();
    assert!(few.contains("it gives 2 samples, fewer than the 3 asked for"), "{few}");
}

#[test]
fn bad_safetensors_are_refused() {
    let problem = |bytes: &[u8]| load_tensors(bytes, None, None).unwrap_err().to_string();
    assert!(problem(b"nothing of the kind").contains("it is no .safetensors file, or damaged"));
    assert!(problem(&tensors(&[])).contains("it holds no inputs"));
    assert!(problem(&tensors(&[("x", Dtype::BOOL, &[1], &[2])])).contains("x: a truth value is neither 0 nor 1"));
    assert!(
        problem(&tensors(&[("x", Dtype::F8_E4M3, &[1], &[2])])).contains("x: numbers of type F8_E4M3 are not read")
    );
    let deep = vec![1_usize; 1000];
    assert!(problem(&tensors(&[("x", Dtype::U8, &deep, &[2])])).contains("more than 64 dimensions"));
    let header = br#"{"x":{"dtype":"U8","shape":[18446744073709551615,0],"data_offsets":[0,0]}}"#;
    let endless = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    assert!(problem(&endless).contains("data.safetensors: "));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_safetensors_end_in_tensors_or_an_error(at in any::<prop::sample::Index>(), to: u8) {
        let mut bytes = tensors(&[("x", Dtype::U8, &[2, 2], &[1, 2, 3, 4]), ("y", Dtype::I32, &[2], &[0; 8])]);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = load_tensors(&bytes, None, None);
    }
}
