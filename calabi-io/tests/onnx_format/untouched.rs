//! A model in which nothing is replaced keeps its bytes, whatever is in it.

use calabi_api::{DType, LayerFormat};
use calabi_io::Onnx;
use proptest::prelude::*;
use prost::Message;

use crate::schema::{Annotation, Function, Graph, Model, Opset, Training};
use crate::support::{Case, FLOAT, counting, entries, node, raw, small, value};

/// A model with something of everything, and unknown fields at every level.
pub(crate) fn rich() -> Model {
    let mut model = small();
    model.unknown = "model".into();
    model.metadata = entries(&[("character", "a\nb\nc")]);
    model.opsets.push(Opset { domain: "own".into(), version: 1 });
    model.functions = vec![Function {
        name: "f".into(),
        domain: "own".into(),
        inputs: vec!["a".into()],
        outputs: vec!["b".into()],
        nodes: vec![node("Relu", &["a"], "b")],
    }];
    model.training = vec![Training { bindings: entries(&[("t", "u")]), algorithm: Some(Graph::default()) }];
    let graph = model.main();
    graph.unknown = "graph".into();
    graph.nodes[0].unknown = "node".into();
    graph.initializers[0].unknown = "tensor".into();
    graph.inputs[0].unknown = "value".into();
    graph.annotations = vec![Annotation { tensor: "y".into() }];
    graph.initializers.push(raw("half", DType::F16, &[2, 2], [1.0; 4]).typed());
    let body = Graph { initializers: vec![counting("inside", &[2, 2])], unknown: "body".into(), ..Default::default() };
    graph.nodes.push(node("If", &["y"], "z").graph("then_branch", body));
    graph.nodes.push(node("Constant", &[], "c").tensor("value", counting("", &[3, 3])));
    graph.values = vec![value("z", FLOAT, &[-1, 3])];
    model
}

fn rewritten(bytes: &[u8]) -> Vec<u8> {
    let case = Case::of_bytes(bytes);
    case.rewrite(&[]);
    std::fs::read(case.output()).unwrap()
}

#[test]
fn nothing_replaced_is_the_same_bytes() {
    let bytes = rich().encode_to_vec();
    assert!(rewritten(&bytes) == bytes);
}

#[test]
fn fields_in_another_order_and_longer_numbers_stay() {
    let original = rich();
    let graph = original.graph.as_ref().unwrap().encode_to_vec();
    // The graph first, its length in more bytes than it needs, then a group that no schema knows.
    let length = u64::try_from(graph.len()).unwrap();
    let mut bytes = vec![0x3a];
    bytes.extend((0..8).map(|i| 0x80 | (length >> (7 * i) & 0x7f) as u8));
    bytes.push(0);
    bytes.extend(graph);
    bytes.extend([0xa3, 0x06, 0x08, 0x01, 0xa4, 0x06]);
    bytes.extend(Model { graph: None, ..original }.encode_to_vec());
    assert!(rewritten(&bytes) == bytes);
}

#[test]
fn totals_count_tensors_wherever_they_are() {
    let case = Case::new(&rich());
    let totals = case.open().totals();
    assert_eq!(totals.cost.parameters, 12 + 4 + 4 + 9);
    assert_eq!(totals.cost.bytes, case.bytes().len() as u64);
    assert_eq!((totals.format, totals.files), ("onnx", vec![case.path.clone()]));
}

#[test]
fn models_are_detected_by_name_or_by_their_first_bytes() {
    let case = Case::new(&small());
    let detect = |name: &str, bytes: &[u8]| {
        let path = case.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Onnx::default().detect(&path)
    };
    assert!(detect("a.onnx", b"garbage"));
    assert!(detect("A.ONNX", b""));
    assert!(detect("model.bin", &case.bytes()));
    assert!(!detect("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      "));
    assert!(!detect("text.txt", b"plain text"));
    assert!(!Onnx::default().detect(case.folder.path()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_names_are_only_names(name in "[\\PC\\n\u{1b}]{1,40}") {
        let mut model = small();
        model.main().nodes[0].name.clone_from(&name);
        let bytes = model.encode_to_vec();
        let source = Case::of_bytes(&bytes).open();
        prop_assert_eq!(&source.layers()[0].name, &name);
        prop_assert!(rewritten(&bytes) == bytes);
    }
}
