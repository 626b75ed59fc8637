//! What the ONNX runtime gives, and what it refuses.

use crate::models::{BOOL, FLOAT, Graph, INT32, INT64, Message, UINT8, array, file, load, samples, single};
use calabi_api::{RunError, Runner, Runtime as _, Tensor};
use calabi_nn::OnnxRuntime;
use ndarray::{Array2, ArrayD, Axis, concatenate};
use proptest::prelude::*;

/// `y = x W` with a weight of 3 x 2, for a batch of `first` samples.
fn linear(first: &str) -> Graph {
    Graph::new()
        .input("x", FLOAT, &[first, "3"])
        .output("y", FLOAT, &[first, "2"])
        .weight("w", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .node("MatMul", &["x", "w"], "y")
}

fn times_weight(x: &ArrayD<f32>) -> ArrayD<f32> {
    let weight = Array2::from_shape_vec((3, 2), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    x.clone().into_dimensionality::<ndarray::Ix2>().unwrap().dot(&weight).into_dyn()
}

/// `y = x`, so that outputs show what the model was given.
fn identity(dtype: u64, dims: &[&str]) -> Box<dyn Runner> {
    Graph::new().input("x", dtype, dims).output("y", dtype, dims).node("Identity", &["x"], "y").load().unwrap()
}

fn refusal(runner: &mut dyn Runner, given: Tensor) -> String {
    let error = runner.outputs(&samples([("x", given)])).unwrap_err();
    assert!(matches!(error, RunError::Input { .. }), "{error:?}");
    error.to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_sample_has_its_output_whatever_the_batch(count in 1_usize..80, first in prop::sample::select(vec!["n", "1", "4", "7"])) {
        #[allow(clippy::cast_precision_loss)]
        let x = array(&[count, 3], |i| (i % 17) as f32 - 8.0);
        let output = single(linear(first).load().unwrap().outputs(&samples([("x", Tensor::F32(x.clone()))])));
        prop_assert_eq!(output.name.as_str(), "y");
        prop_assert_eq!(output.values, times_weight(&x)); // small integers: exact
    }
}

#[test]
fn outputs_come_in_the_models_order_and_inputs_by_name() {
    let mut runner = Graph::new()
        .input("a", FLOAT, &["n", "2"])
        .input("b", FLOAT, &["n", "2"])
        .output("larger", BOOL, &["n", "2"])
        .output("difference", FLOAT, &["n", "2"])
        .node("Sub", &["a", "b"], "difference")
        .node("Greater", &["a", "b"], "larger")
        .load()
        .unwrap();
    let given = samples([("b", Tensor::F32(array(&[5, 2], |_| 1.0))), ("a", Tensor::F32(array(&[5, 2], |_| 3.0)))]);
    let outputs = runner.outputs(&given).unwrap();
    let names: Vec<_> = outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["larger", "difference"]);
    assert_eq!(outputs[0].values, array(&[5, 2], |_| 1.0), "truth values come as 0 and 1");
    assert_eq!(outputs[1].values, array(&[5, 2], |_| 2.0));
}

#[test]
fn inputs_are_named_with_type_and_dimensions() {
    let specs = Graph::new()
        .input("ids", INT64, &["batch", "sequence"])
        .input("image", FLOAT, &["batch", "3", "8"])
        .output("y", FLOAT, &["batch", "3", "8"])
        .node("Identity", &["image"], "y")
        .load()
        .unwrap()
        .inputs();
    let shown: Vec<_> =
        specs.iter().map(|spec| (spec.name.as_str(), spec.dtype.as_str(), spec.dims.join(","))).collect();
    assert_eq!(shown, [("ids", "i32", "batch,sequence".to_owned()), ("image", "f32", "batch,3,8".to_owned())]);
}

#[test]
fn integers_become_what_the_model_wants_where_no_value_changes() {
    let dims = ["n"];
    let given = || Tensor::I64(array(&[4], |i| i64::try_from(i).unwrap() + 250));
    for dtype in [FLOAT, INT32, INT64] {
        let output = single(identity(dtype, &dims).outputs(&samples([("x", given())])));
        assert_eq!(output.values.as_slice().unwrap(), [250.0, 251.0, 252.0, 253.0]);
    }
    let bytes = Tensor::U8(array(&[3], |i| u8::try_from(i).unwrap()));
    for dtype in [FLOAT, INT32, UINT8] {
        let output = single(identity(dtype, &dims).outputs(&samples([("x", bytes.clone())])));
        assert_eq!(output.values.as_slice().unwrap(), [0.0, 1.0, 2.0]);
    }
    let far = |value| Tensor::I64(array(&[1], |_| value));
    assert_eq!(
        refusal(&mut *identity(INT64, &dims), far(1 << 31)),
        "input x of the model (i32, [n]): 2147483648 is out of its range"
    );
    assert!(refusal(&mut *identity(UINT8, &dims), far(256)).contains("256 is out of its range"));
    assert!(refusal(&mut *identity(FLOAT, &dims), far((1 << 24) + 1)).contains("does not hold exactly"));
    assert!(refusal(&mut *identity(INT32, &dims), Tensor::F32(array(&[1], |_| 1.0))).contains("give integers"));
}

#[test]
fn what_does_not_fit_is_refused_with_both_sides_named() {
    let mut runner = linear("n").load().unwrap();
    let given = |shape: &[usize]| Tensor::F32(array(shape, |_| 0.0));
    assert_eq!(refusal(&mut *runner, given(&[5, 4])), "input x of the model (f32, [n, 3]): given is shape [5, 4]");
    assert!(refusal(&mut *runner, given(&[5])).ends_with("given is shape [5]"));
    assert!(refusal(&mut *runner, given(&[])).ends_with("given is shape []"));
    assert!(refusal(&mut *runner, given(&[0, 3])).ends_with("given are no samples"));

    assert_eq!(problem(vec![]), "input x of the model (f32, [n, 3]): it is not given; given are no inputs at all");
    assert!(problem(vec![("x", given(&[1, 3])), ("x", given(&[1, 3]))]).ends_with("it is given twice"));
    let unknown = problem(vec![("x", given(&[1, 3])), ("label\u{1b}", given(&[1]))]);
    assert!(unknown.starts_with("input label\\u{1b} of the model (unknown, given as [1]): the model has no such input, it has x (f32, [n, 3])"), "{unknown}");
}

/// What a model that wants `x` says to these inputs.
fn problem(inputs: Vec<(&str, Tensor)>) -> String {
    let inputs = inputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    linear("n").load().unwrap().outputs(&calabi_api::Samples { inputs }).unwrap_err().to_string()
}

#[test]
fn inputs_with_different_numbers_of_samples_are_refused() {
    let mut runner = Graph::new()
        .input("a", FLOAT, &["n"])
        .input("b", FLOAT, &["n"])
        .output("y", FLOAT, &["n"])
        .node("Add", &["a", "b"], "y")
        .load()
        .unwrap();
    let given = samples([("a", Tensor::F32(array(&[2], |_| 0.0))), ("b", Tensor::F32(array(&[3], |_| 0.0)))]);
    let error = runner.outputs(&given).unwrap_err().to_string();
    assert_eq!(error, "input b of the model (f32, [n]): given are 3 samples, of the first input 2");
}

#[test]
fn inputs_that_are_no_samples_are_refused() {
    let add = |a: &[&str], b: &[&str]| {
        Graph::new().input("a", FLOAT, a).input("b", FLOAT, b).output("y", FLOAT, &["n"]).node("Add", &["a", "b"], "y")
    };
    let error = |graph: Graph, a: &[usize], b: &[usize]| {
        let given = samples([("a", Tensor::F32(array(a, |_| 0.0))), ("b", Tensor::F32(array(b, |_| 0.0)))]);
        graph.load().unwrap().outputs(&given).unwrap_err().to_string()
    };
    assert!(error(add(&["2"], &["3"]), &[6], &[6]).contains("another input wants 2 along the first axis"));
    assert!(error(add(&["n"], &["0"]), &[6], &[6]).contains("no room for samples"));
    assert!(error(add(&["n"], &[]), &[6], &[]).contains("given is shape []"));
}

#[test]
fn an_output_without_samples_along_its_first_axis_is_named() {
    let mut runner = Graph::new()
        .input("x", FLOAT, &["n", "3"])
        .output("turned", FLOAT, &["3", "n"])
        .node("Transpose", &["x"], "turned")
        .load()
        .unwrap();
    let error = runner.outputs(&samples([("x", Tensor::F32(array(&[5, 3], |_| 0.0)))])).unwrap_err().to_string();
    assert_eq!(
        error,
        "the model fails on these samples: output turned: its shape is [3, 5] for 5 samples, which have to lie along its first axis"
    );
}

#[test]
fn an_operator_that_fails_is_named() {
    let mut runner = Graph::new()
        .input("x", FLOAT, &["n", "k"])
        .output("y", FLOAT, &["n", "2"])
        .weight("w", &[3, 2], &[0.0; 6])
        .node("MatMul", &["x", "w"], "y")
        .load()
        .unwrap();
    let error = runner.outputs(&samples([("x", Tensor::F32(array(&[1, 4], |_| 0.0)))])).unwrap_err();
    assert!(matches!(&error, RunError::Failed(problem) if problem.contains("MatMul_node")), "{error}");
}

#[test]
fn an_unknown_operator_is_named() {
    let graph = Graph::new().input("x", FLOAT, &["n"]).output("y", FLOAT, &["n"]).node("Frobnicate", &["x"], "y");
    let error = graph.load().err().unwrap();
    assert!(matches!(&error, RunError::Load { problem, .. } if problem.contains("Frobnicate")), "{error}");
}

#[test]
fn damaged_models_are_refused_when_loaded() {
    let whole = linear("n").model();
    assert!(load(&whole).is_ok());
    for model in [&[][..], b"no model at all", &whole[..whole.len() - 1], &[0xff; 64]] {
        assert!(matches!(load(model), Err(RunError::Load { .. })), "{} bytes", model.len());
    }
    let missing = OnnxRuntime::default().load("no/such/model.onnx".as_ref()).err().unwrap().to_string();
    assert!(missing.starts_with("no/such/model.onnx: cannot be run:"), "{missing}");
}

#[test]
fn structure_that_would_harm_the_engine_is_refused_before_it_reads() {
    let refused = |model: &Message| load(model.as_ref()).err().unwrap().to_string();
    let nested = (0..200).fold(Message::new(), |graph, _| {
        let attribute = Message::new().bytes(1, "then_branch").message(6, &graph);
        Message::new().message(1, &Message::new().message(5, &attribute))
    });
    assert!(refused(&Message::new().message(7, &nested)).contains("graphs nested too deeply"));
    let nodes = (0..=1 << 20).fold(Message::new(), |graph, _| graph.bytes(1, ""));
    assert!(refused(&Message::new().message(7, &nodes)).contains("more than a million parts"));
    let weight = |tensor: Message| refused(&Message::new().message(7, &Message::new().message(5, &tensor)));
    assert!(weight(Message::new().bytes(4, [0; 7])).contains("end inside one at byte"));
    assert!(weight(Message::new().bytes(10, [0; 12])).contains("end inside one"));
    assert!(weight(Message::new().bytes(1, [1, 0x80])).contains("end inside one"));
    assert!(weight(Message::new().bytes(9, [0; 9]).int(0, 1)).contains("without a number"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_byte_ends_in_a_model_or_an_error(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut model = linear("n").model();
        let at = at.index(model.len());
        model[at] = to;
        if let Ok(mut runner) = load(&model) {
            let _ = runner.outputs(&samples([("x", Tensor::F32(array(&[2, 3], |_| 1.0)))]));
        }
    }

    #[test]
    fn no_bytes_are_a_panic(model in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = load(&model);
    }
}

#[test]
fn models_are_told_by_their_name() {
    let (folder, path) = file("model.ONNX", b"");
    let runtime = OnnxRuntime::default();
    assert!(runtime.detect(&path));
    assert!(!runtime.detect(folder.path()));
    assert!(!runtime.detect(&folder.path().join("other.onnx")), "there is none");
    assert!(!runtime.detect(&file("model.safetensors", b"").1));
}

#[test]
fn the_runtime_is_registered() {
    let plugin = calabi_api::registry::find::<dyn calabi_api::Runtime>("onnx").unwrap();
    assert!(plugin.origin().starts_with("calabi-nn "));
    assert!(plugin.missing().is_none());
}

#[test]
fn outputs_of_all_samples_are_those_of_their_parts() {
    let x = array(&[70, 3], |i| (i as f32 * 0.37).sin());
    let mut runner = linear("n").load().unwrap();
    let mut run = |x: ArrayD<f32>| single(runner.outputs(&samples([("x", Tensor::F32(x))]))).values;
    let (first, last) = x.view().split_at(Axis(0), 32);
    let parts = [run(first.to_owned()), run(last.to_owned())];
    let whole = run(x.clone());
    assert_eq!(whole, concatenate(Axis(0), &[parts[0].view(), parts[1].view()]).unwrap());
}
